"""`cotbal` as a process that kills itself (SIGKILL) at a chosen point: what a test of resuming needs.

    python killed_run.py MODULE:FUNCTION COUNT WHEN -- ARGUMENTS OF COTBAL

WHEN is `before` or `after` the COUNT-th call of the function, or `torn`: that call is a write of a file, which is
cut in half first. A function that is a method is given as `module:Class.method`.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a process that was killed goes on")


def plant(target: str, count: int, when: str) -> None:
    """Wrap the target so that its count-th call is the process's last."""
    module_name, _, path = target.partition(":")
    owner: Any = importlib.import_module(module_name)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < count:
            return original(*args, **kwargs)
        if when != "before":
            original(*args, **kwargs)
        if when == "torn":
            for path in [
                Path(value) for value in (*args, *kwargs.values()) if isinstance(value, (str, Path))
            ]:
                if path.is_file():
                    os.truncate(path, path.stat().st_size // 2)
        die()

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    target, count, when, separator, *arguments = sys.argv[1:]
    if separator != "--" or when not in ("before", "after", "torn"):
        sys.exit(__doc__)
    plant(target, int(count), when)
    from cotbal.cli import main

    sys.exit(main(arguments))
