"""Where tokens stand: in a span of characters, and behind pictures that became many tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotbal.data.token_spans import expanded_positions, supervised_tokens


@given(
    st.lists(st.lists(st.integers(2, 6), max_size=6), min_size=1, max_size=4),
    st.data(),
)
def test_positions_after_expansion(segments: list[list[int]], data: st.DataObject) -> None:
    placeholder = 0
    plain: list[int] = list(segments[0])
    expanded: list[int] = list(segments[0])
    for segment in segments[1:]:
        plain += [placeholder, *segment]
        expanded += [placeholder] * data.draw(st.integers(1, 5)) + segment
    positions = expanded_positions(plain, expanded, frozenset([placeholder]))
    assert [token for token, place in zip(plain, positions, strict=True) if place < 0] == [0] * (
        len(segments) - 1
    )
    assert all(expanded[place] == token for token, place in zip(plain, positions, strict=True) if place >= 0)
    kept = [place for place in positions if place >= 0]
    assert kept == sorted(set(kept))


def test_other_changes_than_expansion_are_refused() -> None:
    with pytest.raises(ValueError, match="images expanded"):
        expanded_positions([7, 0, 8], [7, 0, 0, 9], frozenset([0]))
    with pytest.raises(ValueError, match="images expanded"):
        expanded_positions([7, 8], [7, 8, 9], frozenset([0]))


def test_straddling_tokens_belong_to_the_answer() -> None:
    assert supervised_tokens([(0, 4), (4, 8), (8, 9)], [(5, 8)]) == [-1, 0, -1]
