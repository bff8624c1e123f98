"""The examples run as their docstrings say, the loops on two gloo processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.models.tiny_mixture import write_mixture

ROOT = Path(__file__).parents[3]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
# Not --cpu, which would start a single process: the script is told.
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
ACCELERATE += ["--num_machines", "1", "--main_process_port", "0"]


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    return write_mixture(tmp_path_factory.mktemp("mixture") / "made", text_only=False).parent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "script", "options", "weights"),
    [
        (ACCELERATE, "accelerate_loop.py", ["--cpu"], (":0.5", ":2.0")),
        (TORCHRUN, "torchrun_loop.py", ["--strategy", "dwa"], ("", "")),
        (TORCHRUN, "torchrun_loop.py", ["--strategy", "rlw", "--shard"], ("", "")),
    ],
    ids=["accelerate", "torchrun", "torchrun sharded"],
)
def test_example_runs(mixture, launcher, script, options, weights):
    tasks = [
        f"{name}={mixture / f'{name}_train.json'}{weight}"
        for name, weight in zip(("colour", "count"), weights, strict=True)
    ]
    job = [sys.executable, *launcher, str(ROOT / "examples" / script), *options]
    job += ["--model", str(mixture / "model"), "--images", str(mixture / "images")]
    job += ["--steps", "3", "--accumulation", "2", "--learning-rate", "0.01"]
    job += [part for task in tasks for part in ("--task", task)]
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        job, env={**os.environ, **settings}, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "4 micro-batches per step on 2 processes" in done.stdout
    lines = re.findall(r"^(\d) \{'colour': ([\d.]+|nan), 'count': ([\d.]+|nan)\}$", done.stdout, re.M)
    assert [line[0] for line in lines] == ["0", "1", "2"], done.stdout


@pytest.mark.slow
def test_trl_example_trains_and_saves(mixture, tmp_path):
    job = [sys.executable, str(ROOT / "examples" / "trl_sft.py"), "--cpu", "--output", str(tmp_path / "out")]
    job += ["--model", str(mixture / "model"), "--images", str(mixture / "images")]
    job += ["--task", f"colour={mixture / 'colour_train.json'}:0.5"]
    job += ["--task", f"count={mixture / 'count_train.json'}:2.0"]
    job += ["--steps", "6", "--accumulation", "4", "--learning-rate", "0.01", "--lora"]
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    settings["HF_DATASETS_CACHE"] = str(tmp_path / "cache")
    done = subprocess.run(
        job, env={**os.environ, **settings}, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for figure in ("loss/colour", "loss/count", "mean_token_accuracy", "num_tokens"):
        assert f"'{figure}'" in done.stdout, done.stdout
    assert "'weight/colour': '0.5', " in done.stdout
    assert "'weight/count': '2', " in done.stdout
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
