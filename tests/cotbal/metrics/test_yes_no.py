"""Yes/no accuracy, and POPE's figures against scikit-learn."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from cotbal.metrics.yes_no import summarise, yes_no


@pytest.mark.parametrize(
    ("prediction", "said"),
    [
        ("yes", "yes"),
        ("Yes.", "yes"),
        ("Yes, there is a dog in the image.", "yes"),
        ("no", "no"),
        ("No, there is none", "no"),
        ("There is not a dog", "no"),
        ("Yes. No dog is hidden.", "yes"),
        ("  NO!", "no"),
        ("A. Yes", "yes"),
        ("(B) No", "no"),
        ("1. Yes", "yes"),
        ("2) no.", "no"),
        ("A. There isn't one", "no"),
        ("Yes\nNo other dog is there", "yes"),
        ("No\nyes", "no"),
        ("\n\nYes", "yes"),
        ("There isn't one", "no"),
        ("There isn’t one", "no"),
        ("It can't be seen.", "no"),
        ("I cannot see it", "no"),
        ("Yes, there is no doubt", "yes"),
        ("Answer: Yes", "yes"),
        ("**No**, nothing.", "no"),
        ("The answer is yes", "yes"),
        ("A dog runs in a park. Yes, there is a dog.", "yes"),
        ("A dog runs in a park. It is not on a leash.", None),
        ("Nope.", "no"),
        ("Yeah!", "yes"),
        ("A.", None),
        ("I know a dog", None),
        ("a dog", None),
        ("", None),
        ("yesterday", None),
    ],
)
def test_what_an_answer_says(prediction: str, said: str | None) -> None:
    assert yes_no([prediction] * 2, [["yes"], ["no"]]) == [float(said == "yes"), float(said == "no")]


def _first_sentence_as_pope_reads_it(text: str) -> str:
    """POPE's rule, from its description: text before the first full stop, commas dropped, then words."""
    found = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(found) else "yes"


@given(
    st.sampled_from(["Yes", "No", "yes", "no", "There is", "There is not", "It is not so"]),
    st.lists(st.sampled_from(["a", "dog", "here", "tree"]), max_size=4),
    st.sampled_from(["", ".", ", it is.", ". Then a cat."]),
)
def test_it_agrees_with_pope_where_an_answer_says_one_of_the_two(
    start: str, rest: list[str], end: str
) -> None:
    text = " ".join([start, *rest]) + end
    said = _first_sentence_as_pope_reads_it(text)
    expected = [0.0, 0.0] if start == "There is" else [float(said == "yes"), float(said == "no")]
    assert yes_no([text] * 2, [["yes"], ["no"]]) == expected


@settings(max_examples=50)  # scikit-learn takes most of the time.
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_figures_are_those_of_scikit_learn(pairs: list[tuple[bool, bool]]) -> None:
    found, wanted = zip(*pairs, strict=True)
    texts = ["Yes, it is" if yes else "No" for yes in found]
    summary = summarise(texts, [["yes"] if yes else ["no"] for yes in wanted])
    assert summary.accuracy == pytest.approx(accuracy_score(wanted, found))
    assert summary.precision == pytest.approx(precision_score(wanted, found, zero_division=0))
    assert summary.recall == pytest.approx(recall_score(wanted, found, zero_division=0))
    assert summary.f1 == pytest.approx(f1_score(wanted, found, zero_division=0))
    assert summary.yes_ratio == sum(found) / len(found)
    assert summary.neither_ratio == 0


def test_answers_that_say_nothing_are_wrong_and_counted() -> None:
    summary = summarise(["a dog", "yes", "no"], [["yes"], ["yes"], ["no"]])
    assert summary.neither_ratio == pytest.approx(1 / 3)
    assert summary.accuracy == pytest.approx(2 / 3)
    assert summary.recall == 0.5


@pytest.mark.parametrize("references", [["maybe"], ["yes", "no"], [""], ["是"], ["oui"]])
def test_a_reference_must_say_one_of_the_two(references: list[str]) -> None:
    with pytest.raises(ValueError, match=r"references\[0\] is"):
        yes_no(["yes"], [references])


def test_an_empty_set_has_no_summary() -> None:
    with pytest.raises(ValueError, match="no samples"):
        summarise([], [])
