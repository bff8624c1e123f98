"""Records, boxes, configs and tables of scores that nearly are some: a result or our own error, in little time."""

# ruff: noqa: E501
from __future__ import annotations

import json
import math
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from soak.mutations import mutated

from cotbal.cli import _is_mistake_of_input
from cotbal.config.schema import load_config
from cotbal.config.yaml_file import parse_yaml
from cotbal.data import read_records
from cotbal.method.scores import ScoreTable
from cotbal.metrics.boxes import LARGEST, parse_box

__all__ = ["READERS", "Reader", "proof"]

_PER_EXAMPLE = 50
_SECONDS = 2.0

_RECORDS = [
    {"id": "a", "image": "a.png", "conversations": [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "x"}]},
    {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "q"}]},
                  {"role": "assistant", "content": "x", "weight": 0.5}], "images": ["a.png"]},
    {"prompt": "q", "completion": "x"},
    {"instruction": "q", "input": "", "output": "x", "history": [["a", "b"]]},
    {"query": "q <bbox>", "response": "x", "images": ["a.png"], "objects": {"ref": ["r"], "bbox": [[1, 2, 3, 4]]}},
    {"question": "q", "answers": ["x", "y"], "loss_weight": 1.0, "task": "t"},
]  # fmt: skip
_CONFIGS = [
    {"model": "m", "output": "run", "tasks": [{"name": "a", "train": "a.json", "validation": "v.json", "metric": "anls"},
     {"name": "b", "train": ["b.json", "hf://org/name#train"], "weight": 1.5, "max_new_tokens": 8}],
     "preparation": {"mini_fraction": 0.25, "seeds": [0, 1], "training": {"learning_rate": 2e-5}},
     "weighing": {"temperature": 0.5, "replicates": 200}, "comparison": {"strategies": ["ew", {"name": "cotbal"}]}},
    {"model": {"name": "m", "dtype": "bfloat16", "freeze": ["vision"], "adapter": {"r": 8}}, "tasks": [],
     "training": {"num_train_epochs": 1, "save_steps": 10}, "launch": {"processes": 2, "command": ["srun"]}},
]  # fmt: skip
_CSVS = [
    "model,task,score\nmini,a,0.5\nmini,b,0.25\nplus_a,a,0.75\nplus_a,b,.5\nplus_b,a,1\nplus_b,b,0.125\n",
    "model;task;score;sample;group\nmini;a;0,5;s1;g\nmini;a;0,25;s2;g\nplus_a;a;1,0;s1;g\nplus_a;a;0,5;s2;g\n",
    'model\ttask\tscore\thigher_is_better\tseed\nmini\t"a\tb"\t50%\ttrue\t0\nplus_a\t"a\tb"\t1e-3\ttrue\t0\n',
    "sep=,\nmodel,task,score,sample\n'=mini,a,1,1\n'=mini,a,2,2\n",
]
_BOXES = [
    "[1, 2, 3, 4]", "(1.5,2),(3e2, 4)", '{"bbox_2d": [10, 20, 30, 40], "label": "7"}', "<loc0010><loc0020><loc0100><loc0200>",
    "<loc_10><loc_20><loc_30><loc_40>", "It is at 1, 2, 3, 4.", "1 2 3 4", "[1, 2, 3, 4, 0.9]", "[[1, 2, 3, 4], [5, 6, 7, 8]]",
]  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """One reader: texts it reads, words to put into them, and a call that returns whether it was refused."""

    corpus: Sequence[str]
    words: Sequence[str]
    read: Callable[[str, Path], bool]


def _refused(read: Callable[[], object]) -> bool:
    """Whether it was refused by an error of ours; others are raised."""
    try:
        read()
    except Exception as error:
        if _is_mistake_of_input(error):
            return True
        raise
    return False


def _bytes(text: str) -> bytes:
    """Mostly UTF-8; sometimes what other systems save, or no encoding at all. It depends on the text alone."""
    kind = len(text) % 16
    if kind == 3:
        return text.encode("utf-16", "surrogatepass")
    if kind == 5:
        return text.encode("cp1252", "replace")
    if kind == 7:
        return b"\xff" + text.encode("utf-8", "surrogatepass")
    return text.encode("utf-8", "surrogatepass")


def _read_records(text: str, folder: Path) -> bool:
    path = folder / ("data.jsonl" if len(text) % 2 else "data.json")
    path.write_bytes(_bytes(text))
    problems: list[object] = []
    refused = _refused(lambda: problems.extend(read_records(path, task="t", on_bad="skip").problems))
    return refused or bool(problems)


