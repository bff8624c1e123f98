"""One unit with a model that sees, and ways to have it answered for by a server."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from support.units import trap_server
from support.units.prepared import Told

from cotbal import metrics
from cotbal.config.schema import Config, load_config
from cotbal.models.loading import load_model, load_processor
from cotbal.output.answer_file import Answer
from cotbal.output.store import OutputFolder
from cotbal.units.answering import Questions
from cotbal.units.endpoint.scoring import by_server
from cotbal.units.mixture import Mixture
from cotbal.units.schedule import make_schedule

SERVE = [
    str(Path(sys.executable).with_name("transformers")),
    "serve",
    "{model}",
    "--port",
    "{port}",
    "--host",
    "{host}",
    "--device",
    "cpu",
    "--dtype",
    "{dtype}",
]
# Loads whatever folder a request names.
SERVE_ANY = [word for word in SERVE[:-2] if word != "{model}"]
TRAP = [sys.executable, str(Path(trap_server.__file__)), "{model}", "{port}"]
MAX_NEW_TOKENS = 8


@dataclass(frozen=True)
class Answered:
    """What a server answered for a unit, and what is recorded of it."""

    answers: list[Answer]
    engine: Mapping[str, Any]
    said: str


def colour_config(folder: Path, records: Path, saved: Path, /, **server: Any) -> Config:
    """A config of one task whose unit `mini` has the saved model already."""
    folder.mkdir(parents=True, exist_ok=True)
    task = {
        "name": "colour",
        "train": str(records),
        "validation": str(records),
        "images": str(records.parent),
        "metric": "exact_match",
        "max_new_tokens": MAX_NEW_TOKENS,
    }
    evaluation = {"engine": "openai", "server": server, "workers": 0, "batch_size": 4}
    path = folder / "mixture.yaml"
    values = {"model": str(saved), "output": "run", "tasks": [task], "evaluation": evaluation}
    path.write_text(yaml.safe_dump(values))
    config = load_config(path)
    place = OutputFolder(config.output).unit("mini").model
    if not place.exists():
        place.parent.mkdir(parents=True)
        place.symlink_to(saved, target_is_directory=True)
    return config


def answered(config: Config, source: str = "1:0123456789abcdef") -> Answered:
    """Have the unit's questions answered by its server."""
    unit = make_schedule(config).of("prepare")[0]
    output = OutputFolder(config.output)
    folder = output.unit(unit.name)
    questions = Questions(
        "colour",
        Mixture(config).records("colour", "validation"),
        metrics.get("exact_match"),
        MAX_NEW_TOKENS,
        folder.predictions / "colour.jsonl",
    )
    told = Told()
    with by_server(
        unit,
        [questions],
        config=config,
        processor=load_processor(config.model),
        load=lambda: load_model(config.model, folder.model),
        dtype="float32",
        output=output,
        source=source,
        progress=told,
    ) as endpoint:
        found = endpoint.answers(questions)
        return Answered(found, endpoint.engine, told.text)


@contextlib.contextmanager
def running(*words: str) -> Iterator[str]:
    """A server as somebody else starts one; its address. `{port}` in the words is filled in."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # A pipe that nobody reads would fill up, and the server wait for ever.
    process = subprocess.Popen(
        [word.replace("{port}", str(port)).replace("{host}", "127.0.0.1") for word in words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    try:
        deadline = time.monotonic() + 240
        while True:
            assert process.poll() is None, f"the server ended with {process.returncode}"
            assert time.monotonic() < deadline, "the server did not start"
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()
