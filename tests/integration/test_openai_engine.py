"""The whole job with `transformers serve` started for each unit: the scores of in-process scoring, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.models import tiny_mixture
from support.units.endpoints import SERVE

from cotbal.method.weights import TaskWeights

pytestmark = pytest.mark.slow
# Enough for answers that are words, and that differ between units.
TRAINING = {
    "num_train_epochs": 12,
    "learning_rate": 5e-3,
    "per_device_train_batch_size": 4,
    "logging_steps": 5,
    "use_cpu": True,
}
OPENAI = {"batch_size": 4, "engine": "openai", "server": {"command": SERVE, "in_flight": 3}}


def mixture(folder: Path, evaluation: dict[str, object]) -> Path:
    return tiny_mixture.write_mixture(
        folder,
        samples=24,
        metrics=("anls", "exact_match"),
        training=TRAINING,
        preparation={"mini_fraction": 0.5},
        comparison={"strategies": ["cotbal"], "seeds": [0]},
        evaluation=evaluation,
    )


def run(config: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return cotbal(config, "run", *options)


def cotbal(
    config: Path, command: str, *options: str, launcher: tuple[str, ...] = ("cotbal",)
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "XDG_STATE_HOME": str(config.parent / "state"),
    }
    words = [sys.executable, "-m", *launcher, command, str(config), *options]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment, timeout=800)


def scores(config: Path) -> dict[str, bytes]:
    found = sorted((config.parent / "run" / "units").glob("*/scores.jsonl"))
    return {path.parent.name: path.read_bytes() for path in found}


def test_the_whole_job_through_a_server(tmp_path: Path) -> None:
    alone = mixture(tmp_path / "alone", {"batch_size": 4})
    done = run(alone)
    assert done.returncode == 0, done.stderr
    served = mixture(tmp_path / "served", OPENAI)
    refused = run(served)
    assert refused.returncode == 2
    assert "evaluation.server.command runs" in refused.stderr
    assert "add --allow-code" in refused.stderr
    done = run(served, "--allow-code")
    assert done.returncode == 0, done.stderr
    assert scores(served) == scores(alone)
    assert len(scores(served)) == 4
    answers = {
        json.loads(line)["prediction"] for text in scores(served).values() for line in text.splitlines()
    }
    assert len(answers) > 1, "all answers are the same, which would hide much"
    weights = [TaskWeights.load(path.parent / "run" / "weights.json").as_dict() for path in (alone, served)]
    assert weights[0] == weights[1]
    # Every unit had a server of its own, with a model of its own name.
    for unit in scores(served):
        folder = served.parent / "run" / "units" / unit
        engine = json.loads((folder / "manifest.json").read_text())["engine"]
        assert (engine["engine"], engine["server"]) == ("openai", "transformers")
        assert engine["compared"] == engine["equal"] > 0
        log = (served.parent / "run" / "logs" / f"{unit}-server.log").read_text()
        assert f"/serving/{unit}-" in log.splitlines()[0]
        assert log.count('POST /v1/chat/completions HTTP/1.1" 200') >= 16
    assert "server: transformers" in (served.parent / "run" / "report" / "report.html").read_text()
    # One table, one engine.
    values = yaml.safe_load(served.read_text())
    values["evaluation"] = {"batch_size": 4}
    served.write_text(yaml.safe_dump(values, sort_keys=False))
    mixed = run(served, "--allow-code")
    assert mixed.returncode == 2
    assert "mini would have to be scored again" in mixed.stderr
    assert "colour.engine: was 'openai', is gone" in mixed.stderr


def test_of_several_processes_the_first_asks_for_all(tmp_path: Path) -> None:
    config = mixture(tmp_path / "m", OPENAI)
    values = yaml.safe_load(config.read_text())
    values["launch"] = {"processes": 2}
    values["training"] |= {"num_train_epochs": 2, "per_device_train_batch_size": 2}
    config.write_text(yaml.safe_dump(values, sort_keys=False))
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cotbal")
    done = cotbal(config, "unit", "mini", "--allow-code", launcher=launcher)
    assert done.returncode == 0, done.stderr
    unit = config.parent / "run" / "units" / "mini"
    manifest = json.loads((unit / "manifest.json").read_text())
    assert manifest["state"] == "scored"
    assert len((unit / "scores.jsonl").read_text().splitlines()) == 2 * 12
    log = (config.parent / "run" / "logs" / "mini-server.log").read_text()
    # Nothing is asked twice: each sample once, four of each task and two more to compare, one to open.
    assert log.count("Uvicorn running") == 1
    assert 24 + 8 + 1 <= log.count("POST /v1/chat/completions") <= 24 + 8 + 1 + 2 + 1 + 2
