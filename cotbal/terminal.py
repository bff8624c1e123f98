"""Text that is safe to show (no character in it moves the cursor or turns a line around), and sizes in words."""

from __future__ import annotations

import unicodedata

__all__ = ["printable", "show_bytes"]

_KEPT = "\n\t"
_TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def printable(text: str) -> str:
    r"""A text whose control characters are written out as escapes; ends of lines and tabs stay.

    Written out are the characters of Unicode's category Cc (ESC among them), those that turn the direction of writing
    around, the separators of lines and paragraphs, and lone surrogates.

    >>> printable("a\x1b[2Jb \u202e c")
    'a\\x1b[2Jb \\u202e c'
    """
    return "".join(
        character.encode("unicode_escape").decode() if _is_control(character) else character
        for character in text
    )


def _is_control(character: str) -> bool:
    if character in _KEPT:
        return False
    return character in _TURNING or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def show_bytes(count: float) -> str:
    """Write a number of bytes as people say it.

    >>> show_bytes(1536), show_bytes(13.5 * 2**30)
    ('1.5 KiB', '13.5 GiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} TiB"
