"""Commands side by side, whatever starts them: followed, stopped together, started again if interrupted."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cotbal.config.yaml_file import ConfigError
from cotbal.output.unit_output import exit_codes, last_words
from cotbal.units.launch.command import UnitCommand
from cotbal.units.stopping import STOPPED, UnitStoppedError

__all__ = ["WITHDRAWN", "Ending", "Engine", "Started", "UnitFailedError", "follow_all", "interrupted"]

# How often the running commands are looked at.
_POLL_SECONDS = 0.2


class UnitFailedError(ConfigError):
    """A unit's command ended without having made it."""


@dataclass(frozen=True)
class Ending:
    """How a command ended.

    Attributes:
        code: its exit code, minus a signal's number, as `subprocess` has it.
        words: what is known beside what it said itself, for the message of a failure.
        interrupted: it was asked to stop, or killed: it would go on from its checkpoint.
    """

    code: int
    words: str = ""
    interrupted: bool = False


WITHDRAWN = Ending(STOPPED, "it was withdrawn before it began", interrupted=True)
"""How a command ended that never began."""


class Started(Protocol):
    """A command that an engine has taken on."""

    @property
    def command(self) -> UnitCommand: ...

    def ended(self) -> Ending | None:
        """How it ended; None before."""

    def stop(self) -> None:
        """Ask it to write a checkpoint and end; where it has not begun, it never will."""

    def withdraw(self) -> None:
        """Let it never begin; nothing happens if it has begun."""


class Engine(Protocol):
    """What starts commands, on this machine or on others.

    Attributes:
        retries: how often a command that was interrupted is to be given to it again.
    """

    @property
    def retries(self) -> int: ...

    def start(self, command: UnitCommand) -> Started | None:
        """Take a command on; None if there is no room for it before another has ended."""


def interrupted(code: int, command: UnitCommand) -> bool:
    """Whether a command that ended with this code was asked to stop, or killed, itself or one of its processes."""
    codes = [code]
    if code > 0 and command.processes > 1:
        # torchrun ends with 1, whatever its processes ended with.
        codes = exit_codes(command.log) or codes
    # Those that lose one of them to a kill may end with an error before the kill is seen.
    return codes[0] < 0 or codes[0] == STOPPED or -signal.SIGKILL in codes


def follow_all(
    commands: Iterable[UnitCommand],
    engine: Engine,
    *,
    watch: Callable[[Sequence[str]], None] = lambda running: None,
    finished: Callable[[str], None] = lambda unit: None,
    say: Callable[[str], None] = lambda message: None,
) -> None:
    """Let an engine run commands until all have ended.

    After a failure no further command begins, those that run end in their own time, and then the failure is
    raised. A SIGTERM to this process, or Ctrl-C, is passed on to every command, which then writes a checkpoint
    and stops.

    Args:
        watch: called a few times per second with the names of the units that run.
        finished: called when a unit's command has ended well.
        say: told of each retry.

    Raises:
        UnitFailedError: a command failed; it names the unit, how its command ended and where its output is.
        UnitStoppedError: the units were asked to stop.
    """
    waiting = list(commands)
    left = dict.fromkeys((command.unit for command in waiting), engine.retries)
    running: list[Started] = []
    failed: list[tuple[UnitCommand, Ending]] = []
    with _Stopping() as stopping:
        while running or (waiting and not failed and not stopping.asked):
            while waiting and not failed and not stopping.asked:
                started = engine.start(waiting[0])
                if started is None:
                    break
                running.append(started)
                del waiting[0]
            watch([each.command.unit for each in running])
            if stopping.newly_asked():
                for each in running:
                    each.stop()
            for each in list(running):
                ending = each.ended()
                if ending is None:
                    continue
                command = each.command
                watch([command.unit])
                running.remove(each)
                if ending.code == 0:
                    finished(command.unit)
                elif failed and ending == WITHDRAWN:
                    continue
                elif ending.interrupted and left[command.unit] and not failed and not stopping.asked:
                    left[command.unit] -= 1
                    waiting.insert(0, command)
                    say(
                        f"{command.unit} was interrupted and is started again (retries left: {left[command.unit]})"
                    )
                else:
                    failed.append((command, ending))
                    for other in running:
                        other.withdraw()
            time.sleep(_POLL_SECONDS)
    if stopping.asked:
        raise UnitStoppedError("stopped; the same command goes on from here")
    if failed:
        raise UnitFailedError("\n".join(_describe_failure(command, ending) for command, ending in failed))


def _describe_failure(command: UnitCommand, ending: Ending) -> str:
    """What is known of a command that failed: how it ended, what it said last, where the rest is."""
    code = ending.code
    ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    if ending.interrupted:
        ended += (
            "; it was asked to stop, or one of its processes was killed, and goes on from its last checkpoint"
        )
    more = f" ({ending.words})" if ending.words else ""
    said = last_words(command.log)
    quoted = "".join(f"\n    {line}" for line in said)
    return f"{command.unit}: its command {ended}{more}; {command.log} has all it said{':' if said else ''}{quoted}"


class _Stopping:
    """SIGTERM and Ctrl-C, noted while this is open."""

    def __init__(self) -> None:
        self.asked = False
        self._told = False

    def newly_asked(self) -> bool:
        """True once, after the first signal."""
        new = self.asked and not self._told
        self._told = self.asked
        return new

    def _note(self, *_: object) -> None:
        self.asked = True

    def __enter__(self) -> _Stopping:
        self._earlier = {kind: signal.signal(kind, self._note) for kind in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for kind, earlier in self._earlier.items():
            signal.signal(kind, earlier)
