"""The demo's tasks: their questions about a scene, and the answers.

They share knowledge on purpose: a digit's value (all), its place (caption, grounding, place, reading), its colour
(caption, counting), and how digits compare (order).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from cotbal.demo.scenes import COLOURS, PlacedDigit, Scene

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ROW_WORDS = ("top", "middle", "bottom")
COLUMN_WORDS = ("left", "center", "right")


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A question about a scene and its accepted answers; the first one is trained on."""

    question: str
    answers: tuple[str, ...]


def place_words(digit: PlacedDigit) -> str:
    """Return the words for a digit's place, such as "top left"."""
    return f"{ROW_WORDS[digit.row]} {COLUMN_WORDS[digit.column]}"


def alignment_text(scene: Scene, generator: np.random.Generator) -> str:
    """Describe a scene for the alignment, which comes before any task.

    One fact per digit, in random order, from place to digit or from digit to place:
    "top left red four; seven blue bottom center".
    """

    def fact(digit: PlacedDigit) -> str:
        words = [place_words(digit), digit.colour, DIGIT_WORDS[digit.value]]
        return " ".join(words if generator.integers(2) else reversed(words))

    order = generator.permutation(len(scene.digits))
    return "; ".join(fact(scene.digits[position]) for position in order)


def _caption(scene: Scene, generator: np.random.Generator) -> Dialogue:
    def phrase(digit: PlacedDigit) -> str:
        return f"a {digit.colour} {DIGIT_WORDS[digit.value]} at the {place_words(digit)}"

    def sentence(digits: list[PlacedDigit]) -> str:
        *others, last = (phrase(digit) for digit in digits)
        return ", ".join(others) + f" and {last}"

    in_order = list(scene.digits)
    by_value = sorted(in_order, key=lambda digit: digit.value)
    return Dialogue("Describe the picture.", tuple(dict.fromkeys((sentence(in_order), sentence(by_value)))))


def _grounding(scene: Scene, generator: np.random.Generator) -> Dialogue:
    digit = _pick(scene, generator)
    return Dialogue(f"Give the box of the {DIGIT_WORDS[digit.value]}.", (str(list(digit.box)),))


def _reading(scene: Scene, generator: np.random.Generator) -> Dialogue:
    return Dialogue("Read all digits in order.", (" ".join(str(digit.value) for digit in scene.digits),))


def _counting(scene: Scene, generator: np.random.Generator) -> Dialogue:
    colour = list(COLOURS)[int(generator.integers(len(COLOURS)))]
    count = sum(digit.colour == colour for digit in scene.digits)
    return Dialogue(f"How many digits are {colour}?", (DIGIT_WORDS[count],))


def _place(scene: Scene, generator: np.random.Generator) -> Dialogue:
    digit = _pick(scene, generator)
    return Dialogue(f"Which digit is at the {place_words(digit)}?", (DIGIT_WORDS[digit.value],))


def _order(scene: Scene, generator: np.random.Generator) -> Dialogue:
    largest = bool(generator.integers(2))
    value = (max if largest else min)(digit.value for digit in scene.digits)
    return Dialogue(f"Which digit is the {'largest' if largest else 'smallest'}?", (DIGIT_WORDS[value],))


def _pick(scene: Scene, generator: np.random.Generator) -> PlacedDigit:
    return scene.digits[int(generator.integers(len(scene.digits)))]


QUESTIONS: Mapping[str, Callable[[Scene, np.random.Generator], Dialogue]] = {
    "caption": _caption,
    "grounding": _grounding,
    "reading": _reading,
    "counting": _counting,
    "place": _place,
    "order": _order,
}
METRICS: Mapping[str, str] = {
    "caption": "cider",
    "grounding": "iou@0.5",
    "reading": "anls",
    "counting": "exact_match",
    "place": "exact_match",
    "order": "exact_match",
}
