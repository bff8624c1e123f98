"""Commands of cotbal in children of one warmed-up process: a fork takes milliseconds, imports take many seconds.

The parent keeps to one thread (torch, OpenMP, tokenizers), as a fork after a parallel region would hang.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Ended", "cotbal", "finish", "start", "warm"]


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code, negative for the signal that killed it; and all it said."""

    code: int
    said: str


def warm(folder: Path) -> None:
    """Run a very small mixture whole in this process, so that children find everything imported."""
    import torch
    from support.models import tiny_mixture

    torch.set_num_threads(1)
    config = tiny_mixture.write_mixture(
        folder,
        samples=4,
        metrics=("loss", "loss"),
        weighing={"plain": True},
        training={"max_steps": 1, "per_device_train_batch_size": 2, "use_cpu": True},
        comparison={"strategies": ["cotbal"]},
    )
    ended = finish(*start(lambda: _main(["run", str(config)]), folder / "said.txt"))
    if ended.code:
        raise RuntimeError(f"the warming run ended with {ended.code}:\n{ended.said}")
    for module in (
        "cotbal.cli",
        "cotbal.report.write",
        "cotbal.units.export",
        "cotbal.units.train",
        "cotbal.units.runner",
    ):
        importlib.import_module(module)
    from cotbal.config.schema import load_config
    from cotbal.models.loading import load_model, load_processor

    settings = load_config(config)
    load_processor(settings.model)
    load_model(settings.model)


def cotbal(words: Sequence[object], said: Path) -> Ended:
    """Run a command to its end."""
    return finish(*start(lambda: _main([str(word) for word in words]), said))


def _main(words: list[str]) -> int:
    from cotbal.cli import main

    return main(words)


def start(function: Callable[[], int], said: Path) -> tuple[int, Path]:
    """Begin a child that calls the function and ends with what it returns; returns its number and `said`."""
    sys.stdout.flush()
    sys.stderr.flush()
    said.unlink(missing_ok=True)
    pid = os.fork()
    if pid:
        return pid, said
    code = 70
    try:
        os.setpgid(0, 0)
        number = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(number, 1)
        os.dup2(number, 2)
        code = function()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def finish(pid: int, said: Path) -> Ended:
    """Wait for a child, and end what it may have started."""
    _, status = os.waitpid(pid, 0)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    return Ended(os.waitstatus_to_exitcode(status), said.read_text(errors="replace") if said.exists() else "")
