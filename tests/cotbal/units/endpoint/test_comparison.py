"""Where two answers part, and how sure the model was there."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.models import seeing_llava

from cotbal import metrics
from cotbal.config.model import ModelConfig
from cotbal.data.records import Record, Turn
from cotbal.models.loading import load_model, load_processor
from cotbal.units.endpoint.comparison import Reference, parting, picture_pair, reference_answers, spread
from cotbal.units.evaluate import answer

RECORD = Record("0", "t", (), (Turn("user", "?"), Turn("assistant", "!")), ("!",), Path("v.json"), 0)
words = st.lists(st.text("abc ", min_size=1, max_size=4), min_size=1, max_size=6)


def reference(tokens: list[str], gaps: list[float]) -> Reference:
    """Of an answer that ends with a token that has no text."""
    ends = [sum(map(len, tokens[: n + 1])) for n in range(len(tokens))]
    return Reference(RECORD, "".join(tokens), (*ends, ends[-1]), tuple(gaps))


@given(words, st.data())
def test_the_gap_is_that_of_the_token_where_the_texts_part(tokens, data):
    at = data.draw(st.integers(0, len(tokens)), label="token")
    gaps = [float(10 * n) for n in range(len(tokens) + 1)]
    ours = reference(tokens, gaps)
    before = "".join(tokens[:at])
    other = before + "#" if data.draw(st.booleans(), label="goes on") else before
    found = parting(ours, other)
    if other == ours.text:
        assert found is None
    else:
        # Tokens may part up to two before their texts do.
        assert found == gaps[max(0, at - 2)]


def test_the_same_answer_does_not_part():
    assert parting(reference(["a", "b"], [1.0, 1.0, 1.0]), "ab") is None


@given(st.integers(1, 50), st.integers(1, 60))
def test_samples_are_spread(count, wanted):
    found = spread([RECORD] * count, wanted)
    assert len(found) == min(count, wanted)


@pytest.mark.slow
def test_references_are_what_scoring_in_process_answers(seeing, tmp_path):
    config = ModelConfig(name=str(seeing.model))
    model, processor = load_model(config), load_processor(config)
    records = seeing_llava.read_colours(seeing.records)
    found = reference_answers(model, processor, records, max_new_tokens=8, batch_size=2)
    scored = answer(
        model,
        processor,
        records,
        metric=metrics.get("exact_match"),
        batch_size=4,
        max_new_tokens=8,
        max_length=None,
        path=tmp_path / "a.jsonl",
    )
    assert [each.text for each in found] == scored
    for each in found:
        assert len(each.gaps) == len(each.ends) <= 8
        assert min(each.gaps) >= 0
        # Stripping takes what stands before the first letter.
        assert max(each.ends) >= len(each.text)
    pair = picture_pair(model, processor, records, found[0], max_new_tokens=8, batch_size=4)
    assert pair is not None
    assert pair.second.record.turns == found[0].record.turns
    assert pair.second.record.images != found[0].record.images
    assert pair.first.text.split()[0] != pair.second.text.split()[0]
