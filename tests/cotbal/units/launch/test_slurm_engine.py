"""What Slurm would be told of a unit, what is refused before, and which jobs are found again."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from support.models import tiny_mixture

pytest.importorskip("submitit", reason="the extra `slurm` is not installed")

from cotbal.config.schema import load_config
from cotbal.config.yaml_file import ConfigError
from cotbal.output.store import OutputFolder
from cotbal.units.launch.command import UnitCommand, unit_command
from cotbal.units.launch.remote import remote_unit
from cotbal.units.launch.slurm_engine import SlurmEngine, SlurmUnit, slurm_engine

OPTIONS: dict[str, Any] = {"partition": "a100", "time": 1440, "account": "vision", "mem": "480GB"}


def engine(folder: Path, *, workers: int = 0, use_cpu: bool = False, **launch: Any) -> SlurmEngine:
    section = {"engine": "slurm", "processes": 8, "options": OPTIONS, **launch}
    path = tiny_mixture.write_mixture(folder / "m", samples=4, launch=section, training={"use_cpu": use_cpu})
    config = load_config(path)
    return slurm_engine(config, OutputFolder(config.output), 8, workers)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's commands, which note how they are called: `sacct` tells the state in the file `state`."""
    commands = tmp_path / "bin"
    commands.mkdir()
    answers = {
        "sbatch": "echo Submitted batch job 71",
        "srun": "exit 1",
        "scancel": "exit 0",
        "sacct": f'echo "JobID|State|NodeList"; echo "70|$(cat {tmp_path}/state)|node1"',
    }
    for name, answer in answers.items():
        script = commands / name
        script.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n{answer}\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "state").write_text("RUNNING")
    monkeypatch.setenv("PATH", str(commands), prepend=os.pathsep)
    return tmp_path


def calls(slurm: Path) -> list[str]:
    return (slurm / "calls").read_text().splitlines() if (slurm / "calls").is_file() else []


def command(folder: Path) -> UnitCommand:
    return unit_command(folder / "m" / "mixture.yaml", "mini", processes=8, log=folder / "mini.log")


def test_without_slurm_it_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"slurm needs Slurm's commands, and this machine has no sbatch"):
        engine(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partition": "a100"}, r"launch\.options\.time: found None; expected: the time limit"),
        ({**OPTIONS, "partitoin": "x"}, r"launch\.options\.partitoin: .* did you mean"),
        ({**OPTIONS, "nodes": 2}, r"launch\.options\.nodes: cannot be set here; a unit runs on one node"),
        ({**OPTIONS, "time": "1-00:00:00"}, r"launch\.options\.time: found '1-00:00:00'"),
    ],
)
def test_options_that_would_go_wrong_are_refused(slurm: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        engine(slurm, options=options)
    assert not any(call.startswith("sbatch") for call in calls(slurm))


def test_the_text_that_sbatch_gets(slurm: Path) -> None:
    made = engine(slurm, workers=4)
    started = made.start(command(slurm))
    assert started is not None
    folder = slurm / "m" / "run" / "running" / "mini" / "jobs"
    text = (folder / "71_submission.sh").read_text()
    flags = {line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")}
    assert {
        "job-name=cotbal-mini",
        "partition=a100",
        "time=1440",
        "account=vision",
        "mem=480GB",
        "nodes=1",
        "ntasks-per-node=1",
        "gpus-per-node=8",
        "cpus-per-task=40",
        "signal=USR2@300",
        "open-mode=append",
    } <= flags
    srun = next(line for line in text.splitlines() if line.startswith("srun"))
    assert "--cpus-per-task=40" in srun
    assert "-u -m submitit.core._submit" in text
    assert json.loads((folder.parent / "job.json").read_text()) == {"cluster": "slurm", "job": "71"}


@pytest.mark.parametrize(
    ("launch", "training", "wanted"),
    [
        ({"options": {**OPTIONS, "gres": "gpu:a100:8"}}, False, "gres=gpu:a100:8"),
        ({"options": {**OPTIONS, "signal_delay_s": 60}}, True, "signal=USR2@60"),
    ],
)
def test_options_take_the_place_of_what_cotbal_would_say(
    slurm: Path, launch: dict[str, Any], training: bool, wanted: str
) -> None:
    engine(slurm, use_cpu=training, **launch).start(command(slurm))
    text = next((slurm / "m" / "run" / "running" / "mini" / "jobs").glob("*_submission.sh")).read_text()
    assert f"#SBATCH --{wanted}\n" in text
    assert "gpus-per-node" not in text


@pytest.mark.parametrize(("state", "again"), [("PENDING", False), ("RUNNING", False), ("CANCELLED", True)])
def test_a_job_of_an_earlier_call_is_found_again(slurm: Path, state: str, again: bool) -> None:
    (slurm / "state").write_text(state)
    made = engine(slurm)
    place = slurm / "m" / "run" / "running" / "mini"
    place.mkdir(parents=True)
    (place / "job.json").write_text(json.dumps({"cluster": "slurm", "job": "70"}))
    started = made.start(command(slurm))
    assert started is not None
    assert any(call.startswith("sbatch") for call in calls(slurm)) == again
    assert (started.ended() is None) == (state != "CANCELLED" or again)


def test_a_request_to_stop_spares_the_checkpoint(slurm: Path) -> None:
    started = engine(slurm).start(command(slurm))
    assert started is not None
    started.stop()
    assert [call for call in calls(slurm) if call.startswith("scancel")] == [
        "scancel --state=PENDING 71",
        "scancel --signal=TERM 71",
    ]


def test_a_machine_that_sees_other_files_or_versions_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cotbal.units.launch.remote._SEEN_SECONDS", 0.0)
    unit = remote_unit(command(tmp_path), OutputFolder(tmp_path / "run"))
    assert unit.refusal() == ""
    unit.token.write_text("another folder")
    refused = SlurmUnit(unit, tmp_path / "stop")()
    assert refused.code == 1
    assert "does not see the output folder" in refused.words
    assert not unit.has_begun
    monkeypatch.setattr("cotbal.units.launch.remote.versions", lambda: {**unit.versions, "torch": "1.0"})
    assert f"torch 1.0 in place of {unit.versions['torch']}" in unit.refusal()
