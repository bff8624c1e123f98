"""The lowest transformers, accelerate and peft of pyproject.toml train, evaluate and resume like the newest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.tune import lowest_versions

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
WHAT_IS_FOUND = """
import json, sys
from importlib.metadata import version
from importlib.util import find_spec
print(json.dumps({name: [find_spec(name).origin, version(name)] for name in sys.argv[1:]}))
"""


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
    done = run_python(folder, "-c", WHAT_IS_FOUND, *lowest_versions.PACKAGES)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, number in lowest_versions.lowest().items():
        place, version = found[name]
        assert Path(place).is_relative_to(folder.resolve())
        assert version.split(".")[: number.count(".") + 1] == number.split(".")


def test_no_connection_is_told_from_other_failures(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(lowest_versions.IndexUnreachable):
        lowest_versions.install(tmp_path)
    assert not [path for path in tmp_path.iterdir() if "." not in path.name], "nothing half made is taken"


def test_setups(folder):
    found = lowest_versions.outcomes(folder)
    assert [outcome for outcome in found.values() if not outcome.passed] == []


def test_the_trainers_own_tests(folder):
    chosen = [f"{HERE / 'test_trainer.py'}::{name}" for name in CHOSEN]
    done = run_python(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default", *chosen)
    assert done.returncode == 0, done.stdout[-8000:]
