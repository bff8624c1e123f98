"""A mixture small enough to run whole in a test: squares on grey, a tiny LLaVA on disk, a config.

`write_mixture(folder)` makes everything and returns the config's path.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, ImageDraw
from support.models import tiny_models

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 40), "blue": (40, 60, 220)}


def write_mixture(
    folder: Path,
    *,
    samples: int = 24,
    text_only: bool = True,
    metrics: tuple[str, str] = ("loss", "exact_match"),
    **changes: Any,
) -> Path:
    """Write images, LLaVA JSON files, a model and `mixture.yaml`; `changes` are top-level keys of the config.

    `metrics` are those of the two measured tasks; an untrained model scores 0 by `exact_match`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir()
    draw = random.Random(0)
    scenes = [_scene(folder / "images", number, draw) for number in range(samples + 2 * (samples // 2))]
    parts = {
        "train": scenes[:samples],
        "validation": scenes[samples : samples + samples // 2],
        "test": scenes[samples + samples // 2 :],
    }
    tasks: list[dict[str, Any]] = []
    for name, metric in zip(("colour", "count"), metrics, strict=True):
        for part, chosen in parts.items():
            _write(folder / f"{name}_{part}.json", [_record(name, scene) for scene in chosen])
        files = {part: f"{name}_{part}.json" for part in parts}
        tasks.append({"name": name, **files, "images": "images", "metric": metric, "max_new_tokens": 4})
    if text_only:
        _write(folder / "text.json", [_record("text", scene) for scene in parts["train"][: samples // 2]])
        tasks.append({"name": "text", "train": "text.json", "weight": 1.0})
    model, processor = tiny_models.tiny_llava()
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    config: dict[str, Any] = {
        "model": "model",
        "output": "run",
        "tasks": tasks,
        "preparation": {"mini_fraction": 0.25, "training": {"num_train_epochs": 2}},
        "weighing": {"replicates": 100},
        "training": {
            "num_train_epochs": 2,
            "learning_rate": 5e-3,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "save_steps": 3,
            "logging_steps": 2,
            "use_cpu": True,
        },
        "evaluation": {"batch_size": 4},
        "comparison": {"strategies": ["ew", "cotbal"], "single_task": True, "seeds": [0]},
        **changes,
    }
    path = folder / "mixture.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def _scene(folder: Path, number: int, draw: random.Random) -> dict[str, Any]:
    colour = draw.choice(list(COLOURS))
    # Mostly one square, so that a model that has learnt anything at all scores above 0.
    count = 1 if draw.random() < 0.8 else 2
    image = Image.new("RGB", (28, 28), (120, 120, 120))
    for place in range(count):
        corner = (2 + 14 * place, 2 + 14 * place)
        ImageDraw.Draw(image).rectangle((*corner, corner[0] + 9, corner[1] + 9), fill=COLOURS[colour])
    image.save(folder / f"{number}.png")
    return {"number": number, "colour": colour, "count": count}


def _record(task: str, scene: dict[str, Any]) -> dict[str, Any]:
    question, answer = {
        "colour": ("<image>\nWhat is the picture?", f"A {scene['colour']} scene."),
        "count": ("<image>\nHow many are there?", "one" if scene["count"] == 1 else "two"),
        "text": ("What number is between?", f"number {scene['number'] % 10}"),
    }[task]
    record: dict[str, Any] = {
        "id": f"{task}-{scene['number']}",
        "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}],
    }
    if task != "text":
        record["image"] = f"{scene['number']}.png"
    return record


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(records))
