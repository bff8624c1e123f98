"""Write the demo's data in the form of any user's: LLaVA JSON files, one per task and split, and PNG images."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from cotbal.demo.questions import QUESTIONS
from cotbal.demo.scenes import SPLITS, Split, digit_images, draw_scene, paint

SCENES: Mapping[Split, int] = {"train": 1100, "validation": 250, "test": 300}


def write_dataset(
    folder: Path,
    *,
    scenes: Mapping[Split, int] = SCENES,
    seed: int = 0,
    advance: Callable[[int], None] = lambda scenes: None,
) -> None:
    """Write `images/<split>/<scene>.png` and `<split>/<task>.json`; every task asks about every scene.

    Args:
        folder: the target folder; created if missing.
        scenes: the number of scenes of each split.
        seed: fixes everything.
        advance: called with the number of further scenes that are done.
    """
    for number, split in enumerate(SPLITS):
        generator = np.random.default_rng([seed, 2, number])
        images = digit_images(split)
        pictures = folder / "images" / split
        pictures.mkdir(parents=True, exist_ok=True)
        records: dict[str, list[object]] = {task: [] for task in QUESTIONS}
        for index in range(scenes[split]):
            scene = draw_scene(generator, images)
            name = f"{index:05d}"
            Image.fromarray(paint(scene, images, generator)).save(pictures / f"{name}.png")
            for task, ask in QUESTIONS.items():
                dialogue = ask(scene, generator)
                records[task].append(
                    {
                        "id": f"{task}-{name}",
                        "task": task,
                        "image": f"{split}/{name}.png",
                        "conversations": [
                            {"from": "human", "value": f"<image>\n{dialogue.question}"},
                            {"from": "gpt", "value": dialogue.answers[0]},
                        ],
                        "references": list(dialogue.answers),
                    }
                )
            advance(1)
        (folder / split).mkdir(exist_ok=True)
        for task, listed in records.items():
            text = json.dumps(listed, indent=1)
            (folder / split / f"{task}.json").write_text(text, encoding="utf-8")
