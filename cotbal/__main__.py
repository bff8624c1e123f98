"""`python -m cotbal` is the command `cotbal`."""

import sys

from cotbal.cli import main

sys.exit(main())
