"""Tasks of the uneven mixture besides the shared ones: easier ones, and one in text alone."""

from __future__ import annotations

import numpy as np

from cotbal.demo.questions import DIGIT_WORDS, Dialogue, place_words
from cotbal.demo.scenes import Scene

_COMPARED = 4
WORDS = ("color", "Where")


def colour(scene: Scene, generator: np.random.Generator) -> Dialogue:
    """The colour of a digit that is there."""
    digit = scene.digits[int(generator.integers(len(scene.digits)))]
    return Dialogue(f"Which color is the {DIGIT_WORDS[digit.value]}?", (digit.colour,))


def seek(scene: Scene, generator: np.random.Generator) -> Dialogue:
    """A digit of a colour that is there; every such digit is accepted."""
    wanted = scene.digits[int(generator.integers(len(scene.digits)))].colour
    others = (DIGIT_WORDS[digit.value] for digit in scene.digits if digit.colour == wanted)
    return Dialogue(f"Which digit is {wanted}?", tuple(others))


def where(scene: Scene, generator: np.random.Generator) -> Dialogue:
    """The place of a digit, in words."""
    digit = scene.digits[int(generator.integers(len(scene.digits)))]
    return Dialogue(f"Where is the {digit.colour} {DIGIT_WORDS[digit.value]}?", (place_words(digit),))


def number(scene: Scene, generator: np.random.Generator) -> Dialogue:
    """How many digits there are in all."""
    return Dialogue("How many digits are in the picture?", (DIGIT_WORDS[len(scene.digits)],))


def compare(scene: Scene, generator: np.random.Generator) -> Dialogue:
    """The largest or smallest of four digits in words; no picture."""
    values = [int(value) for value in generator.permutation(10)[:_COMPARED]]
    largest = bool(generator.integers(2))
    words = " and ".join(DIGIT_WORDS[value] for value in values)
    answer = DIGIT_WORDS[(max if largest else min)(values)]
    return Dialogue(f"Which is the {'largest' if largest else 'smallest'}, {words}?", (answer,))
