"""The long proofs: `python -m tests.soak PROOF...` from the root; writes tests/soak/results and docs/trust.md."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Before torch is imported: children are forked, and a fork after a parallel region would hang.
for name, value in {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "MPLBACKEND": "Agg",
    "COLUMNS": "400",
}.items():
    os.environ.setdefault(name, value)
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from soak.proofs import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
