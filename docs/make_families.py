"""Try every family of models and write docs/families.md.

`make docs` does so (half a minute), with the packages that some processors need and CoTBal does not. By itself, from
the root with the development environment after `make test-torchvision`:
`PYTHONPATH=.venv/torchvision python docs/make_families.py`.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.families.torchvision_operators import usable  # noqa: E402

if not usable(("torchvision", "num2words")):
    sys.exit(
        "docs/families.md is made with torchvision and num2words: `make docs`, or see the top of this file"
    )

import transformers  # noqa: E402
from support.families.page import page, refusals, rows  # noqa: E402

PAGE = ROOT / "docs" / "families.md"

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    found = rows()
    PAGE.write_text(page(found, refusals()))
    failed = [row.family.name for row in found if not row.passed]
    print(f"{len(found)} families, {len(failed)} beyond what is accepted {failed or ''}; wrote {PAGE}")
    sys.exit(bool(failed))
