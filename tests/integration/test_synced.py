"""A whole run as the system saw it: data are on the disk before anything vouches for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from soak.small_run import write_small_run
from soak.trace import CALLS, Event, events, violations

from cotbal.output.store import OutputFolder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Event], Path]:
    root = tmp_path_factory.mktemp("traced")
    config = write_small_run(root / "mixture")
    trace = root / "trace"
    done = subprocess.run(
        [
            "strace",
            "-f",
            "-y",
            "-o",
            trace,
            "-e",
            f"trace={CALLS}",
            sys.executable,
            "-m",
            "cotbal",
            "run",
            config,
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        timeout=800,
    )
    if not trace.is_file() or (done.returncode and "PTRACE" in done.stderr):
        pytest.skip(f"processes may not be traced here: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    with trace.open(errors="replace") as lines:
        return list(events(lines)), config.parent / "run"


def test_nothing_is_vouched_for_before_it_is_on_the_disk(traced: tuple[list[Event], Path]) -> None:
    found, output = traced
    wrong, vouching = violations(found, str(output))
    assert wrong == []
    names = [str(Path(path).relative_to(output)) for path in vouching]
    units = [manifest.unit for _, manifest in OutputFolder(output).manifests()]
    assert len(units) == 5
    for unit in units:
        told = [name.split("/", 2)[2] for name in names if name.startswith(f"units/{unit}/")]
        marks = [name for name in told if name.endswith("COMPLETE")]
        assert len(marks) >= 2
        # Planned; checkpoints; the model, then "trained"; the scores, then "scored".
        assert told == ["manifest.json", *marks, "model", "manifest.json", "scores.jsonl", "manifest.json"]
    assert names.index("scores.csv") < names.index("weights.json")
    assert names.count("seals.json") == 2


@pytest.mark.parametrize(
    "lost",
    [
        "mini/model.unfinished/model.safetensors",
        "mini/model.unfinished",
        "units/mini",
        "mini/checkpoints/checkpoint-2/optimizer.pt",
        "mini/checkpoints/checkpoint-2",
        "mini/.scores.jsonl",
        "mini/.log.jsonl",
        "mini/.manifest.json",
        "checkpoint-2/.COMPLETE",
        ".scores.csv",
        ".weights.json",
        ".seals.json",
        "run",
    ],
)
def test_a_sync_that_is_missing_is_seen(traced: tuple[list[Event], Path], lost: str) -> None:
    found, output = traced
    kept = [event for event in found if not (event.kind == "sync" and _is(event.path, lost))]
    assert len(kept) < len(found)
    wrong, _ = violations(kept, str(output))
    assert wrong


def _is(path: str, lost: str) -> bool:
    """Temporary files have names of their own, after that of the file that they become."""
    return path.endswith(f"/{lost}") or (lost.rpartition("/")[2].startswith(".") and f"/{lost}." in path)
