"""Which tokens a span of characters covers, and where they stand once images have become many tokens."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Span", "expanded_positions", "supervised_tokens"]

Span = tuple[int, int]
"""Start and end, of characters in a text."""


def supervised_tokens(offsets: Sequence[Span], answers: Sequence[Span]) -> list[int]:
    """For each token the number of the answer it belongs to, or -1; a token that straddles an edge belongs.

    Args:
        offsets: (start, end) characters of every token, ascending; empty spans (special tokens that the
            tokenizer added by itself) belong to nothing.
        answers: disjoint ascending spans.

    >>> supervised_tokens([(0, 0), (0, 3), (3, 5), (5, 9), (9, 10)], [(4, 9)])
    [-1, -1, 0, 0, -1]
    """
    owners = [-1] * len(offsets)
    for number, (start, end) in enumerate(answers):
        for position, (left, right) in enumerate(offsets):
            if left < end and right > start and right > left:
                owners[position] = number
    return owners


def expanded_positions(
    plain: Sequence[int], expanded: Sequence[int], placeholders: frozenset[int]
) -> list[int]:
    """Where each token of `plain` stands in `expanded`, in which every image placeholder became many tokens.

    The segments between placeholders are the same in both. The first one stands at the start of `expanded`, the last
    one at its end, the others where they first occur after the one before. Placeholders get -1.

    Raises:
        ValueError: `expanded` is not `plain` with placeholders replaced.

    >>> expanded_positions([7, 0, 8, 9], [7, 0, 0, 0, 8, 9], frozenset([0]))
    [0, -1, 4, 5]
    """
    positions: list[int] = []
    cursor = 0
    rest = 0
    first = True
    while True:
        cut = next((n for n in range(rest, len(plain)) if plain[n] in placeholders), len(plain))
        segment = list(plain[rest:cut])
        rest = cut + 1
        last = cut == len(plain)
        if last and not first:
            start = len(expanded) - len(segment)
            fits = start >= cursor and list(expanded[start:]) == segment
        elif first:
            start = 0
            fits = list(expanded[: len(segment)]) == segment and (not last or len(expanded) == len(segment))
        else:
            start = _find(expanded, segment, cursor)
            fits = start >= 0
        if not fits:
            raise ValueError("the processor's tokens are not the chat template's tokens with images expanded")
        positions.extend(range(start, start + len(segment)))
        if last:
            return positions
        positions.append(-1)
        cursor = start + len(segment) + 1
        first = False


def _find(tokens: Sequence[int], segment: list[int], start: int) -> int:
    """The first position >= start at which `segment` occurs in `tokens`, or -1."""
    for position in range(start, len(tokens) - len(segment) + 1):
        if list(tokens[position : position + len(segment)]) == segment:
            return position
    return -1
