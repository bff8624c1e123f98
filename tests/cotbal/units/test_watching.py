"""What a training leaves to look at: a log that grows, files of TensorBoard that stay, one run of W&B per unit."""

import json
from pathlib import Path

import pytest
from support.units.prepared import Told, change

from cotbal.output.manifest import Manifest
from cotbal.output.score_file import DamagedFileError
from cotbal.output.standing import Standing, read_standing
from cotbal.output.store import OutputFolder, UnitFolder, json_line
from cotbal.units import stages
from cotbal.units.watching import run_name


def test_a_torn_last_line_is_left_out_until_the_log_is_sealed(tmp_path: Path) -> None:
    folder = UnitFolder(tmp_path / "mini")
    folder.write_manifest(Manifest("mini", "mini", "prepare", 0, {}, {}))
    seals = folder.write_log([{"step": 1}])
    folder.append_log(json_line({"step": 2}))
    folder.append_log('{"step": 3')
    assert folder.log() == [{"step": 1}, {"step": 2}]
    folder.write_manifest(Manifest("mini", "mini", "prepare", 0, {}, {}, "trained", files=seals))
    with pytest.raises(DamagedFileError):
        folder.log()
    folder.write_log([{"step": 1}])
    assert folder.log() == [{"step": 1}]


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"step": 1}'])
def test_no_standing_is_read_from_half_a_file(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "steps.json"
    if content is not None:
        path.write_text(content)
    assert read_standing(path) is None


def test_runs_are_named_after_their_units() -> None:
    assert run_name({}, "mini") == "mini"
    assert run_name({"run_name": "llava"}, "mini") == "llava-mini"


def test_every_entry_is_there_when_it_is_logged(mixture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = change(mixture, training={"logging_steps": 1}, comparison={"strategies": ["ew"]})
    folder = OutputFolder(config.output)
    grown: list[int] = []
    append = UnitFolder.append_log

    def counted(self: UnitFolder, line: str) -> None:
        append(self, line)
        grown.append(len(self.log()))
        assert self.log()[-1] == json.loads(line)

    monkeypatch.setattr(UnitFolder, "append_log", counted)
    stages.tune(config, Told())
    # Two steps, and the Trainer's summary.
    assert grown == [1, 2, 3]
    assert len(folder.unit("ew-seed0").log()) == 3
    assert read_standing(folder.standing_of("ew-seed0")) == Standing(2, 2, 0.0)


def test_files_of_tensorboard_outlive_the_checkpoints(mixture: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = change(
        mixture,
        training={"logging_steps": 1, "report_to": "tensorboard"},
        comparison={"strategies": ["ew", "tla"]},
    )
    stages.tune(config, Told())
    for name in ("ew-seed0", "tla-seed0"):
        folder = OutputFolder(config.output).unit(name)
        assert not folder.checkpoints.exists()
        events = accumulator.EventAccumulator(str(folder.tensorboard))
        events.Reload()
        logged = [entry["loss/colour"] for entry in folder.log() if "loss/colour" in entry]
        shown = [event.value for event in events.Scalars("train/loss/colour")]
        assert shown == pytest.approx(logged, rel=1e-6)


def test_each_unit_is_one_run_of_wandb(
    mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    for name, value in (("MODE", "offline"), ("DIR", str(tmp_path)), ("SILENT", "true")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    config = change(
        mixture,
        training={"logging_steps": 1, "report_to": "wandb"},
        comparison={"strategies": ["ew", "tla"]},
    )
    ids: list[tuple[str, str]] = []
    init = wandb.init

    def noted(**options: object) -> object:
        run = init(**options)
        ids.append((run.name, run.id))
        return run

    monkeypatch.setattr(wandb, "init", noted)
    stages.tune(config, Told())
    assert [name for name, _ in ids] == ["ew-seed0", "tla-seed0"]
    assert ids[0][1] != ids[1][1]
    assert all(run_id.startswith(f"{name}-") for name, run_id in ids)
    assert wandb.run is None
    # offline-run-<time>-<id>
    written = sorted(path.name.split("-", 3)[3] for path in tmp_path.glob("wandb/offline-run-*"))
    assert written == sorted(run_id for _, run_id in ids)
