"""What a child did of the work itself: optimizer steps and answered batches, one line each, as they are done."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["counted", "read_counts"]


def counted(command: Callable[[], int], file: Path) -> Callable[[], int]:
    """The command, which writes `step UNIT` and `batch UNIT` to the file, each by one write that no kill cuts."""

    def child() -> int:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        from cotbal.units import evaluate
        from cotbal.units.runner import Runner

        number = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        unit = ""

        def entering(name: str) -> None:
            stock = getattr(Runner, name)

            def noted(self: Any, which: Any, *rest: Any, **options: Any) -> Any:
                nonlocal unit
                unit = which.name
                return stock(self, which, *rest, **options)

            setattr(Runner, name, noted)

        def tell(kind: str) -> None:
            # Outside of units the estimate plays a step through.
            if unit:
                os.write(number, f"{kind} {unit}\n".encode())

        def answering(kind: Any) -> None:
            stock = kind.answers

            def noted(self: Any, batch: Any) -> Any:
                tell("batch")
                return stock(self, batch)

            kind.answers = noted

        entering("_run_unit")
        answering(evaluate._Generation)
        answering(evaluate._Losses)
        register_optimizer_step_post_hook(lambda *_: tell("step"))
        return command()

    return child


def read_counts(file: Path) -> Counter[tuple[str, str]]:
    """How often each kind of work was done for each unit."""
    lines = file.read_text().splitlines() if file.is_file() else []
    return Counter((kind, unit) for kind, _, unit in (line.partition(" ") for line in lines))
