"""The whole job with one process per unit, with two, and with the model sharded over two: the same result."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.models import tiny_mixture
from transformers import AutoModelForImageTextToText

from cotbal.method.scores import ScoreTable
from cotbal.method.weights import TaskWeights

TRAINING = {
    "num_train_epochs": 2,
    "learning_rate": 5e-3,
    "per_device_train_batch_size": 2,
    "global_batch_size": 8,
    "save_steps": 2,
    "logging_steps": 2,
    "use_cpu": True,
}
# Three tasks of which one is text alone: 14 + 14 + 7 samples, which no layout of the processes divides.
SAMPLES = 14


def mixture(folder: Path, processes: int, **training: object) -> Path:
    return tiny_mixture.write_mixture(
        folder,
        samples=SAMPLES,
        training={**TRAINING, **training},
        comparison={"strategies": ["cotbal"], "seeds": [0]},
        preparation={"mini_fraction": 0.25},
        launch={"processes": processes},
    )


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run(config: Path, *command: str) -> subprocess.CompletedProcess[str]:
    first, *rest = command or ("run",)
    words = [sys.executable, "-m", "cotbal", first, str(config), *rest]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment(), timeout=600)


def results(config: Path) -> tuple[dict[str, dict[str, torch.Tensor]], ScoreTable, TaskWeights]:
    output = config.parent / "run"
    models = {
        path.parent.name: AutoModelForImageTextToText.from_pretrained(path, dtype="float32").state_dict()
        for path in sorted(output.glob("units/*/model"))
    }
    return models, ScoreTable.from_csv(output / "scores.csv"), TaskWeights.load(output / "weights.json")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = mixture(tmp_path_factory.mktemp("alone") / "m", 1)
    done = run(config)
    assert done.returncode == 0, done.stderr
    return config


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
def test_two_processes_give_what_one_gives(alone: Path, tmp_path: Path, sharding: str) -> None:
    config = mixture(tmp_path / "m", 2, **({"fsdp": True} if sharding == "fsdp2" else {}))
    done = run(config)
    logs = "".join(path.read_text() for path in (tmp_path / "m" / "run").glob("logs/*.log"))
    assert done.returncode == 0, done.stderr + logs[-4000:]
    models, scores, weights = results(config)
    wanted, wanted_scores, wanted_weights = results(alone)
    assert models.keys() == wanted.keys()
    for name, tensors in models.items():
        assert tensors.keys() == wanted[name].keys()
        for key, tensor in tensors.items():
            # Sums over two processes round otherwise; Adam's first steps divide by their size.
            torch.testing.assert_close(tensor, wanted[name][key], rtol=0, atol=2e-4)
    assert weights.as_dict() == pytest.approx(wanted_weights.as_dict(), abs=1e-3)
    for model in scores.models:
        for task in scores.tasks:
            assert scores.mean(model, task) == pytest.approx(wanted_scores.mean(model, task), abs=2e-3)
    # Two processes did train each unit, and every rank left its random state with the checkpoints' marks.
    manifest = json.loads((tmp_path / "m" / "run" / "units" / "mini" / "manifest.json").read_text())
    assert manifest["training"]["samples_per_step"] == 8
    assert "--nproc-per-node 2" in logs


@pytest.mark.slow
def test_groups_by_length_are_the_same_for_two_processes(tmp_path: Path) -> None:
    found = []
    for processes in (1, 2):
        config = mixture(
            tmp_path / str(processes), processes, train_sampling_strategy="group_by_length", save_steps=1000
        )
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        words = [sys.executable, *launcher, "-m", "cotbal", "unit", str(config), "plus_colour"]
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, env=environment(), timeout=600
        )
        assert done.returncode == 0, done.stderr
        unit = config.parent / "run" / "units" / "plus_colour"
        found.append(
            AutoModelForImageTextToText.from_pretrained(unit / "model", dtype="float32").state_dict()
        )
    for key, tensor in found[0].items():
        torch.testing.assert_close(found[1][key], tensor, rtol=0, atol=2e-4)


@pytest.fixture(scope="module")
def long_unit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = mixture(tmp_path_factory.mktemp("long") / "m", 1, num_train_epochs=60)
    done = run(config, "unit", "mini")
    assert done.returncode == 0, done.stderr
    return config.parent / "run" / "units" / "mini" / "model"


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_unit_that_is_told_to_stop_goes_on_to_the_same_model(
    long_unit: Path, tmp_path: Path, processes: int
) -> None:
    config = mixture(tmp_path / "m", processes, num_train_epochs=60, save_steps=1000)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    words = [
        sys.executable,
        *(launcher if processes > 1 else []),
        "-m",
        "cotbal",
        "unit",
        str(config),
        "mini",
    ]
    output = tmp_path / "m" / "run"
    unit = output / "units" / "mini"
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
    )
    deadline = time.monotonic() + 300
    while not _trains(output / "running" / "mini" / "progress.json"):
        assert time.monotonic() < deadline, "no step was made"
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=300)
    # torchrun ends with a code of its own where its processes end with 75.
    assert process.returncode == (75 if processes == 1 else 1), said
    assert json.loads((unit / "manifest.json").read_text())["state"] == "planned"
    assert list(unit.glob("checkpoints/checkpoint-*/COMPLETE")), said
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment(), timeout=600)
    assert done.returncode == 0, done.stderr
    found = AutoModelForImageTextToText.from_pretrained(unit / "model", dtype="float32").state_dict()
    wanted = AutoModelForImageTextToText.from_pretrained(long_unit, dtype="float32").state_dict()
    for key, tensor in found.items():
        if processes == 1:
            assert torch.equal(tensor, wanted[key])
        else:
            torch.testing.assert_close(tensor, wanted[key], rtol=0, atol=2e-3)


def _trains(path: Path) -> bool:
    try:
        values = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return bool(values["phase"] == "train" and values["done"] > 0)


def test_the_driver_is_not_for_torchrun(tmp_path: Path) -> None:
    config = mixture(tmp_path / "m", 1)
    words = [sys.executable, "-m", "cotbal", "run", str(config)]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        env={**environment(), "WORLD_SIZE": "2", "RANK": "0"},
        timeout=300,
    )
    assert done.returncode == 2
    assert "starts the processes of its units by itself" in done.stderr
