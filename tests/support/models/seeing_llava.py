"""A tiny LLaVA that has learnt to name colours, so that its answers depend on the picture and are sure."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image
from support.models import tiny_models

from cotbal.data.collate import TaskCollator
from cotbal.data.formats import read_records
from cotbal.data.records import Record

COLOURS = {"red": (230, 20, 20), "blue": (20, 20, 230), "grey": (128, 128, 128)}
QUESTION = "Which colour is the picture?"
STEPS = 60


def colour_records(folder: Path, count: int = 9) -> Path:
    """Write pictures of one colour each and LLaVA records that ask for it; return the records' file."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for number in range(count):
        name, colour = list(COLOURS.items())[number % len(COLOURS)]
        Image.new("RGB", (28, 28), colour).save(folder / f"{number}.png")
        turns = [
            {"from": "human", "value": f"<image>\n{QUESTION} {'Look. ' * (number // len(COLOURS))}"},
            {"from": "gpt", "value": f"{name} {name} picture"},
        ]
        records.append({"id": str(number), "image": f"{number}.png", "conversations": turns})
    path = folder / "colours.json"
    path.write_text(json.dumps(records))
    return path


def save_seeing_llava(folder: Path, records: list[Record]) -> None:
    """Teach the records to a tiny LLaVA and save it with its processor."""
    model, processor = tiny_models.tiny_llava()
    collate = TaskCollator(processor, ["colour"])
    batch = collate(records)
    inputs = {k: v for k, v in batch.items() if k not in ("loss_task_index", "loss_plan")}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(STEPS):
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def read_colours(path: Path) -> list[Record]:
    return list(read_records([path], task="colour", image_root=path.parent))
