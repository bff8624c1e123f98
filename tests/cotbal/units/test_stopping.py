"""A process that waits within torch for one that is gone ends at a SIGTERM all the same."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time

import pytest

from cotbal.units.stopping import STOPPED

WAITING = """
import os, sys, time
from torch.distributed import TCPStore
import signal
from cotbal.units.stopping import StopHandler, UnitStoppedError, ended_if_deaf

def stop():
    raise UnitStoppedError("heard")

signal.signal(signal.SIGTERM, StopHandler(stop))
with ended_if_deaf(1.0):
    if sys.argv[1] == "worker":
        child = os.fork()
        if not child:
            time.sleep(60)
        time.sleep(0.5)
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        time.sleep(2.0)
        os._exit(3)
    print("waiting", flush=True)
    try:
        if sys.argv[1] == "torch":
            TCPStore("127.0.0.1", int(sys.argv[2]), world_size=2, is_master=True)
        time.sleep(60)
    except UnitStoppedError:
        os._exit(4)
"""


def started(where: str) -> subprocess.Popen[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return subprocess.Popen([sys.executable, "-c", WAITING, where, port], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("where", "code"), [("torch", STOPPED), ("python", 4)])
def test_a_process_that_cannot_hear_ends(where: str, code: int) -> None:
    with started(where) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        time.sleep(1.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == code


def test_a_worker_that_is_told_to_end_is_no_word_to_its_parent() -> None:
    with started("worker") as process:
        assert process.wait(60) == 3
