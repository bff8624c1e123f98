"""Status: what it says of each unit is so, and looking changes nothing."""

import io
from pathlib import Path

import yaml
from rich.console import Console

from cotbal.config.schema import Config, load_config
from cotbal.units.checkpoints import mark_complete
from cotbal.units.schedule import make_schedule
from cotbal.units.status import status_table
from cotbal.units.store import Manifest, OutputFolder, State


def shown(config: Config) -> dict[str, str]:
    stream = io.StringIO()
    Console(file=stream, width=200).print(status_table(config))
    lines = [" ".join(line.split()) for line in stream.getvalue().splitlines() if line.strip()]
    return {line.split()[0]: line for line in lines}


def begin(config: Config, name: str, state: State) -> None:
    unit = make_schedule(config).unit(name)
    manifest = Manifest(
        name, unit.model, unit.stage, unit.seed, {}, {}, state, seconds={"train": 75.0}, steps=12
    )
    OutputFolder(config.output).unit(name).write_manifest(manifest)


def test_every_state_is_told(tmp_path: Path) -> None:
    tasks = [
        {"name": name, "train": "t", "validation": "v", "test": "e", "metric": "loss"} for name in ("a", "b")
    ]
    path = tmp_path / "mixture.yaml"
    path.write_text(yaml.safe_dump({"model": "m", "output": "out", "tasks": tasks}))
    config = load_config(path)
    assert "not begun" in shown(config)["mini"]
    assert not config.output.exists()
    begin(config, "mini", "scored")
    begin(config, "plus_a", "trained")
    begin(config, "plus_b", "planned")
    checkpoint = OutputFolder(config.output).unit("plus_b").checkpoints / "checkpoint-40"
    checkpoint.mkdir(parents=True)
    lines = shown(config)
    assert "done" in lines["mini"]
    assert "12 75 s" in lines["mini"]
    assert "trained, to be scored" in lines["plus_a"]
    assert "no checkpoint yet" in lines["plus_b"]
    mark_complete(checkpoint)
    lines = shown(config)
    assert "checkpoint at step 40" in lines["plus_b"]
    assert "1 of 4 units done; scores.csv: not yet" in lines["1"]
