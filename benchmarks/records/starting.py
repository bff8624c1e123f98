"""From the start of a real command to its first training step, on a mixture of LLaVA-1.5's size over 8 tasks."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.records import made
from benchmarks.records.watch import Usage, follow

__all__ = ["run", "write_mixture"]

TASKS = 8
_SCORED = 32


def write_mixture(folder: Path, count: int) -> tuple[Path, int]:
    """Data, pictures, a tiny LLaVA and a config; the config's path and the bytes of the training data."""
    import yaml

    from cotbal.demo.model import build_model, build_processor
    from cotbal.demo.scenes import SCENE_PIXELS

    folder.mkdir(parents=True, exist_ok=True)
    made.make_pictures(folder / "images", SCENE_PIXELS)
    processor = build_processor(made.words())
    processor.save_pretrained(folder / "model")
    build_model(processor).save_pretrained(folder / "model")
    source = made.records(count + TASKS * _SCORED)
    tasks: list[dict[str, Any]] = []
    size = 0
    for number in range(TASKS):
        own = count // TASKS + (number < count % TASKS)
        files = {"train": own, "validation": _SCORED}
        for split, records in files.items():
            written = made.write_json(folder / f"{number}-{split}.json", islice(source, records))
            size += written if split == "train" else 0
        tasks.append({"name": f"task{number}", "images": "images", "metric": "loss"})
        tasks[-1] |= {split: f"{number}-{split}.json" for split in files}
    settings = {"max_steps": 1, "per_device_train_batch_size": 8, "logging_steps": 1, "use_cpu": True}
    config = {
        "model": "model",
        "output": "run",
        "check": "quick",
        "bad_records": "skip",
        "max_length": 256,
        "tasks": tasks,
        "training": settings,
        "comparison": {"strategies": ["cotbal"]},
    }
    path = folder / "mixture.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path, size


def run(folder: Path, announce: Callable[[str], object], count: int = made.MIXTURE) -> list[dict[str, Any]]:
    """One entry for the first start, one for the second, and one for `cotbal doctor`."""
    config, size = write_mixture(folder, count)
    output = folder / "run"
    cotbal = [sys.executable, "-m", "cotbal"]

    def stepped() -> bool:
        return any(map(_has_step, (output / "units").glob("**/log.jsonl")))

    def entry(name: str, usage: Usage) -> dict[str, Any]:
        return {"name": name, "records": count, "file_bytes": size, **vars(usage)}

    entries = []
    shutil.rmtree(output, ignore_errors=True)
    for name in ("`cotbal run`, first start", "`cotbal run`, checked before"):
        announce(name)
        shutil.rmtree(output / "units", ignore_errors=True)
        entries.append(
            entry(name, follow([*cotbal, "run", str(config)], stepped, log=folder / "log", cwd=folder))
        )
    announce("`cotbal doctor -c`")
    log = folder / "doctor"
    command = [*cotbal, "doctor", "-c", str(config)]
    entries.append(entry("`cotbal doctor -c`", follow(command, lambda: _passed(log), log=log, cwd=folder)))
    return entries


def _has_step(log: Path) -> bool:
    return any("step" in json.loads(line) for line in log.read_text().splitlines() if line.endswith("}"))


def _passed(log: Path) -> bool:
    return "gradient" in log.read_text()
