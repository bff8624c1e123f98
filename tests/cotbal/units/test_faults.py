"""Faults of disks, workers and metrics: told with the file or the task, and never as an error inside cotbal."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.models import tiny_models
from torch.utils.data import DataLoader, Dataset

from cotbal.atomic import replacing
from cotbal.config.yaml_file import ConfigError
from cotbal.metrics.metric import Metric
from cotbal.units.faults import plain_faults, score_with


def metric(function: object) -> Metric:
    return Metric("mine:score", True, "generation", function)  # type: ignore[arg-type]


def _raises(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    raise ZeroDivisionError("division by zero")


def _exits(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    sys.exit("bye")


def _recurses(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    return _recurses(predictions, references)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_raises, "ZeroDivisionError: division by zero"),
        (_exits, "SystemExit: bye"),
        (_recurses, "RecursionError"),
        (lambda p, r: [float("nan")], "finite number"),
        (lambda p, r: [], "0 scores for 1"),
    ],
    ids=["raises", "exits", "recurses", "nan", "too few"],
)
def test_whatever_a_metric_does_is_the_metrics(function: object, message: str) -> None:
    with pytest.raises(ConfigError, match=f"task 'vqa', metric mine:score: .*{message}"):
        score_with(metric(function), ["a"], [["a"]], "vqa")


def test_a_metric_may_be_interrupted() -> None:
    def interrupted(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_with(metric(interrupted), ["a"], [["a"]], "vqa")


def _full(limit: int, code: str) -> str:
    """Code for a process whose files may not grow beyond a limit, as on a disk that is full."""
    head = f"""
        import resource, sys
        from pathlib import Path
        from cotbal.units.faults import plain_faults
        from support.models import tiny_models
        folder = Path(sys.argv[1])
        model = tiny_models.tiny_llama()[0]
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
    """
    return textwrap.dedent(head) + code


@pytest.mark.parametrize(
    ("limit", "code"),
    [
        (10_000, "model.save_pretrained(folder)"),
        (10_000, "import torch; torch.save(model.state_dict(), folder / 'optimizer.pt')"),
        # All of it is in the stream's own memory until the end.
        (0, "import torch; torch.save({'step': torch.zeros(1)}, folder / 'optimizer.pt')"),
    ],
    ids=["safetensors", "torch", "torch, at its end"],
)
def test_a_file_that_cannot_grow_is_told_with_its_folder(tmp_path: Path, limit: int, code: str) -> None:
    """safetensors and torch raise errors of their own kinds, without a path."""
    script = _full(limit, f"with plain_faults(folder):\n    {code}\n")
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(tiny_models.__file__).parents[2])},
        timeout=300,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("OSError: [Errno ")
    assert str(tmp_path) in last


def test_a_full_disk_is_told_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    stock = open

    def full(path: object, mode: str = "r", **options: object) -> object:
        return stock("/dev/full" if str(path).endswith(".tmp") else path, "w", encoding="utf-8")  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", full)
    with (
        pytest.raises(OSError, match=r"No space left on device: .*/a\.txt") as caught,
        replacing(tmp_path / "a.txt") as stream,
    ):
        stream.write("x" * 100_000)
    assert caught.value.errno == errno.ENOSPC


def test_a_worker_that_died_is_told_with_what_to_do(tmp_path: Path) -> None:
    class Dying(Dataset[int]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> int:
            os.kill(os.getpid(), 9)
            return index

    with (
        pytest.raises(
            ConfigError, match=r"worker died .*(killed|exited unexpectedly).*dataloader_num_workers"
        ),
        plain_faults(tmp_path),
    ):
        list(DataLoader(Dying(), num_workers=1))


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^shapes$"), plain_faults(tmp_path):
        raise RuntimeError("shapes")
    with pytest.raises(FileNotFoundError, match="nowhere"), plain_faults(tmp_path):
        (tmp_path / "nowhere").read_bytes()
    with pytest.raises(OSError, match=str(tmp_path)), plain_faults(tmp_path):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
