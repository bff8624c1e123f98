"""Tasks of the uneven mixture besides the shared ones: easy and hard ones, one in text alone, one of photographs."""

from __future__ import annotations

from functools import cache

import numpy as np

from cotbal.demo.questions import DIGIT_WORDS, Dialogue
from cotbal.demo.scenes import SCENE_PIXELS, Pixels, Scene, Split

_LARGEST_TOTAL = 30
WORDS = (
    *("color", "Is", "there", "yes", "no", "What", "sum", "much", "way", "up", "right"),
    *(str(number) for number in range(10, _LARGEST_TOTAL + 1)),
)

# The photographs' parts, as shares of their width, that the splits are cut from.
_STRIPS: dict[Split, tuple[float, float]] = {
    "train": (0.0, 0.6),
    "validation": (0.6, 0.8),
    "test": (0.8, 1.0),
}
_CROP_PIXELS = 2 * SCENE_PIXELS
_SIDES = ("top", "left", "bottom", "right")


def colour(scene: Scene, generator: np.random.Generator) -> Dialogue:
    """The colour of a digit that is there."""
    digit = scene.digits[int(generator.integers(len(scene.digits)))]
    return Dialogue(f"Which color is the {DIGIT_WORDS[digit.value]}?", (digit.colour,))


def presence(scene: Scene, generator: np.random.Generator) -> Dialogue:
    """Whether a digit is there; one time in two it is."""
    there = {digit.value for digit in scene.digits}
    wanted = bool(generator.integers(2))
    values = [value for value in range(10) if (value in there) == wanted]
    value = values[int(generator.integers(len(values)))]
    return Dialogue(f"Is there a {DIGIT_WORDS[value]}?", ("yes" if wanted else "no",))


def total(scene: Scene, generator: np.random.Generator) -> Dialogue:
    """The sum of all digits, in figures."""
    return Dialogue("What is the sum of all digits?", (str(sum(digit.value for digit in scene.digits)),))


def arithmetic(scene: Scene, generator: np.random.Generator) -> Dialogue:
    """The sum of three digits in words; no picture."""
    values = [int(value) for value in generator.integers(0, 10, 3)]
    words = " and ".join(DIGIT_WORDS[value] for value in values)
    return Dialogue(f"How much is {words}?", (str(sum(values)),))


def turned(scene: Scene, generator: np.random.Generator) -> Dialogue:
    """On which side of a photograph its top is; `photo_crop` turns it so."""
    return Dialogue("Which way is up?", (_SIDES[int(generator.integers(len(_SIDES)))],))


def photo_crop(split: Split, side: str, generator: np.random.Generator) -> Pixels:
    """A random part of a photograph with its top at `side`, uint8 [48, 48, 3]; the splits' parts do not overlap.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    photo = _photographs()[int(generator.integers(2))]
    height, width = photo.shape[:2]
    first, last = (round(share * width) for share in _STRIPS[split])
    left = int(generator.integers(first, last - _CROP_PIXELS + 1))
    above = int(generator.integers(0, height - _CROP_PIXELS + 1))
    crop = photo[above : above + _CROP_PIXELS, left : left + _CROP_PIXELS].astype(np.float64)
    small = crop.reshape(SCENE_PIXELS, 2, SCENE_PIXELS, 2, 3).mean(axis=(1, 3))
    return np.ascontiguousarray(np.rot90(small.round().astype(np.uint8), _SIDES.index(side)))


@cache
def _photographs() -> tuple[Pixels, Pixels]:
    """A temple and a flower (scikit-learn's sample images), uint8 [427, 640, 3]."""
    try:
        from sklearn.datasets import load_sample_image
    except ImportError as error:
        raise ImportError(
            "the demo's photographs come with scikit-learn: pip install 'cotbal[demo]'"
        ) from error
    return load_sample_image("china.jpg"), load_sample_image("flower.jpg")
