"""Runs a server and ends it when the process that asked for it ends, however that ends.

Run as a file: `python keeper.py COMMAND...`. The server stops when standard input closes, which a killed parent does
too, or on SIGTERM. It is a group of its own, so that the processes it starts end with it.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys

# How long a server may take to let go of its GPU before it is killed.
_PATIENCE_SECONDS = 20.0
_POLL_SECONDS = 0.1


def keep(words: list[str]) -> int:
    """Run a command until it ends or is no longer wanted; its exit code, 128 + n where signal n ended it."""
    server = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
    unwanted = False

    def stop(*_: object) -> None:
        nonlocal unwanted
        unwanted = True

    signal.signal(signal.SIGTERM, stop)
    while server.poll() is None and not unwanted:
        readable, _, _ = select.select([sys.stdin.fileno()], [], [], _POLL_SECONDS)
        # Nothing is ever written to it: what can be read is its end.
        unwanted = unwanted or bool(readable)
    _signal_group(server.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(_PATIENCE_SECONDS)
    _signal_group(server.pid, signal.SIGKILL)
    code = server.wait()
    return code if code >= 0 else 128 - code


def _signal_group(group: int, kind: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, kind)


if __name__ == "__main__":
    sys.exit(keep(sys.argv[1:]))