def _read_box(text: str, folder: Path) -> bool:
    found = [parse_box(text, "xyxy"), parse_box(text, "xywh")]
    for box in found:
        if box is not None:
            corners = (box.x1, box.y1, box.x2, box.y2)
            assert all(math.isfinite(value) and abs(value) <= LARGEST for value in corners), box
            assert box.x1 <= box.x2, box
            assert box.y1 <= box.y2, box
    return found == [None, None]


def _read_yaml(text: str, folder: Path) -> bool:
    if len(text) % 4:
        return _refused(lambda: parse_yaml(text, folder / "mixture.yaml"))
    path = folder / "mixture.yaml"
    path.write_bytes(_bytes(text))
    return _refused(lambda: load_config(path))


def _read_csv(text: str, folder: Path) -> bool:
    path = folder / "scores.csv"
    path.write_bytes(_bytes(text))
    return _refused(lambda: ScoreTable.from_csv(path))


def _json_texts() -> list[str]:
    lines = [json.dumps(record) for record in _RECORDS]
    return ["\n".join(lines), json.dumps(_RECORDS), *lines, json.dumps([_RECORDS[0]], indent=1)]


READERS: dict[str, Reader] = {
    "records": Reader(
        _json_texts(),
        ["conversations", "messages", "images", "image", "human", "gpt", "role", "content", "objects", "bbox", "weight",
         '"value"', '"x"', "1.0", "[]", "{}", '""', "<bbox>", "assistant", "system", "history", "answers"],
        _read_records,
    ),
    "boxes": Reader(_BOXES, ["<loc", "bbox_2d", "1", ", ", "[", "(", "0.5", "e", ".", "-", " "], _read_box),
    "configs": Reader(
        [yaml.safe_dump(config, sort_keys=False) for config in _CONFIGS] + [json.dumps(_CONFIGS[0])],
        ["model", "tasks", "name", "train", "seeds", "&a", "*a", "0.25", "[", "{", "- ", ": ", "2e-5", "null", "hf://"],
        _read_yaml,
    ),
    "tables of scores": Reader(
        _CSVS, ["mini", "plus_a", "score", "model", "task", "sample", "seed", ",", ";", "\t", '"', "\n", "0,5", "50%", "true"],
        _read_csv,
    ),
}  # fmt: skip


def proof(root: Path, *, short: bool, until: float | None) -> dict[str, Any]:
    """100,000 inputs for each reader (a short proof: 1,500)."""
    counts: dict[str, dict[str, Any]] = {}
    failures: list[dict[str, str]] = []
    for name, reader in READERS.items():
        counts[name], failed = fuzz(reader, 1_500 if short else 100_000, until)
        failures += [{"reader": name, **failure} for failure in failed]
        print(f"{name}: {counts[name]}", flush=True)
    total = sum(count.get("inputs", 0) for count in counts.values())
    return {
        "summary": f"{total:,} inputs, {len(failures)} that ended in another's error",
        "readers": counts,
        "failures": failures,
    }


def fuzz(reader: Reader, inputs: int, until: float | None) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Counts of what was read and refused, and the inputs that ended in neither, each kind of error once."""
    counts: Counter[str] = Counter()
    failures: dict[str, dict[str, str]] = {}
    slowest = 0.0

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)

        def try_one(text: str) -> None:
            nonlocal slowest
            counts["inputs"] += 1
            began = time.process_time()
            try:
                counts["refused" if reader.read(text, folder) else "read"] += 1
            except Exception as error:
                kind = f"{type(error).__name__}: {error}"[:300]
                failures.setdefault(
                    type(error).__name__ + str(error)[:20], {"input": text[:2000], "error": kind}
                )
            slowest = max(slowest, time.process_time() - began)
            if time.process_time() - began > _SECONDS:
                failures.setdefault("slow", {"input": text[:2000], "error": "took too long"})

        @settings(
            max_examples=max(1, inputs // _PER_EXAMPLE),
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.integers(0, 2**63), st.text(max_size=60))
        def many(seed: int, text: str) -> None:
            if until is not None and time.monotonic() > until:
                return
            draw = random.Random(seed)
            try_one(text)
            for _ in range(_PER_EXAMPLE - 1):
                try_one(mutated(draw, reader.corpus, reader.words))

        many()
    return {**counts, "slowest_seconds": round(slowest, 3)}, list(failures.values())
