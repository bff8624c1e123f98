"""VQA accuracy against the definition, one annotator left out at a time, and published rules of normalisation."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotbal.metrics.vqa_accuracy import normalised, vqa_accuracy


def _by_definition(prediction: str, answers: list[str]) -> float:
    scores = []
    for left_out in range(len(answers)):
        others = [answer for index, answer in enumerate(answers) if index != left_out]
        scores.append(min(sum(other == prediction for other in others) / 3, 1))
    return sum(scores) / len(scores)


@given(
    st.sampled_from(["red", "blue"]),
    st.lists(st.sampled_from(["red", "blue", "green"]), min_size=4, max_size=12),
)
def test_the_mean_over_subsets_of_annotators(prediction: str, answers: list[str]) -> None:
    (score,) = vqa_accuracy([prediction], [answers])
    assert score == pytest.approx(_by_definition(prediction, answers), rel=1e-12)


@pytest.mark.parametrize(("matches", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_the_published_values_for_ten_annotators(matches: int, score: float) -> None:
    answers = ["cat"] * matches + ["dog"] * (10 - matches)
    assert vqa_accuracy(["cat"], [answers]) == [pytest.approx(score)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Two Dogs.", "2 dogs"),
        ("a dog", "dog"),
        ("the THE an dog", "dog"),
        ("none", "0"),
        ("ten", "10"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("oclock", "o'clock"),
        ("twas", "'twas"),
        ("100,978", "100978"),
        ("stop-sign", "stop sign"),
        ("yes!", "yes"),
        ("black/white", "black white"),
        ("it is red, and blue", "it is red and blue"),
        ("line\nbreak\there", "line break here"),
        ("U.S.A.", "usa"),
        ("{braces}", "braces"),
    ],
)
def test_what_normalisation_makes_equal(first: str, second: str) -> None:
    assert normalised(first) == normalised(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2.5", "25"),
        ("2:50", "250"),
        ("girl's", "girls"),
        ("shed", "she'd"),
        ("its", "it's"),
        ("twenty", "20"),
        ("another", "other"),
        ("were", "we're"),
    ],
)
def test_what_normalisation_keeps_apart(first: str, second: str) -> None:
    assert normalised(first) != normalised(second)


def _official(text: str) -> str:
    """The normalisation of visualqa.org/evaluation, letter by letter, for the contractions below."""
    text = text.replace("\n", " ").replace("\t", " ").strip()
    cleaned = ""
    for letter in text:
        if letter not in ';/[]"{}()=+\\_-><@`,?!':
            cleaned += letter
        elif not (f"{letter} " in text or f" {letter}" in text or re.search(r"[0-9],[0-9]", text)):
            cleaned += " "
    followers = [*cleaned[1:], " "][: len(cleaned)]
    cleaned = "".join(
        letter for letter, after in zip(cleaned, followers, strict=True) if letter != "." or after.isdigit()
    )
    numbers = {"none": "0", "zero": "0", "one": "1", "three": "3", "ten": "10"}
    contractions = {
        "dont": "don't",
        "couldnt've": "couldn't've",
        "yall": "y'all",
        "twas": "'twas",
        "hes": "he's",
    }
    words = [numbers.get(word, word) for word in cleaned.lower().split()]
    return " ".join(contractions.get(word, word) for word in words if word not in ("a", "an", "the"))


PIECES = [
    "The",
    "an",
    "None",
    "ten",
    "dogs",
    "dont",
    "couldnt've",
    "yall",
    "Twas",
    "hes",
    "it's",
    "1,000",
    "2.5",
]
BETWEEN = st.sampled_from([" ", " ", ", ", ",", "-", ". ", ".", "/", " (", ") ", "!", "\n", " - ", "?? "])


@given(st.lists(st.tuples(st.sampled_from(PIECES), BETWEEN), max_size=6))
def test_normalisation_is_the_official_one(pieces: list[tuple[str, str]]) -> None:
    text = "".join(piece + between for piece, between in pieces)
    assert normalised(text) == _official(text)


WORDS = ["two", "the", "a", "dog", "Red", "dont", "didn't", "10", "none"]


@given(st.lists(st.sampled_from(WORDS), max_size=6))
def test_normalisation_of_plain_words_is_idempotent_and_keeps_no_article(words: list[str]) -> None:
    once = normalised(" ".join(words))
    assert normalised(once) == once
    assert not {"the", "a", "two", "none", "dont"} & set(once.split())


def test_a_single_answer_is_compared_exactly() -> None:
    assert vqa_accuracy(["Two", "three"], [["2"], ["2"]]) == [1.0, 0.0]


@pytest.mark.parametrize("count", [2, 3])
def test_too_few_annotators_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"references\[1\] has {count} answers"):
        vqa_accuracy(["a", "a"], [["b"], ["b"] * count])
