"""Status: what it says of each unit is so, and looking changes nothing."""

import io
from dataclasses import replace
from pathlib import Path

import yaml
from rich.console import Console

from cotbal.config.schema import Config, load_config
from cotbal.output.checkpoints import mark_complete
from cotbal.output.holder import Holder
from cotbal.output.manifest import Manifest, State
from cotbal.output.store import OutputFolder
from cotbal.units.schedule import make_schedule
from cotbal.units.status import status_table


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


def test_a_unit_in_hand_tells_its_step_its_losses_and_its_maker(tmp_path: Path) -> None:
    tasks = [
        {"name": name, "train": "t", "validation": "v", "test": "e", "metric": "loss"} for name in ("a", "b")
    ]
    path = tmp_path / "mixture.yaml"
    path.write_text(yaml.safe_dump({"model": "m", "output": "out", "tasks": tasks}))
    config = load_config(path)
    folder = OutputFolder(config.output)
    begin(config, "mini", "planned")
    folder.unit("mini").write_log([{"loss/a": 2.0, "loss/b": 1.0, "step": 1}, {"loss/a": 1.23456, "step": 2}])
    folder.standing_of("mini").parent.mkdir(parents=True)
    folder.standing_of("mini").write_text('{"step": 40, "steps": 200, "seconds_left": 600.0}')
    (folder.running / "mini" / ".lock").touch()
    replace(Holder.here(), host="node7", kernel="another boot").write(folder.running / "mini")
    begin(config, "plus_a", "planned")
    log = folder.output_of("plus_a")
    log.parent.mkdir()
    log.write_text("$ cotbal unit\nerror: out of memory\n")
    text = "\n".join(shown(config).values())
    assert "training, 10 min left, by process" in shown(config)["mini"]
    assert "on node7" in shown(config)["mini"]
    assert "40 of 200" in shown(config)["mini"]
    assert "a 1.23, b 1" in shown(config)["mini"]
    assert "plus_a said last:" in text
    assert "error: out of memory" in text
