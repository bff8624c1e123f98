"""Metrics by name, and what every metric is held to."""

import sys
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
    right = metric.score([answer, "x"], [[answer], ["another one"]])[0] if name == "cider" else right
    assert right > 0.9


@pytest.mark.parametrize("name", GENERATION)
def test_scores_come_one_per_sample_and_empty_sets_are_empty(name: str) -> None:
    metric = metrics.get(name)
    answer = _answer(name)
    assert len(metric.score([answer] * 3, [[answer]] * 3)) == 3
    assert metric.score([], []) == []
    assert len(metric.score([""], [[answer]])) == 1


@pytest.mark.parametrize("name", [name for name in GENERATION if name != "cider"])
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
