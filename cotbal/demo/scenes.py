"""Scenes composed of real handwritten digits: a 3 x 3 board with a few coloured digits on it.

The digits are the 1,797 images of 8 x 8 pixels that ship with scikit-learn (UCI "Optical Recognition of Handwritten
Digits"). Every image belongs to only one of the three splits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

CELLS = 3
CELL_PIXELS = 16
SCENE_PIXELS = CELLS * CELL_PIXELS
BOARD_NOISE = 12

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (255, 70, 60),
    "green": (70, 220, 80),
    "blue": (90, 130, 255),
    "yellow": (240, 215, 60),
}

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PlacedDigit:
    """One digit of a scene: its value, colour, cell, and the image that shows it."""

    value: int
    colour: str
    row: int
    column: int
    image: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The box (left, top, right, bottom) in pixels."""
        left, top = self.column * CELL_PIXELS, self.row * CELL_PIXELS
        return left, top, left + CELL_PIXELS, top + CELL_PIXELS


@dataclass(frozen=True, slots=True)
class Scene:
    """Digits in reading order, all of different values."""

    digits: tuple[PlacedDigit, ...]


@dataclass(frozen=True)
class DigitImages:
    """The digit images of one split: `pixels` [n, 8, 8] with values 0 to 16, `indices` by value."""

    pixels: npt.NDArray[np.float64]
    by_value: tuple[npt.NDArray[np.int64], ...]


def digit_images(split: Split) -> DigitImages:
    """Return a split's share of scikit-learn's digits: two thirds for training, a sixth each for the other two.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the demo's digits come with scikit-learn: pip install 'cotbal[demo]'") from error
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    first, second = len(order) * 2 // 3, len(order) * 5 // 6
    part = {"train": order[:first], "validation": order[first:second], "test": order[second:]}[split]
    part = np.sort(part)
    return DigitImages(
        pixels=digits.images,
        by_value=tuple(part[digits.target[part] == value].astype(np.int64) for value in range(10)),
    )


def draw_scene(generator: np.random.Generator, images: DigitImages) -> Scene:
    """Draw a random scene: 2 to 4 digits of different values in different cells and random colours."""
    count = int(generator.integers(2, 5))
    values = generator.permutation(10)[:count]
    cells = np.sort(generator.permutation(CELLS * CELLS)[:count])
    names = list(COLOURS)
    return Scene(
        tuple(
            PlacedDigit(
                value=int(value),
                colour=names[int(generator.integers(len(names)))],
                row=int(cell) // CELLS,
                column=int(cell) % CELLS,
                image=int(generator.choice(images.by_value[value])),
            )
            for value, cell in zip(values, cells, strict=True)
        )
    )


def paint(scene: Scene, images: DigitImages, generator: np.random.Generator) -> Pixels:
    """Paint the scene, uint8 [48, 48, 3]: digits at twice their size, in colour, on a dark, slightly noisy board."""
    board = generator.uniform(0, BOARD_NOISE, (SCENE_PIXELS, SCENE_PIXELS, 3))
    for digit in scene.digits:
        strokes = np.kron(images.pixels[digit.image] / 16, np.ones((2, 2)))[:, :, None]
        left, top, right, bottom = digit.box
        cell = board[top:bottom, left:right]
        board[top:bottom, left:right] = cell * (1 - strokes) + strokes * np.array(COLOURS[digit.colour])
    return board.round().astype(np.uint8)
