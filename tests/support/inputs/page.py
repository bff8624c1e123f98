"""The page of the inputs: what a user sees of each."""

from __future__ import annotations

import itertools
import re
import tempfile
from pathlib import Path

from support.inputs.listing import INPUTS

INTRODUCTION = """\
# Malformed and unusual inputs

Look up what CoTBal says of inputs that are broken, hostile or only unlike the usual ones. Each is tried in the tests:
errors are CoTBal's own, and no input runs code of its own, hangs, or ends in a traceback. `...` stands for the folder
of the input.
"""
_LONGEST = 300


def page() -> str:
    """Try every input and write what was seen as Markdown."""
    lines = [INTRODUCTION, f"{len(INPUTS)} inputs; made by `python docs/make_inputs.py`."]
    for kind, listed in itertools.groupby(INPUTS.values(), key=lambda one: one.kind):
        lines += ["", f"## {kind[0].upper()}{kind[1:]}", "", "| input | CoTBal | what you see |", "|-|-|-|"]
        for one in listed:
            with tempfile.TemporaryDirectory() as folder:
                said, refused = one.see(Path(folder))
                said = said.replace(folder, "...")
            verb = "refuses" if refused else "reads"
            lines.append(f"| {cell(one.name)} | {verb} | {cell(said)} |")
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """A text as a cell of a table: one line, no marks of Markdown or HTML."""
    short = " ".join(text.split())
    short = short if len(short) <= _LONGEST else short[: _LONGEST - 3] + "..."
    short = "".join(character if character.isprintable() else "\ufffd" for character in short)
    return re.sub(r"([\\|<>*_`\[\]])", r"\\\1", short)
