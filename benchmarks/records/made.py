"""Synthetic records as LLaVA-1.5's mixture has them: 665,298 of them make a JSON file of about 1 GB.

Lengths, turns and marks follow the published file: about half of the records are one picture with a few short
questions, a tenth are long conversations without a picture, and a few percent are not ASCII.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["MIXTURE", "make_pictures", "records", "words", "write_json"]

MIXTURE = 665_298
"""Records of LLaVA-1.5's mixture."""

PICTURES = 1000
_WORDS = (
    "the picture shows a large brown dog that runs over green grass towards two children with red balls near an old "
    "wooden table, and behind them stands a small white house under blue sky; what colour does it have"
)
# As text in another script, an accent, and a character beyond the first plane.
_FOREIGN = ("看图回答问题", "déjà vu", "🙂 nice", "Straße")


def records(count: int, seed: int = 0, *, first: int = 0) -> Iterator[dict[str, Any]]:
    """Records as they stand in the file, made from the seed."""
    draw = random.Random(seed)
    sentences = [
        " ".join(draw.choices(_WORDS.split(), k=size)) for size in (4, 6, 8, 10, 12, 15) for _ in range(40)
    ]
    for number in range(first, first + count):
        kind = draw.random()
        if kind < 0.1:
            rounds, size = draw.randint(2, 6), 6
        elif kind < 0.5:
            rounds, size = draw.randint(1, 3), 5
        else:
            rounds, size = draw.randint(4, 14), 1
        seen = kind >= 0.1
        turns = []
        for turn in range(rounds):
            question = draw.choice(sentences)
            if seen and turn == 0:
                question = f"<image>\n{question}"
            answer = " ".join(draw.choices(sentences, k=size))
            if draw.random() < 0.005:
                answer = f"{draw.choice(_FOREIGN)} {answer}"
            turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        record: dict[str, Any] = {"id": f"{number:012d}"}
        if seen:
            record["image"] = f"{number % PICTURES:012d}.png"
        yield record | {"conversations": turns}


def write_json(path: Path, made: Iterator[dict[str, Any]], *, indent: int | None = 2) -> int:
    """Write an array as `json.dump` does, record after record, or JSON Lines for that suffix; return its bytes."""
    lines = path.suffix == ".jsonl"
    with path.open("w", encoding="utf-8") as file:
        if not lines:
            file.write("[\n")
        for number, record in enumerate(made):
            if number:
                file.write("\n" if lines else ",\n")
            file.write(json.dumps(record, ensure_ascii=False, indent=None if lines else indent))
        file.write("\n" if lines else "\n]\n")
    return path.stat().st_size


def words() -> list[str]:
    """Every word of the records."""
    return sorted({*_WORDS.replace(",", " , ").replace(";", " ; ").split(), *" ".join(_FOREIGN).split()})


def make_pictures(folder: Path, pixels: int) -> None:
    """Small square pictures under the names that `records` gives."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(PICTURES):
        Image.new("RGB", (pixels, pixels), (number % 251, 90, 120)).save(folder / f"{number:012d}.png")
