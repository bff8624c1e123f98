"""The demo's mixtures: which tasks, how much of each, and what they are to show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from cotbal.demo import conflict, questions, uneven
from cotbal.demo.questions import Dialogue
from cotbal.demo.scenes import Scene, Split

Ask = Callable[[Scene, np.random.Generator], Dialogue]
Picture = Literal["scene", "none"]

SCENES: Mapping[Split, int] = {"train": 1100, "validation": 250, "test": 300}


@dataclass(frozen=True)
class DemoTask:
    """One task of a mixture.

    Attributes:
        ask: the question about a scene; a text-only task draws what it needs itself.
        metric: of its answers.
        max_new_tokens: longest answer.
        train: how many of the training scenes it asks about; all by default.
        picture: what it asks about.
    """

    ask: Ask
    metric: str
    max_new_tokens: int
    train: int = SCENES["train"]
    picture: Picture = "scene"


@dataclass(frozen=True)
class DemoMixture:
    """A mixture that can be made anywhere.

    Attributes:
        name: as `cotbal demo --mixture` takes it.
        about: what it is, in a sentence or two for the head of its config.
        tasks: by name, in order.
        words: what its questions and answers use besides the words of the shared mixture.
    """

    name: str
    about: str
    tasks: Mapping[str, DemoTask]
    words: tuple[str, ...] = field(default=())


_ANSWER_TOKENS = {"caption": 48, "grounding": 12, "reading": 8, "counting": 4, "place": 4, "order": 4}


def _shared(name: str, train: int = SCENES["train"]) -> DemoTask:
    return DemoTask(questions.QUESTIONS[name], questions.METRICS[name], _ANSWER_TOKENS[name], train)


SHARED = DemoMixture(
    "shared",
    "Six questions about the same pictures. They share what there is to know: which digit it is (all of them), where "
    "it is (caption, grounding, place, reading), its colour (caption, counting), and which is larger (order).",
    {name: _shared(name) for name in questions.QUESTIONS},
)
CONFLICT = DemoMixture(
    "conflict",
    "Three pairs of tasks that ask the same and want other answers: counts in words or figures, places as boxes or "
    "in words, digits as they are placed or by value. Half of the questions say which; in the others the tasks "
    "compete.",
    {
        "count-words": DemoTask(conflict.count_words, "exact_match", 4),
        "count-figures": DemoTask(conflict.count_figures, "exact_match", 4),
        "where-box": DemoTask(conflict.where_box, "iou@0.5", 12),
        "where-words": DemoTask(conflict.where_words, "exact_match", 4),
        "read-placed": DemoTask(conflict.read_placed, "anls", 8),
        "read-sorted": DemoTask(conflict.read_sorted, "anls", 8),
    },
    conflict.WORDS,
)
UNEVEN = DemoMixture(
    "uneven",
    "Eleven tasks of very unequal size and difficulty: six about scenes as in the shared mixture, the color of a "
    "digit, a digit of a color, the place of a digit, the number of digits, and comparisons in text alone.",
    {
        "caption": _shared("caption"),
        "grounding": _shared("grounding", 1000),
        "reading": _shared("reading", 900),
        "counting": _shared("counting", 700),
        "place": _shared("place", 700),
        "order": _shared("order", 600),
        "color": DemoTask(uneven.colour, "exact_match", 4, 250),
        "seek": DemoTask(uneven.seek, "exact_match", 4, 300),
        "where": DemoTask(uneven.where, "exact_match", 4, 800),
        "number": DemoTask(uneven.number, "exact_match", 4, 200),
        "compare": DemoTask(uneven.compare, "exact_match", 4, 900, "none"),
    },
    uneven.WORDS,
)
MIXTURES: Mapping[str, DemoMixture] = {mixture.name: mixture for mixture in (SHARED, CONFLICT, UNEVEN)}


def get_mixture(name: str) -> DemoMixture:
    """The mixture of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in MIXTURES:
        raise ValueError(f"there is no demo mixture {name!r}; known are {', '.join(MIXTURES)}")
    return MIXTURES[name]
