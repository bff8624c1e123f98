"""What a unit's command said, as its log has it: one part for each time it was started."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["exit_codes", "last_words"]

# More than any command says at its end; a log of days need not be read whole.
_TAIL_BYTES = 2**20
# As torchrun writes it: "exitcode  : -9 (pid: 1234)".
_EXIT_CODE = re.compile(r"\s*exitcode\s*: (-?\d+)\b")

_SIGNAL = re.compile(r"SignalException: Process \d+ got signal: (\d+)")


def last_words(log: Path, lines: int = 8) -> list[str]:
    """The error lines of the last attempt where there are any, else its last lines; nothing without a log."""
    said = _last_attempt(log)
    first_error = next((number for number, line in enumerate(said) if "error: " in line), None)
    return said[-lines:] if first_error is None else said[first_error : first_error + lines]


def exit_codes(log: Path) -> list[int]:
    """With what the processes of the last attempt ended, by torchrun's word: first the one that failed first.

    Of a torchrun that was asked to stop itself, only minus the signal's number. Empty where torchrun has
    told nothing.
    """
    said = _last_attempt(log)
    asked = next((found for line in reversed(said) if (found := _SIGNAL.search(line))), None)
    if asked is not None:
        return [-int(asked.group(1))]
    causes = [number for number, line in enumerate(said) if line.startswith("Root Cause")]
    starts = [number for number, line in enumerate(said) if line.startswith("Failures:")]
    if not (causes and starts):
        return []
    ordered = [*said[causes[-1] :], *said[starts[-1] : causes[-1]]]
    return [int(found.group(1)) for line in ordered if (found := _EXIT_CODE.match(line))]


def _last_attempt(log: Path) -> list[str]:
    """What was said since the command was last started, without blank lines."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            text = stream.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    said = [line.rstrip() for line in text.splitlines() if line.strip()]
    # Each attempt begins with its command.
    begun = [number for number, line in enumerate(said) if line.startswith("$ ")]
    return said[begun[-1] :] if begun else said
