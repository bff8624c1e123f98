"""Metrics by name, and what every metric is held to."""

import sys
import time
import types
from collections.abc import Iterator

import pytest

from cotbal import metrics

GENERATION = [name for name in metrics.names() if metrics.get(name).kind == "generation"]
ANSWERS = {"iou": "[0, 0, 1, 1]", "yes_no": "yes"}


def _answer(name: str) -> str:
    return next((answer for start, answer in ANSWERS.items() if name.startswith(start)), "two dogs run")


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    made = types.ModuleType("users_own_metrics")
    sys.modules[made.__name__] = made
    yield made
    del sys.modules[made.__name__]


def test_the_promised_names_are_there() -> None:
    promised = {
        "exact_match",
        "vqa_accuracy",
        "anls",
        "relaxed_accuracy",
        "cider",
        "iou",
        "iou@0.5",
        "yes_no",
        "loss",
    }
    assert promised <= set(metrics.names())
    for name in metrics.names():
        assert metrics.get(name).name == name


@pytest.mark.parametrize("name", GENERATION)
def test_a_right_answer_scores_more_than_a_wrong_one(name: str) -> None:
    metric = metrics.get(name)
    answer = _answer(name)
    assert metric.higher_is_better
    right, wrong = metric.score([answer, "nonsense here"], [[answer], [answer]])
    assert wrong == 0.0
    # CIDEr needs a phrase that not every sample's references have.
    right = metric.score([answer, "x"], [[answer], ["another one"]])[0] if name.startswith("cider") else right
    assert right > 0.9


@pytest.mark.parametrize("name", GENERATION)
def test_scores_come_one_per_sample_and_empty_sets_are_empty(name: str) -> None:
    metric = metrics.get(name)
    answer = _answer(name)
    assert len(metric.score([answer] * 3, [[answer]] * 3)) == 3
    assert metric.score([], []) == []
    assert len(metric.score([""], [[answer]])) == 1


@pytest.mark.parametrize("name", [name for name in GENERATION if not metrics.get(name).whole_set])
def test_scores_of_a_sample_do_not_depend_on_the_others(name: str) -> None:
    metric = metrics.get(name)
    answer = _answer(name)
    assert metric.score(["x", answer], [[answer]] * 2) == [
        *metric.score(["x"], [[answer]]),
        *metric.score([answer], [[answer]]),
    ]


