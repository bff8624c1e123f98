"""Tasks that ask the same questions and want their answers in other forms.

About half of the questions end in a word for the form that is wanted. The others give no sign of it, so that a model
of both tasks can only answer in the form it has been taught more.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cotbal.demo.questions import DIGIT_WORDS, Dialogue, place_words
from cotbal.demo.scenes import COLOURS, Scene

WORDS = ("Where", "Answer", "words", "figures", "box", "as", "placed", "by", "value")


def _form(cue: str) -> Callable[[str, str, np.random.Generator], Dialogue]:
    def dialogue(question: str, answer: str, generator: np.random.Generator) -> Dialogue:
        return Dialogue(f"{question} {cue}" if generator.integers(2) else question, (answer,))

    return dialogue


_IN_WORDS = _form("Answer in words.")
_IN_FIGURES = _form("Answer in figures.")
_AS_BOX = _form("Answer as a box.")
_AS_PLACED = _form("Answer as placed.")
_BY_VALUE = _form("Answer by value.")


def count_words(scene: Scene, generator: np.random.Generator) -> Dialogue:
    """How many digits of a colour there are: "two"."""
    question, count = _counting(scene, generator)
    return _IN_WORDS(question, DIGIT_WORDS[count], generator)


def count_figures(scene: Scene, generator: np.random.Generator) -> Dialogue:
    """The same: "2"."""
    question, count = _counting(scene, generator)
    return _IN_FIGURES(question, str(count), generator)


def where_box(scene: Scene, generator: np.random.Generator) -> Dialogue:
    """Where a digit is: "[16, 0, 32, 16]"."""
    digit = scene.digits[int(generator.integers(len(scene.digits)))]
    return _AS_BOX(
        f"Where is the {digit.colour} {DIGIT_WORDS[digit.value]}?", str(list(digit.box)), generator
    )


def where_words(scene: Scene, generator: np.random.Generator) -> Dialogue:
    """The same: "top center"."""
    digit = scene.digits[int(generator.integers(len(scene.digits)))]
    return _IN_WORDS(
        f"Where is the {digit.colour} {DIGIT_WORDS[digit.value]}?", place_words(digit), generator
    )


def read_placed(scene: Scene, generator: np.random.Generator) -> Dialogue:
    """All digits as they stand: "7 2 4"."""
    values = [str(digit.value) for digit in scene.digits]
    return _AS_PLACED("Read all digits in order.", " ".join(values), generator)


def read_sorted(scene: Scene, generator: np.random.Generator) -> Dialogue:
    """All digits from the smallest to the largest: "2 4 7"."""
    values = sorted(digit.value for digit in scene.digits)
    return _BY_VALUE("Read all digits in order.", " ".join(map(str, values)), generator)


def _counting(scene: Scene, generator: np.random.Generator) -> tuple[str, int]:
    colour = list(COLOURS)[int(generator.integers(len(COLOURS)))]
    return f"How many digits are {colour}?", sum(digit.colour == colour for digit in scene.digits)
