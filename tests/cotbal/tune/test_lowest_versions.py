"""With the lowest versions of pyproject.toml, training, evaluation and resuming, and a whole job, work as ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version
from support.models import tiny_mixture
from support.packaging.index import IndexUnreachable
from support.tune import lowest_versions
from support.tune.run_setups import run_on_ranks

from cotbal.output.store import OutputFolder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.version_info[:2] > lowest_versions.NEWEST_PYTHON,
        reason="the lowest versions have no wheels for this Python",
    ),
]

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
pairs = [pair.split(":") for pair in sys.argv[1:]]
print(json.dumps({name: [find_spec(module).origin, version(name)] for name, module in pairs}))
"""


@pytest.fixture(scope="module")
def folder(pytestconfig):
    try:
        return lowest_versions.install(pytestconfig.cache.mkdir("lowest-versions"))
    except IndexUnreachable as error:
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
    modules = {"pyyaml": "yaml", "pillow": "PIL", "scikit-learn": "sklearn"}
    bounds = lowest_versions.lowest()
    assert {"transformers", "accelerate", "peft", "numpy"} <= set(bounds)
    done = run_python(folder, "-c", WHAT_IS_FOUND, *(f"{name}:{modules.get(name, name)}" for name in bounds))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, number in bounds.items():
        place, version = found[name]
        assert Path(place).is_relative_to(folder.resolve())
        assert Version(version) == Version(number)


def test_no_connection_is_told_from_other_failures(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(IndexUnreachable):
        lowest_versions.install(tmp_path)
    assert not [path for path in tmp_path.iterdir() if "." not in path.name], "nothing half made is taken"


def test_setups(folder):
    found = lowest_versions.outcomes(folder)
    assert [outcome for outcome in found.values() if not outcome.passed] == []


@pytest.mark.parametrize("family", lowest_versions.NEED_NEWER)
def test_families_that_need_a_newer_transformers_are_refused_by_name(folder, family):
    refusal = "does not compute its loss from the head's logits.*A newer transformers may do so"
    with pytest.raises(RuntimeError, match=refusal):
        run_on_ranks([family], 1, extra=lowest_versions.environment(folder))


def test_a_whole_job(folder, tmp_path):
    """`cotbal run` on a small mixture: preparation, weights, comparison and report."""
    config = tiny_mixture.write_mixture(tmp_path / "mixture")
    done = run_python(folder, "-m", "cotbal", "run", str(config))
    assert done.returncode == 0, done.stdout + done.stderr
    output = config.parent / "run"
    states = {manifest.state for _, manifest in OutputFolder(output).manifests()}
    assert states == {"scored"}
    for name in ("scores.csv", "weights.json", "report/report.html", "report/report.md"):
        assert (output / name).stat().st_size > 0, name


def test_the_trainers_own_tests(folder):
    chosen = [f"{HERE / 'test_trainer.py'}::{name}" for name in CHOSEN]
    done = run_python(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default", *chosen)
    assert done.returncode == 0, done.stdout[-8000:]
