"""A server to ask: one that is given by its address, or one that is started for a unit and ended after it."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from cotbal.config.server import ServerConfig
from cotbal.config.yaml_file import ConfigError
from cotbal.units.endpoint import keeper

__all__ = ["EndpointError", "Server", "given_server", "started_server"]

_HOST = "127.0.0.1"
_POLL_SECONDS = 0.25
# How often a waiting user is told what the server said last.
_TELL_SECONDS = 60.0
_STOP_SECONDS = 60.0
_LAST_LINES = 12
# A server that found these would wait for the unit's other processes to join it.
_OF_A_LAUNCHER = re.compile(
    r"((LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|(TORCHELASTIC|ACCELERATE|FSDP)_.*)"
)


class EndpointError(ConfigError):
    """The server that answers for a unit is not there, is another one, or does not answer as the model would."""


@dataclass(frozen=True)
class Server:
    """Where a server is, and how it fares.

    Attributes:
        base_url: its address up to `/v1`, without a slash at the end.
        model: what it calls the unit's model.
        process: what keeps it, where cotbal has started it.
        log: what it says, where cotbal has started it.
    """

    base_url: str
    model: str
    process: subprocess.Popen[bytes] | None = None
    log: Path | None = None

    def __str__(self) -> str:
        return f"server {self.base_url}" + (f" (output: {self.log})" if self.log else "")

    @property
    def root(self) -> str:
        """The address below which `/health` is."""
        return self.base_url.removesuffix("/v1")

    @property
    def has_ended(self) -> bool:
        """Whether a server that cotbal has started is no more."""
        return self.process is not None and self.process.poll() is not None

    def error(self, what: str) -> EndpointError:
        """An error of this server, with how it ended and what it said last."""
        ended = ""
        if self.process is not None and self.process.poll() is not None:
            ended = f"; it has ended with exit code {self.process.returncode}"
        lines = self.last_lines()
        said = "".join(f"\n    {line}" for line in lines)
        return EndpointError(f"{self}: {what}{ended}{'; it said last:' if lines else ''}{said}")

    def last_lines(self, count: int = _LAST_LINES) -> list[str]:
        """The last lines of its output that are not empty."""
        if self.log is None or not self.log.is_file():
            return []
        with self.log.open("rb") as stream:
            stream.seek(max(0, self.log.stat().st_size - 2**16))
            text = stream.read().decode(errors="replace")
        return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]


def given_server(settings: ServerConfig, unit: str, folder: Path) -> Server:
    """The server that a config names."""
    return Server(str(settings.base_url), settings.model_name(unit, str(folder)))


@contextlib.contextmanager
def started_server(
    settings: ServerConfig, unit: str, folder: Path, *, dtype: str, log: Path, say: Callable[[str], None]
) -> Iterator[Server]:
    """Start a server for one unit; it ends with the block, and with this process however that ends.

    Args:
        folder: what it loads, `{model}` in the command.
        dtype: what it computes in, `{dtype}` in the command.
        log: where its output goes.
        say: told while it starts.

    Raises:
        EndpointError: there is no such program, it ended, or it was not ready in time.
    """
    port = str(_free_port())
    values = {"{model}": str(folder), "{port}": port, "{host}": _HOST, "{unit}": unit, "{dtype}": dtype}
    words = filled(settings.command, values | {"{python}": sys.executable})
    if shutil.which(words[0]) is None:
        raise EndpointError(f"evaluation.server.command: there is no program '{words[0]}'")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        output.write(f"$ {shlex.join(words)}\n".encode())
        output.flush()
        # Of its own session: Ctrl-C reaches this process alone, which ends the server in its own time.
        process = subprocess.Popen(
            [sys.executable, "-I", str(Path(keeper.__file__)), *words],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if not _OF_A_LAUNCHER.fullmatch(name)},
        )
    server = Server(f"http://{_HOST}:{port}/v1", settings.model_name(unit, str(folder)), process, log)
    try:
        say(f"{unit}: starting its server, {shlex.join(words)}")
        _wait_until_ready(server, settings.start_seconds, lambda text: say(f"{unit}: {text}"))
        yield server
    finally:
        _stop(process)


def filled(words: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """The words with the placeholders' values; other braces stay, as commands may hold JSON."""
    found = []
    for word in words:
        for name, value in values.items():
            word = word.replace(name, value)
        found.append(word)
    return found


def _wait_until_ready(server: Server, seconds: float, say: Callable[[str], None]) -> None:
    began = told = time.monotonic()
    with httpx2.Client(timeout=5.0, trust_env=False) as http:
        while not _is_ready(http, server):
            now = time.monotonic()
            if server.has_ended:
                raise server.error("did not start")
            if now - began > seconds:
                raise server.error(f"was not ready after {seconds:g} s (evaluation.server.start_seconds)")
            if now - told > _TELL_SECONDS:
                told = now
                last = "".join(server.last_lines(1)) or "it has said nothing yet"
                say(f"its server has been starting for {(now - began) / 60:.0f} min: {last}")
            time.sleep(_POLL_SECONDS)


def _is_ready(http: httpx2.Client, server: Server) -> bool:
    """Whether `/health` says so; where there is none, whether models are listed."""
    try:
        found = http.get(f"{server.root}/health")
        if found.status_code == 404:
            found = http.get(f"{server.base_url}/models")
    except httpx2.TransportError:
        return False
    return found.status_code == 200


def _stop(process: subprocess.Popen[Any]) -> None:
    """Ask the keeper to end the server; its own patience is shorter than ours."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    # Workers that were forked meanwhile may hold the other end open.
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