@pytest.mark.parametrize("name", GENERATION)
@pytest.mark.parametrize(
    ("predictions", "references", "error", "message"),
    [
        (["a"], [], ValueError, "1 predictions for 0 samples"),
        (["a"], [[]], ValueError, r"references\[0\] is empty"),
        (["a"], ["yes"], TypeError, r"references\[0\] is 'yes'; a list of strings"),
        (["a"], [[1]], TypeError, r"references\[0\] is \[1\]"),
        ([1], [["a"]], TypeError, r"predictions\[0\] is int"),
    ],
)
def test_bad_input_is_named(
    name: str, predictions: list, references: list, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        metrics.get(name).score(predictions, references)


LONG = 100_000
LONG_ANSWERS = {
    "one word": "x" * LONG,
    "words": "a red dog runs " * (LONG // 15),
    "digits": "1" * LONG,
    "open bracket and digits": "[" + "1" * LONG,
    "numbers": "1, " * (LONG // 3),
    "numbers and blanks": ("1" + " " * 49) * (LONG // 50),
    "brackets": "[" * LONG,
    "almost boxes": "[1, 2, 3, " * (LONG // 10),
    "five numbers": "[1,2,3,4,5]" * (LONG // 11),
    "pairs": "(1,2)" * (LONG // 5),
    "almost location tokens": "<loc0001><loc_1>" * (LONG // 16),
    "bbox_2d": '"bbox_2d": [' * (LONG // 12),
    "blanks": " " * LONG,
    "signs": "-" * LONG,
    "exponents": "1e" * (LONG // 2),
    "full stops": "." * LONG,
    "commas in numbers": "1,000," * (LONG // 6),
    "percent": "1" * (LONG - 1) + "%",
    "apostrophes": "a'" * (LONG // 2),
    "accents": "e" + "\u0301" * LONG,
    "Chinese": "狗" * LONG,
    "an edit away": "ab" * 10_000,
}


@pytest.mark.parametrize("name", GENERATION)
@pytest.mark.parametrize("text", LONG_ANSWERS.values(), ids=LONG_ANSWERS)
def test_a_long_answer_takes_less_than_a_second(name: str, text: str) -> None:
    metric = metrics.get(name)
    # The longest reference that ANLS takes, half of it wrong: the worst case of its edit distance.
    reference = _answer(name) if name != "anls" else "ac" * 10_000
    started = time.process_time()
    metric.score([text], [[reference]])
    assert time.process_time() - started < 1


@pytest.mark.parametrize("name", [name for name in GENERATION if metrics.get(name).full_marks is not None])
def test_a_reference_gets_full_marks(name: str) -> None:
    metric = metrics.get(name)
    assert metric.unjudged([[_answer(name)], [_answer(name)] * 2]) == []
    assert metric.score([_answer(name)], [[_answer(name)]]) == [metric.full_marks]


@pytest.mark.parametrize(
    ("name", "references", "index", "reason"),
    [
        ("iou@0.5", [["dog"], ["[0, 0, 1, 1]"]], 0, "has no proper xyxy box: 'dog'"),
        ("iou-xywh", [["[9, 9, -1, 1]"]], 0, "has no proper xywh box"),
        ("yes_no", [["yes"], ["是"]], 1, "yes_no reads an English 'yes' or 'no'"),
        ("vqa_accuracy", [["a"], ["a", "b"]], 1, "has 2 answers, with which vqa_accuracy cannot reach 1"),
        ("anls", [["x" * 20_001]], 0, "has 20001 characters"),
        ("cider", [["a dog"], ["a dog", "?"], ["!"]], 2, "the reference '!' given as the answer scores 0"),
        (
            "cider",
            [["a dog"]],
            0,
            "the reference 'a dog' given as the answer scores 0; more than 0 is needed",
        ),
    ],
)
def test_what_a_metric_cannot_judge_is_named(
    name: str, references: list[list[str]], index: int, reason: str
) -> None:
    found = metrics.get(name).unjudged(references)
    assert [place for place, _ in found] == [index]
    assert reason in found[0][1]


def test_a_metric_that_falls_short_on_its_own_reference_is_found() -> None:
    half = metrics.Metric("half", True, "generation", lambda found, _: [0.5] * len(found), full_marks=1.0)
    assert half.unjudged([["x"]]) == [(0, "the reference 'x' given as the answer scores 0.5; 1 is needed")]


def test_loss_is_lower_is_better_and_scores_no_text() -> None:
    loss = metrics.get("loss")
    assert (loss.kind, loss.higher_is_better) == ("loss", False)
    with pytest.raises(TypeError, match="does not score generated text"):
        loss.score(["a"], [["a"]])


@pytest.mark.parametrize("name", ["bleu", "iou@1.5", "iou@0", "iou@0.0", "iou@", "", "IOU"])
def test_an_unknown_name_is_answered_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match=r"there is no metric .* exact_match"):
        metrics.get(name)


def test_a_user_s_own_function(module: types.ModuleType) -> None:
    def shorter(predictions, references):  # type: ignore[no-untyped-def]
        return [len(text) for text in predictions]

    shorter.higher_is_better = False  # type: ignore[attr-defined]
    module.shorter = shorter  # type: ignore[attr-defined]
    metric = metrics.get("users_own_metrics:shorter")
    assert (metric.kind, metric.higher_is_better) == ("generation", False)
    assert metric.score(["ab", ""], [["x"], ["x"]]) == [2.0, 0.0]


def test_a_user_s_own_function_is_taken_for_higher_is_better_unless_it_says_otherwise(
    module: types.ModuleType,
) -> None:
    module.ones = lambda predictions, references: [1] * len(predictions)  # type: ignore[attr-defined]
    assert metrics.get("users_own_metrics:ones").higher_is_better


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda predictions, references: [1.0], "gave 1 scores for 2 samples"),
        (lambda predictions, references: [1.0, float("nan")], "gave nan for sample 1"),
    ],
)
def test_a_user_s_function_must_score_every_sample(
    module: types.ModuleType, given: object, message: str
) -> None:
    module.given = given  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=message):
        metrics.get("users_own_metrics:given").score(["a", "b"], [["a"], ["b"]])


def test_what_cannot_be_found_or_called_is_named(module: types.ModuleType) -> None:
    module.number = 3  # type: ignore[attr-defined]
    module.odd = types.SimpleNamespace(__call__=None)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"'no_such_module' cannot be imported .* PYTHONPATH"):
        metrics.get("no_such_module:score")
    with pytest.raises(ValueError, match="has no function 'missing'"):
        metrics.get("users_own_metrics:missing")
    with pytest.raises(ValueError, match="has no function ''"):
        metrics.get("users_own_metrics:")
    with pytest.raises(TypeError, match="is int; a function is needed"):
        metrics.get("users_own_metrics:number")
    module.unsure = lambda predictions, references: []  # type: ignore[attr-defined]
    module.unsure.higher_is_better = "yes"
    with pytest.raises(TypeError, match="higher_is_better is 'yes'"):
        metrics.get("users_own_metrics:unsure")
