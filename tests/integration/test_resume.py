"""`kill -9` at one point of `cotbal run` after another, then the same command: as if it had never happened."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.models import tiny_mixture

from cotbal.method.scores import ScoreTable
from cotbal.method.weights import TaskWeights
from cotbal.output.store import OutputFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

KILLED_RUN = Path(tiny_mixture.__file__).parents[1] / "units" / "killed_run.py"

# Each is a process that works on what the one before left, and dies: (function, which call of it, when).
POINTS = [
    # in the middle of a checkpoint, with nothing to fall back on
    ("cotbal.units.train:mark_complete", 1, "before"),
    # the second checkpoint's optimizer state is half written; the first is whole
    ("torch:save", 8, "torn"),
    # between the last step and the saved model
    ("cotbal.units.train:_save", 1, "before"),
    # the model is saved, but the manifest does not say so yet
    ("cotbal.units.train:_save", 1, "after"),
    # one batch of answers is on disk
    ("cotbal.units.evaluate:_Generation.answers", 2, "before"),
    # all answers are there, the scores are not
    ("cotbal.output.store:UnitFolder.write_scores", 1, "before"),
    # the scores are there, the manifest does not say so yet
    ("cotbal.output.store:UnitFolder.write_scores", 1, "after"),
    # one plus unit on, between optimizer steps
    ("cotbal.tune.trainer:begin_step", 5, "after"),
    # the preparation is done, the weights are not saved
    ("cotbal.method.weights:TaskWeights.save", 1, "before"),
    # in the tuned units: a whole checkpoint was made, then some steps more
    ("cotbal.units.train:_Watch.on_step_end", 5, "after"),
]


def environment() -> dict[str, str]:
    paths = [str(KILLED_RUN.parents[2]), *([os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else [])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def cotbal(*arguments: str, kill: tuple[str, int, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cotbal", *arguments]
    if kill is not None:
        target, count, when = kill
        command = [
            sys.executable,
            str(KILLED_RUN),
            target,
            str(count),
            when,
            "--",
            *arguments,
        ]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment(), timeout=600
    )


def products(output: Path) -> dict[str, str]:
    """Digests of everything the units are made for: models, per-sample scores, the score table, the weights."""
    files = [output / "scores.csv", output / "weights.json"]
    for folder, manifest in OutputFolder(output).manifests():
        assert manifest.state == "scored"
        files += [folder.path / "scores.jsonl", *folder.model.iterdir()]
    return {str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_mixture.write_mixture(tmp_path_factory.mktemp("resume") / "mixture")


@pytest.fixture(scope="module")
def uninterrupted(mixture: Path) -> Path:
    output = mixture.parent / "uninterrupted"
    done = cotbal("run", str(mixture), "--output", str(output))
    assert done.returncode == 0, done.stdout + done.stderr
    return output


def test_killed_again_and_again_it_ends_as_if_it_had_not_been(mixture: Path, uninterrupted: Path) -> None:
    output = mixture.parent / "killed"
    for point in POINTS:
        done = cotbal("run", str(mixture), "--output", str(output), kill=point)
        assert done.returncode == -signal.SIGKILL, f"{point} was not reached:\n{done.stdout}{done.stderr}"
    done = cotbal("run", str(mixture), "--output", str(output))
    assert done.returncode == 0, done.stdout + done.stderr
    assert products(output) == products(uninterrupted)
    assert not list(output.rglob("*.tmp")), "nothing unfinished is left behind"


def test_a_run_leaves_weights_models_scores_and_a_report(mixture: Path, uninterrupted: Path) -> None:
    weights = TaskWeights.load(uninterrupted / "weights.json").as_dict()
    assert list(weights) == ["colour", "count", "text"]
    assert weights["text"] == 1.0, "given in the config"
    assert weights["colour"] + weights["count"] == pytest.approx(2.0)
    table = ScoreTable.from_csv(uninterrupted / "scores.csv")
    assert table.models == ("mini", "plus_colour", "plus_count")
    assert table.higher_is_better == (False, True)
    assert set(table.groups) == {"colour", "count"}
    for folder, manifest in OutputFolder(uninterrupted).manifests():
        assert sorted(path.name for path in folder.path.iterdir()) == [
            "log.jsonl",
            "manifest.json",
            "model",
            "scores.jsonl",
        ]
        tasks = {entry.split("/")[1] for line in folder.log() for entry in line if entry.startswith("loss/")}
        assert tasks == set(manifest.training["data"]), "every task's loss is logged"
    trained = OutputFolder(uninterrupted).unit("cotbal-seed0").manifest()
    assert trained is not None
    assert trained.training["weights"] == weights
    report = json.loads((uninterrupted / "report" / "report.json").read_text())
    assert report
    page = (uninterrupted / "report" / "report.html").read_text()
    for word in ("colour", "count", "text", "CoTBal", "EW"):
        assert word in page


def test_a_finished_run_does_nothing_when_called_again(mixture: Path, uninterrupted: Path) -> None:
    before = {
        path: path.stat().st_mtime_ns for path in (uninterrupted / "units").rglob("*") if path.is_file()
    }
    done = cotbal("run", str(mixture), "--output", str(uninterrupted))
    assert done.returncode == 0, done.stdout + done.stderr
    assert {
        path: path.stat().st_mtime_ns for path in (uninterrupted / "units").rglob("*") if path.is_file()
    } == before
    assert "trained" not in done.stdout
