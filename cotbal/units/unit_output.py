"""What a unit's command said, as its log has it: one part for each time it was started."""

from __future__ import annotations

from pathlib import Path

__all__ = ["last_words"]

# More than any command says at its end; a log of days need not be read whole.
_TAIL_BYTES = 2**20


def last_words(log: Path, lines: int = 8) -> list[str]:
    """The error lines of the last attempt where there are any, else its last lines; nothing without a log."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            text = stream.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    said = [line.rstrip() for line in text.splitlines() if line.strip()]
    # Each attempt begins with its command.
    begun = [number for number, line in enumerate(said) if line.startswith("$ ")]
    said = said[begun[-1] :] if begun else said
    first_error = next((number for number, line in enumerate(said) if "error: " in line), None)
    return said[-lines:] if first_error is None else said[first_error : first_error + lines]
