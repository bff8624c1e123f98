"""Every malformed or unusual input of the table, and what a user sees of it.

An input that shows no error shows its result in short. Errors are in our own words: whatever else comes out is a
failure of the table.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from support.inputs.configs import CONFIGS
from support.inputs.csvs import CSVS
from support.inputs.metrics import METRICS
from support.inputs.models import MODELS, saved_model
from support.inputs.pictures import PICTURES
from support.inputs.records import FILES, HEIGHT, RECORDS, WIDTH
from support.inputs.task_weights import TASK_WEIGHTS
from support.inputs.templates import TEMPLATES, template_record, template_tokenizer

from cotbal import cli, metrics
from cotbal.config.model import ModelConfig
from cotbal.config.yaml_file import ConfigError
from cotbal.data import read_records
from cotbal.data.chat import ChatRenderer
from cotbal.data.pictures import load_picture
from cotbal.data.records import RecordError
from cotbal.method.weights import TaskWeights
from cotbal.models.loading import load_model, load_processor

RAN = "code-ran"
"""Name of a file, in the input's folder, that code within an input would make."""


@dataclass(frozen=True)
class Input:
    """One input.

    Attributes:
        kind, name: its place in the table.
        expected: what the user sees holds this text.
        refused: whether that is an error.
        see: gives what the user sees, in a folder of its own.
    """

    kind: str
    name: str
    expected: str
    refused: bool
    see: Callable[[Path], tuple[str, bool]]


def command(*words: object) -> tuple[int, str]:
    """The exit code of a command and what it prints."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = cli.main(list(map(str, words)))
    return code, said.getvalue()


def _record(raw: Any) -> Callable[[Path], tuple[str, bool]]:
    def see(folder: Path) -> tuple[str, bool]:
        for name in ("a.png", "b.png"):
            Image.new("RGB", (WIDTH, HEIGHT), "red").save(folder / name)
        turned = Image.Exif()
        turned[0x0112] = 6
        Image.new("RGB", (HEIGHT, WIDTH), "red").save(folder / "phone.jpg", exif=turned)
        path = folder / "data.jsonl"
        path.write_text(json.dumps(raw) + "\n")
        return _read(path)

    return see


def _file(name: str, content: bytes) -> Callable[[Path], tuple[str, bool]]:
    def see(folder: Path) -> tuple[str, bool]:
        (folder / name).write_bytes(content)
        return _read(folder / name)

    return see


def _read(path: Path) -> tuple[str, bool]:
    found = read_records(path, task="t", on_bad="skip")
    if found.problems:
        return str(found.problems[0]), True
    return "; ".join(f"{turn.role}: {turn.text}" for turn in found.records[0].turns), False


def _picture(make: Callable[[], bytes]) -> Callable[[Path], tuple[str, bool]]:
    def see(folder: Path) -> tuple[str, bool]:
        (folder / "picture").write_bytes(make())
        try:
            image = load_picture(folder / "picture")
        except RecordError as error:
            return str(error), True
        mean = np.asarray(image).mean(axis=(0, 1)).round().astype(int).tolist()
        return f"{image.mode} of {image.width} x {image.height} pixels, on average {mean}", False

    return see


def _template(template: str, spoken: tuple[str, ...]) -> Callable[[Path], tuple[str, bool]]:
    def see(folder: Path) -> tuple[str, bool]:
        try:
            chat = ChatRenderer(template_tokenizer(template)).render(template_record(spoken))
        except RecordError as error:
            return str(error), True
        return f"asked {chat.prompt!r}, trained {[chat.text[a:b] for a, b in chat.answers]}", False

    return see


def _config(text: str) -> Callable[[Path], tuple[str, bool]]:
    def see(folder: Path) -> tuple[str, bool]:
        (folder / "t.json").write_text('[{"query": "q", "response": "x"}]')
        (folder / "mixture.yaml").write_text(text.replace("RAN", str(folder / RAN)))
        code, said = command("run", folder / "mixture.yaml")
        return said, code == 2

    return see


def _csv(content: str | bytes) -> Callable[[Path], tuple[str, bool]]:
    def see(folder: Path) -> tuple[str, bool]:
        path = folder / "scores.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        code, said = command("weigh", path, "--output", folder / "weights.json")
        return said, code == 2

    return see


def _metric(name: str, predictions: Any, references: Any) -> Callable[[Path], tuple[str, bool]]:
    def see(folder: Path) -> tuple[str, bool]:
        try:
            found = metrics.get(name.replace("RAN", str(folder / RAN))).score(predictions, references)
        except (ValueError, TypeError, ImportError) as error:
            return str(error), True
        return f"scores {[round(score, 4) for score in found]}", False

    return see


def _model(spoil: Callable[[Path], object]) -> Callable[[Path], tuple[str, bool]]:
    def see(folder: Path) -> tuple[str, bool]:
        source = saved_model(folder / "model")
        spoil(source)
        config = ModelConfig(name=str(source))
        try:
            load_processor(config)
            model = load_model(config)
        except ConfigError as error:
            return str(error), True
        return f"{type(model).__name__} of {sum(p.numel() for p in model.parameters())} parameters", False

    return see


def _weights(content: str) -> Callable[[Path], tuple[str, bool]]:
    def see(folder: Path) -> tuple[str, bool]:
        (folder / "weights.json").write_text(content)
        try:
            found = TaskWeights.load(folder / "weights.json")
        except ValueError as error:
            return str(error), True
        return f"weights {found.as_dict()}", False

    return see


def _listed() -> list[Input]:
    made: list[Input] = []

    def add(kind: str, name: str, expected: Any, see: Callable[[Path], tuple[str, bool]]) -> None:
        refused = isinstance(expected, str)
        made.append(Input(kind, name, expected if refused else "", refused, see))

    for name, (raw, expected) in RECORDS.items():
        add("record", name, expected, _record(raw))
    for name, (file, content, expected) in FILES.items():
        add("data file", name, expected, _file(file, content))
    for name, (make, expected) in PICTURES.items():
        add("picture", name, expected, _picture(make))
    for name, (template, spoken, expected) in TEMPLATES.items():
        add("chat template", name, expected, _template(template, spoken))
    for name, (text, expected) in CONFIGS.items():
        add("config", name, expected, _config(text))
    for name, (content_, expected) in CSVS.items():
        add("table of scores", name, expected, _csv(content_))
    for name, (metric, predictions, references, expected) in METRICS.items():
        see = _metric(metric, predictions, references)
        made.append(Input("metric", name, str(expected), isinstance(expected, str), see))
    for name, (spoil, expected) in MODELS.items():
        add("model and its files", name, expected, _model(spoil))
    for name, (content_, expected) in TASK_WEIGHTS.items():
        add("task weights", name, expected, _weights(content_))
    return made


INPUTS = {f"{one.kind}: {one.name}": one for one in _listed()}
