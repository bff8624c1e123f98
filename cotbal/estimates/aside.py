"""Estimates beside a run: in a process of their own, so that whatever goes wrong there leaves the run alone."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from cotbal.estimates.memory import NotEstimatedError

__all__ = ["estimated_aside"]

Result = TypeVar("Result")

# Less needs no word.
_QUICK_SECONDS = 2.0

# What launchers tell the processes that they start; the estimate is one process alone.
_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def estimated_aside(
    estimate: Callable[[], Result], seconds: float = 600, *, slow: Callable[[], None] = lambda: None
) -> Result:
    """What a function returns, called in a copy of this process.

    Tensors without data that a library keeps, random numbers that are drawn, processes that are pretended: none of it
    is left behind.

    Args:
        estimate: returns something that can be pickled.
        seconds: that it may take.
        slow: called once if there is no result after two seconds.

    Raises:
        NotEstimatedError: the function raised something, the copy died, or it took too long.
    """
    try:
        context: Any = multiprocessing.get_context("fork")
    except ValueError:
        raise NotEstimatedError("this system has no `fork`; `cotbal plan` estimates there") from None
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(estimate, sender), daemon=True)
    with warnings.catch_warnings():
        # Python warns of threads that the copy would wait for; it uses none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    sender.close()
    try:
        quick = receiver.poll(min(seconds, _QUICK_SECONDS))
        if not quick:
            slow()
        if not quick and not receiver.poll(max(0.0, seconds - _QUICK_SECONDS)):
            raise NotEstimatedError(f"it took longer than {seconds:.0f} s")
        value, fault = receiver.recv()
    except EOFError:
        process.join()
        raise NotEstimatedError(f"its process ended with exit code {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
        receiver.close()
    if fault is not None:
        raise NotEstimatedError(fault)
    result: Result = value
    return result


def _work(estimate: Callable[[], Any], sender: Any) -> None:
    import torch

    for name in _LAUNCHED:
        os.environ.pop(name, None)
    # The threads of the first process are not in its copy, which would wait for them.
    torch.set_num_threads(1)
    try:
        sender.send((estimate(), None))
    except BaseException as error:
        lines = str(error).strip().splitlines() or [""]
        sender.send((None, f"{type(error).__name__}: {lines[0]}"))
