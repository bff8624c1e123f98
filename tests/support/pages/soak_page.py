"""Turn the junit file of `make soak` into docs/soak.md.

python tests/support/pages/soak_page.py JUNIT PAGE
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
INTRODUCTION = """\
# The long tests

`make soak` runs what is too long for every change: the sanitizers over ten thousand calls of the native path, the
native vector functions at every 32-bit float, and the whole contract of the loss under Triton's interpreter. It
writes this page.
"""


def page(junit: Path, provenance: str) -> str:
    """The page: one line a test, with its outcome and seconds.

    Raises:
        ValueError: no test ran.
    """
    cases = list(ElementTree.parse(junit).getroot().iter("testcase"))
    if not cases:
        raise ValueError(f"{junit}: no test ran")
    lines = [INTRODUCTION, provenance, "", "| test | outcome | seconds |", "|---|---|---|"]
    for case in cases:
        tags = {child.tag for child in case}
        outcome = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
        room = case.get("classname", "").removeprefix("tests.")
        lines.append(f"| `{room}`: `{case.get('name')}` | {outcome} | {float(case.get('time', 0)):,.0f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    import torch

    from benchmarks.machine import describe

    machine = describe(torch.device("cpu"))
    told = (
        f"The last run was at commit `{machine['commit'][:12]}` on {machine['cpu']}, {machine['threads']} threads, "
        f"with Python {machine['versions']['python']} and torch {machine['versions']['torch']}."
    )
    Path(sys.argv[2]).write_text(page(Path(sys.argv[1]), told))
