"""The lowest transformers, accelerate and peft of pyproject.toml train, evaluate and resume like the newest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import lowest_versions
import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
# Evaluation, logging, resuming and refusals: what leans on private parts of the Trainer.
CHOSEN = (
    "test_equal_weights_train_like_the_stock_trainer[llava]",
    "test_per_task_figures_cover_every_micro_batch_of_the_window",
    "test_evaluation_losses_are_the_stock_ones[qwen2_5_vl]",
    "test_evaluation_within_training_changes_nothing",
    "test_resuming_at_every_step_is_the_uninterrupted_run[dwa]",
    "test_every_family_resumes_its_weights[False-llava]",
    "test_a_step_that_misses_the_head_is_an_error",
)


@pytest.fixture(scope="module")
def folder(pytestconfig):
    try:
        return lowest_versions.install(pytestconfig.cache.mkdir("lowest-versions"))
    except lowest_versions.IndexUnreachable as error:
        pytest.skip(str(error))


def run_python(folder, *arguments):
    environment = {**os.environ, **lowest_versions.environment(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_the_folder_is_what_a_process_gets(folder):
    names = lowest_versions.PACKAGES
    code = f"import json, {', '.join(names)}; print(json.dumps([{', '.join(f'{n}.__version__' for n in names)}]))"
    done = run_python(folder, "-c", code)
    assert done.returncode == 0, done.stderr
    found = dict(zip(names, json.loads(done.stdout), strict=True))
    for name, number in lowest_versions.lowest().items():
        assert found[name].split(".")[: number.count(".") + 1] == number.split(".")


def test_setups(folder):
    found = lowest_versions.outcomes(folder)
    assert [outcome for outcome in found.values() if not outcome.passed] == []


def test_the_trainers_own_tests(folder):
    chosen = [f"{HERE / 'test_trainer.py'}::{name}" for name in CHOSEN]
    done = run_python(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default", *chosen)
    assert done.returncode == 0, done.stdout[-8000:]
