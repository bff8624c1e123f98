"""Count torch's own samples and write docs/torch-samples.md.

From the root, with the development environment: `python docs/make_torch_samples.py`, or `make docs`.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.pages.torch_samples_page import page  # noqa: E402

PAGE = ROOT / "docs" / "torch-samples.md"

if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE}")
