"""Tasks and the names of the models trained on them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

MINI = "mini"
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def check_task_name(name: str) -> str:
    """Return `name` if it can name a task (letters, digits, `.`, `_`, `-`); it also becomes a folder's name.

    Raises:
        TypeError: `name` is not a string.
        ValueError: `name` is empty, contains another character, or is `.` or `..`.

    >>> check_task_name("refcoco-bbox")
    'refcoco-bbox'
    """
    if not isinstance(name, str):
        raise TypeError(f"a task's name must be a string; found {type(name).__name__}: {name!r}")
    if not _NAME.fullmatch(name) or name in {".", ".."}:
        raise ValueError(
            f"task name {name!r} is not allowed; use at least one letter or digit, '.', '_' or '-' and nothing else, "
            "and neither '.' nor '..'"
        )
    return name


def check_task_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names as a tuple if each is allowed and none is repeated.

    Raises:
        ValueError: there is no name, or one is not allowed or repeated.
        TypeError: `names` is a single string, or a name is not a string.

    >>> check_task_names(["caption", "vqa"])
    ('caption', 'vqa')
    """
    if isinstance(names, str):
        raise TypeError(f"tasks must be a list of names; found the one string {names!r}")
    checked = tuple(check_task_name(name) for name in names)
    if not checked:
        raise ValueError("tasks is empty; at least one task is needed")
    seen: set[str] = set()
    for name in checked:
        if name in seen:
            raise ValueError(f"task {name!r} is named twice; give every task its own name")
        seen.add(name)
    return checked


def plus_model(task: str) -> str:
    """The id of the model trained on all of `task` and the mini subsets of the others: `plus_<task>`."""
    return f"plus_{check_task_name(task)}"


def single_model(task: str) -> str:
    """The id of the model trained on `task` alone: `single_<task>`."""
    return f"single_{check_task_name(task)}"


@dataclass(frozen=True)
class Task:
    """One task of a mixture.

    Attributes:
        name: letters, digits, `.`, `_`, `-`.
        metric: the name of its validation metric; None for a task that is never measured.
        higher_is_better: the direction of that metric.
        weight: the weight you fix (at least 0), or None for a task whose weight is measured.

    Raises:
        ValueError: the name is not allowed, the weight is negative or not finite, or both metric and weight are None.

    >>> Task("caption", "cider").is_measured
    True
    >>> Task("text-only", None, weight=1.0).is_measured
    False
    """

    name: str
    metric: str | None
    higher_is_better: bool = True
    weight: float | None = None

    def __post_init__(self) -> None:
        check_task_name(self.name)
        if self.metric is None and self.weight is None:
            raise ValueError(
                f"task {self.name!r} has neither a metric nor a weight; name a metric to have it measured, "
                "or give it an explicit weight"
            )
        if self.weight is not None and not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(
                f"task {self.name!r} has weight {self.weight}; a finite number of at least 0 is needed"
            )

    @property
    def is_measured(self) -> bool:
        """Whether the task's weight is measured rather than given by the user."""
        return self.weight is None
