"""Try every malformed and unusual input of the tests and write docs/inputs.md.

From the root, with the development environment: `python docs/make_inputs.py`, or `make docs` (half a minute).
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

import transformers

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.inputs.page import page  # noqa: E402

PAGE = ROOT / "docs" / "inputs.md"

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    PAGE.write_text(page())
    print(f"wrote {PAGE}")
