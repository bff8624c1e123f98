"""Starting a server: ready or refused in time, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from cotbal.config.server import ServerConfig
from cotbal.units.endpoint.server import EndpointError, filled, started_server

HEALTHY = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404); self.end_headers()
HTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
"""
DRIVER = """
import os, signal, sys
from pathlib import Path
from cotbal.config.server import ServerConfig
from cotbal.units.endpoint.server import started_server
settings = ServerConfig(command=[sys.executable, "-c", sys.argv[1], "{model}", "{port}"])
options = {"dtype": "float32", "log": Path(sys.argv[2]), "say": lambda text: None}
with started_server(settings, "mini", Path("m"), **options) as server:
    print(server.base_url, flush=True)
    signal.pause()
"""


def start(folder: Path, code: str, **options: object):
    settings = ServerConfig(command=[sys.executable, "-c", code, "{model}", "{port}"], **options)
    return started_server(
        settings, "mini", folder / "m", dtype="float32", log=folder / "logs" / "s.log", say=lambda text: None
    )


def is_up(url: str) -> bool:
    try:
        return httpx2.get(f"{url.removesuffix('/v1')}/health", trust_env=False).status_code == 200
    except httpx2.TransportError:
        return False


def test_it_runs_within_the_block_and_no_longer(tmp_path):
    with start(tmp_path, HEALTHY) as server:
        assert is_up(server.base_url)
        assert server.model == str(tmp_path / "m")
    assert not is_up(server.base_url)


def test_it_does_not_take_itself_for_a_process_of_the_unit(tmp_path, monkeypatch):
    for name in (
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "MASTER_PORT",
        "TORCHELASTIC_RUN_ID",
        "ACCELERATE_USE_FSDP",
    ):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    shown = (
        "import os; print('has', *sorted(os.environ), os.environ['CUDA_VISIBLE_DEVICES'], flush=True);"
        + HEALTHY
    )
    with start(tmp_path, shown):
        (line,) = [
            text for text in (tmp_path / "logs" / "s.log").read_text().splitlines() if text.startswith("has ")
        ]
    names = line.split()
    assert names[-1] == "5"
    assert not {name for name in names if "RANK" in name or "WORLD" in name or "MASTER" in name}
    assert not {name for name in names if name.startswith(("TORCHELASTIC", "ACCELERATE"))}


def test_it_ends_with_the_block_that_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), start(tmp_path, HEALTHY) as server:
        1 / 0  # noqa: B018
    assert not is_up(server.base_url)


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_the_process_that_wanted_it(tmp_path, kind):
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, HEALTHY, str(tmp_path / "s.log")], stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    try:
        url = driver.stdout.readline().strip()
        assert is_up(url)
    finally:
        os.kill(driver.pid, kind)
        driver.communicate()
    deadline = time.monotonic() + 30
    while is_up(url):
        assert time.monotonic() < deadline, "the server outlives whoever started it"
        time.sleep(0.1)


def test_one_that_is_not_ready_in_time_is_given_up(tmp_path):
    sleeper = "import time; print('loading the model', flush=True); time.sleep(600)"
    with (
        pytest.raises(
            EndpointError, match=r"(?s)was not ready after 2 s .*start_seconds.*\n    loading the model"
        ),
        start(tmp_path, sleeper, start_seconds=2),
    ):
        pass


def test_one_that_ends_at_once_is_named_with_its_last_lines(tmp_path):
    with (
        pytest.raises(
            EndpointError, match=r"(?s)did not start; it has ended with exit code 3; .*\n    no GPU"
        ),
        start(tmp_path, "import sys; print('no GPU here'); sys.exit(3)"),
    ):
        pass


def test_a_program_that_is_not_there(tmp_path):
    settings = ServerConfig(command=["no-such-server", "{model}", "{port}"])
    with (
        pytest.raises(EndpointError, match="there is no program 'no-such-server'"),
        started_server(settings, "mini", tmp_path, dtype="float32", log=tmp_path / "log", say=print),
    ):
        pass


def test_placeholders_are_filled_in_and_other_braces_stay():
    words = ["--model={model}", '{"image": 4}', "{port}{port}", "{nothing}"]
    found = filled(words, {"{model}": "/a b", "{port}": "80"})
    assert found == ["--model=/a b", '{"image": 4}', "8080", "{nothing}"]
