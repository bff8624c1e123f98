"""The command that makes one unit, the same whoever starts it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["NEEDED", "UnitCommand", "unit_command"]

NEEDED = "COTBAL_NEEDED_BYTES"
"""The variable that tells a unit on another machine what each of its processes needs by the estimate; 0: unknown."""

# Long enough to write a checkpoint of a large model; torchrun's own limit is 30 seconds.
SHUTDOWN_SECONDS = 1800


@dataclass(frozen=True)
class UnitCommand:
    """How to start one unit.

    Attributes:
        unit: its name.
        words: the command, word by word.
        processes: how many processes it starts, one per GPU where there are GPUs.
        log: where its output goes.
        environment: variables it gets beside the starting process's own.
    """

    unit: str
    words: tuple[str, ...]
    processes: int
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*variables, *map(shlex.quote, self.words)])


def unit_command(
    config: Path,
    unit: str,
    *,
    processes: int,
    log: Path,
    launcher: Sequence[str] = (),
    options: Sequence[str] = (),
    needed: int | None = None,
) -> UnitCommand:
    """The command of a unit: `python -m cotbal unit CONFIG NAME`, under torchrun for several processes.

    Args:
        launcher: words that take torchrun's place, `accelerate launch --config_file ...` for instance; they
            are followed by `-m cotbal unit CONFIG NAME`.
        options: of `cotbal unit`.
        needed: bytes of memory of each process by an estimate, 0 if it could not be made; None if nothing was
            estimated, or the machine is the one that it was estimated for.
    """
    own = ("-m", "cotbal", "unit", str(config), unit, *options)
    if launcher:
        words = (*launcher, *own)
    elif processes == 1:
        words = (sys.executable, *own)
    else:
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
        patience = ("--shutdown-timeout", str(SHUTDOWN_SECONDS)) if _knows_shutdown_timeout() else ()
        words = (sys.executable, *torchrun, *patience, *own)
    return UnitCommand(unit, words, processes, log, {} if needed is None else {NEEDED: str(needed)})


def _knows_shutdown_timeout() -> bool:
    from torch.distributed.run import get_args_parser

    return "--shutdown-timeout" in get_args_parser().format_help()
