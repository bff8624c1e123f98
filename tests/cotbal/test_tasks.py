"""Names of tasks and models."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotbal.tasks import Task, check_task_name, check_task_names, plus_model, single_model


@given(st.from_regex(r"[A-Za-z0-9._-]{1,20}", fullmatch=True).filter(lambda name: name not in {".", ".."}))
def test_allowed_names_pass_unchanged(name: str) -> None:
    assert check_task_name(name) == name
    assert plus_model(name) == f"plus_{name}"
    assert single_model(name) == f"single_{name}"


@pytest.mark.parametrize("name", ["", " ", "a b", "a/b", ".", "..", "ä", "a\n", "a:b"])
def test_other_names_are_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match="task name") as error:
        check_task_name(name)
    assert repr(name) in str(error.value)


def test_names_must_be_strings() -> None:
    with pytest.raises(TypeError, match="found int: 3"):
        check_task_name(3)  # type: ignore[arg-type]


def test_a_bare_string_is_no_list_of_names() -> None:
    with pytest.raises(TypeError, match="one string 'vqa'"):
        check_task_names("vqa")


def test_a_repeated_name_is_refused() -> None:
    with pytest.raises(ValueError, match="'a' is named twice"):
        check_task_names(["a", "b", "a"])


def test_no_names_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one task"):
        check_task_names([])


def test_a_task_is_measured_or_has_a_weight() -> None:
    assert Task("a", "anls").is_measured
    assert not Task("a", None, weight=0.0).is_measured
    with pytest.raises(ValueError, match="neither a metric nor a weight"):
        Task("a", None)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_bad_weights_are_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=f"weight {weight}"):
        Task("a", None, weight=weight)
