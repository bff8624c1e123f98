"""Texts that are nearly well-formed: what a seed makes of a corpus."""

# ruff: noqa: E501
from __future__ import annotations

import random
from collections.abc import Callable, Sequence

__all__ = ["mutated"]

_ODD = [
    "\x00", "\ufeff", "\u2028", "\x85", "\r", "\r\n", "\t", "\x1b[2J", "é", "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
    "０", "١", "\u202e", "\x7f", '"', "'", "\\", "\\u12", "\\ud800", "{", "}", "[", "]", ",", ";", ":", "=", "<", ">",
    "-", "+", "null", "NaN", "-Infinity", "1e999", "-0", "0x", "1_000", "9" * 60, "1" * 5000, "0.1.2", "true", "no",
    "<image>", "<video>", "&a", "*a", "!!int", "!!float", "!!bool", "!!timestamp", "!!binary", "!!set", "!!omap",
    "!!python/object/apply:os.system", "<<:", "? ", "- ", "---", "...", "%YAML 9.9", "|", ">-", "@", "`", "#", " ",
]  # fmt: skip


def mutated(draw: random.Random, corpus: Sequence[str], words: Sequence[str]) -> str:
    """One text of the corpus after one to six edits."""
    text = draw.choice(corpus)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        text = draw.choice(_EDITS)(draw, text, corpus, words)[:6000]
    return text


def _place(draw: random.Random, text: str) -> tuple[int, int]:
    start = draw.randint(0, len(text))
    return start, min(len(text), start + draw.choice((0, 1, 1, 2, 5, 20)))


def _delete(draw: random.Random, text: str, corpus: Sequence[str], words: Sequence[str]) -> str:
    start, end = _place(draw, text)
    return text[:start] + text[end:]


def _insert(draw: random.Random, text: str, corpus: Sequence[str], words: Sequence[str]) -> str:
    start, end = _place(draw, text)
    return text[:start] + draw.choice(draw.choice((_ODD, words))) + text[end:]


def _repeat(draw: random.Random, text: str, corpus: Sequence[str], words: Sequence[str]) -> str:
    start, end = _place(draw, text)
    return text[:start] + text[start:end] * draw.choice((2, 3, 50)) + text[end:]


def _splice(draw: random.Random, text: str, corpus: Sequence[str], words: Sequence[str]) -> str:
    other = draw.choice(corpus)
    start, end = _place(draw, other)
    place = draw.randint(0, len(text))
    return text[:place] + other[start : max(end, draw.randint(0, len(other)))] + text[place:]


def _flip(draw: random.Random, text: str, corpus: Sequence[str], words: Sequence[str]) -> str:
    place = draw.randint(0, max(0, len(text) - 1))
    return text[:place] + chr(draw.choice((draw.randrange(128), draw.randrange(0x2100)))) + text[place + 1 :]


def _swap_word(draw: random.Random, text: str, corpus: Sequence[str], words: Sequence[str]) -> str:
    present = [word for word in words if word in text]
    return text.replace(draw.choice(present), draw.choice(draw.choice((_ODD, words))), 1) if present else text


def _nest(draw: random.Random, text: str, corpus: Sequence[str], words: Sequence[str]) -> str:
    start, end = _place(draw, text)
    before, after = draw.choice((("[", "]"), ('{"a":', "}"), ("- ", ""), ("(", ")")))
    depth = draw.choice((1, 2, 40, 1500))
    return text[:start] + before * depth + text[start:end] + after * depth + text[end:]


def _cut(draw: random.Random, text: str, corpus: Sequence[str], words: Sequence[str]) -> str:
    return text[: draw.randint(0, len(text))]


_EDITS: list[Callable[[random.Random, str, Sequence[str], Sequence[str]], str]] = [
    _delete, _insert, _insert, _repeat, _splice, _flip, _swap_word, _swap_word, _nest, _cut,
]  # fmt: skip
