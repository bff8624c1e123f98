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


_FIGURE_SHARE, _BOX_SHARE, _COUNT_SHARE = 0.3, 0.25, 0.5


def alignment_text(scene: Scene, generator: np.random.Generator) -> str:
    """Describe a scene for the alignment, which comes before any task.

    One fact per digit, in random order, each with its parts in random order, digits in words or figures and places in
    words or as boxes; sometimes a count: "red top left four; seven bottom center blue; one digits red". So the base
    model can go from any of them to any other, as real ones can; with one or two fixed orders it never learnt what
    the tasks ask for.
    """

    def fact(digit: PlacedDigit) -> str:
        place = str(list(digit.box)) if generator.random() < _BOX_SHARE else place_words(digit)
        value = str(digit.value) if generator.random() < _FIGURE_SHARE else DIGIT_WORDS[digit.value]
        words = [place, digit.colour, value]
        return " ".join(words[part] for part in generator.permutation(3))

    facts = [fact(scene.digits[position]) for position in generator.permutation(len(scene.digits))]
    if generator.random() < _COUNT_SHARE:
        colour = list(COLOURS)[int(generator.integers(len(COLOURS)))]
        count = [DIGIT_WORDS[sum(digit.colour == colour for digit in scene.digits)], "digits", colour]
        facts.insert(
            0 if generator.integers(2) else len(facts),
            " ".join(count if generator.integers(2) else reversed(count)),
        )
    return "; ".join(facts)


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
    return Dialogue(
        f"Give the box of the {digit.colour} {DIGIT_WORDS[digit.value]}.", (str(list(digit.box)),)
    )


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
