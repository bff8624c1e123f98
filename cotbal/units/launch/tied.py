"""A process that does not outlive the one that started it: when that dies, it is sent SIGTERM and stops in its way.

    python -m cotbal.units.launch.tied PARENT COMMAND ...

becomes the command, tied to the process with the number PARENT. Linux alone can do so; elsewhere it is only started.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["become_tied", "tie_to", "tied_words"]

_PR_SET_PDEATHSIG = 1


def tied_words(words: tuple[str, ...]) -> tuple[str, ...]:
    """The words that start a command tied to this process."""
    return (sys.executable, "-m", "cotbal.units.launch.tied", str(os.getpid()), *words)


def tie_to(parent: int) -> None:
    """Let the system send SIGTERM to this process once its parent has died.

    It lasts as long as the thread of the parent that started this process, and over `exec`.

    Args:
        parent: its number; SIGTERM comes at once if this process has another parent by now.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def become_tied(arguments: list[str]) -> None:
    """Tie this process to a parent, and become the command."""
    parent, *words = arguments
    # A time limit is told to all processes of a job; what starts the command passes on what concerns it.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    tie_to(int(parent))
    os.execvp(words[0], words)


if __name__ == "__main__":
    become_tied(sys.argv[1:])
