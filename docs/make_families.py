"""Try every family of models and write docs/families.md.

From the root, with the development environment: `python docs/make_families.py`, or `make docs` (half a minute).
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import transformers

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

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
