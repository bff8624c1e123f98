"""Writing a mixture's data as any user's would be: LLaVA JSON files, one per task and split, and PNG images."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cotbal.demo.mixtures import SCENES, SHARED, DemoMixture, DemoTask
from cotbal.demo.questions import Dialogue
from cotbal.demo.scenes import SPLITS, Split, digit_images, draw_scene, paint

_IMAGE = "<image>\n"


def write_dataset(
    folder: Path,
    mixture: DemoMixture = SHARED,
    *,
    scenes: Mapping[Split, int] = SCENES,
    seed: int = 0,
    advance: Callable[[int], None] = lambda scenes: None,
) -> None:
    """Write `images/<split>/<scene>.png` and `<split>/<task>.json`; a task asks about its share of the scenes.

    Args:
        folder: where to; made if it is not there.
        mixture: which tasks.
        scenes: how many of each split.
        seed: fixes everything.
        advance: called with the number of further scenes that are done.
    """
    for number, split in enumerate(SPLITS):
        generator = np.random.default_rng([seed, 2, number])
        images = digit_images(split)
        pictures = folder / "images" / split
        pictures.mkdir(parents=True, exist_ok=True)
        records: dict[str, list[object]] = {task: [] for task in mixture.tasks}
        for index in range(scenes[split]):
            scene = draw_scene(generator, images)
            name = f"{index:05d}"
            Image.fromarray(paint(scene, images, generator)).save(pictures / f"{name}.png")
            for task, asked in mixture.tasks.items():
                if index >= _asked(asked, split, scenes):
                    continue
                dialogue = asked.ask(scene, generator)
                picture = None if asked.picture == "none" else f"{split}/{name}.png"
                records[task].append(_record(task, name, picture, dialogue))
            advance(1)
        (folder / split).mkdir(exist_ok=True)
        for task, listed in records.items():
            text = json.dumps(listed, indent=1)
            (folder / split / f"{task}.json").write_text(text, encoding="utf-8")


def _asked(task: DemoTask, split: Split, scenes: Mapping[Split, int]) -> int:
    """About how many scenes of a split a task asks; of smaller sets its share."""
    if split != "train":
        return scenes[split]
    return max(1, round(task.train * scenes["train"] / SCENES["train"]))


def _record(task: str, name: str, picture: str | None, dialogue: Dialogue) -> dict[str, Any]:
    return {
        "id": f"{task}-{name}",
        "task": task,
        **({"image": picture} if picture else {}),
        "conversations": [
            {"from": "human", "value": f"{_IMAGE if picture else ''}{dialogue.question}"},
            {"from": "gpt", "value": dialogue.answers[0]},
        ],
        "references": list(dialogue.answers),
    }
