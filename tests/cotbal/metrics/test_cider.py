"""CIDEr-D against pycocoevalcap, which shares no code with it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocoevalcap.cider.cider import Cider

from cotbal.metrics.cider import cider, cider_of_characters

CAPTIONS = st.lists(st.sampled_from(["a", "red", "dog", "runs", "left", "of", "two"]), max_size=9).map(
    " ".join
)
SAMPLES = st.lists(
    st.tuples(CAPTIONS, st.lists(CAPTIONS, min_size=1, max_size=3)), min_size=1, max_size=6
).filter(
    lambda samples: any(any(references) for _, references in samples)
)  # The other refuses a set without words.


def _published(predictions: list[str], references: list[list[str]]) -> np.ndarray:
    wanted = dict(enumerate(references))
    found = {index: [prediction] for index, prediction in enumerate(predictions)}
    return np.array(Cider().compute_score(wanted, found)[1])


@given(SAMPLES)
def test_it_is_pycocoevalcap_s_cider_on_the_same_words(samples: list[tuple[str, list[str]]]) -> None:
    predictions, references = [list(part) for part in zip(*samples, strict=True)]
    np.testing.assert_allclose(
        cider(predictions, references), _published(predictions, references), rtol=1e-12, atol=1e-12
    )


def test_case_and_punctuation_do_not_count() -> None:
    references = [["A man, riding a horse!"], ["Two dogs - playing."]]
    plain = cider(["a man riding a horse", "two dogs"], [["a man riding a horse"], ["two dogs playing"]])
    assert cider(["A man riding; a HORSE.", "Two dogs?"], references) == plain


def test_apostrophes_and_hyphens_inside_words_do() -> None:
    apart, together = cider(["the dog s t-shirt", "x"], [["the dog's t shirt"], ["y"]])[0], 10.0
    assert apart < together
    assert cider(["the dog's t-shirt is red", "x"], [["The dog's T-shirt is red."], ["y"]])[
        0
    ] == pytest.approx(10)


def test_a_perfect_caption_of_four_words_scores_ten() -> None:
    assert cider(["a b c d", "e f g h"], [["a b c d"], ["e f g h"]]) == pytest.approx([10.0, 10.0])


def test_document_frequencies_come_from_the_references_of_the_call() -> None:
    alone = cider(["a red dog runs"], [["a red dog runs"]])
    assert alone == [0.0]
    common = cider(["a red dog", ""], [["a red dog runs"], ["a red dog sleeps"]])
    rare = cider(["a red dog", ""], [["a red dog runs"], ["two cats"]])
    assert common[0] == 0 < rare[0]


HAN = st.lists(st.text(alphabet="一只狗在草地上跑", max_size=7), min_size=1, max_size=3)


@given(st.lists(st.tuples(st.text(alphabet="一只狗在草地上跑", max_size=7), HAN), min_size=1, max_size=5))
def test_in_chinese_every_character_is_a_word(samples: list[tuple[str, list[str]]]) -> None:
    predictions, references = [list(part) for part in zip(*samples, strict=True)]
    if not any(any(accepted) for accepted in references):
        return
    found = [" ".join(prediction) for prediction in predictions]
    wanted = [[" ".join(reference) for reference in accepted] for accepted in references]
    expected = _published(found, wanted)
    np.testing.assert_allclose(cider(predictions, references), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(cider_of_characters(predictions, references), expected, rtol=1e-12, atol=1e-12)


def test_a_nearly_right_chinese_caption_scores() -> None:
    right, wrong = cider(
        ["一只狗在草地上跑步", "一只狗在草地上跑步"], [["一只狗在草地上跑"], ["两个女人坐着"]]
    )
    assert right > 5 > 0.5 > wrong
