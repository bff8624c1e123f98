"""What a server answers is read, tried again or refused: against a real HTTP server with scripted answers."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cotbal.config.server import ServerConfig
from cotbal.config.yaml_file import ConfigError
from cotbal.data.records import BadRecordsError
from cotbal.units.endpoint import client as module
from cotbal.units.endpoint.client import Client
from cotbal.units.endpoint.requests import Request
from cotbal.units.endpoint.server import EndpointError, Server
from cotbal.units.stopping import UnitStoppedError

Answer = Callable[[dict[str, Any], int], tuple[int, Any]]


class Seen:
    """What a server was asked: bodies, headers, and the most requests at once."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()


@contextmanager
def serving(answer: Answer, **options: Any) -> Iterator[tuple[Client, Seen]]:
    seen = Seen()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with seen.lock:
                seen.bodies.append(body)
                seen.headers.append(dict(self.headers))
                seen.at_once += 1
                seen.most_at_once = max(seen.most_at_once, seen.at_once)
                times = sum(earlier == body for earlier in seen.bodies)
            status, values = answer(body, times)
            with seen.lock:
                seen.at_once -= 1
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(values).encode())

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield Client(Server(url, "mini"), ServerConfig(base_url=url, **options)), seen
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)


def request(number: int, pictures: int = 0) -> Request:
    return Request(json.dumps({"n": number}).encode(), 7, pictures, Path("v.json"), number)


def reply(text: str | None, tokens: int = 7, **changes: Any) -> dict[str, Any]:
    choice = {"message": {"content": text, **changes.pop("message", {})}, "finish_reason": "stop"}
    return {"choices": [{**choice, **changes}], "usage": {"prompt_tokens": tokens}}


def ask(client: Client, count: int) -> dict[int, str]:
    found: dict[int, str] = {}
    client.ask_all(
        ((n, request(n)) for n in range(count)), lambda n, answer: found.__setitem__(n, answer.text)
    )
    return found


def test_every_answer_comes_with_its_number_and_never_more_are_in_flight(tmp_path):
    def answer(body: dict[str, Any], times: int) -> tuple[int, Any]:
        time.sleep(0.02 * (body["n"] % 3))
        return 200, reply(f" {body['n']} ")

    with serving(answer, in_flight=3) as (client, seen):
        assert ask(client, 20) == {n: str(n) for n in range(20)}
        assert seen.most_at_once == 3


def test_requests_are_taken_only_when_they_can_be_sent():
    taken = []
    go = threading.Event()

    def requests() -> Iterator[tuple[int, Request]]:
        for n in range(10):
            taken.append(n)
            yield n, request(n)

    def answer(body: dict[str, Any], times: int) -> tuple[int, Any]:
        go.wait(10)
        return 200, reply("x")

    with serving(answer, in_flight=2) as (client, _):
        thread = threading.Thread(target=client.ask_all, args=(requests(), lambda n, found: None))
        thread.start()
        time.sleep(0.5)
        assert len(taken) <= 2
        go.set()
        thread.join(30)
    assert taken == list(range(10))


def test_a_busy_server_is_asked_again():
    with serving(lambda body, times: (200, reply("x")) if times == 3 else (429, {})) as (client, seen):
        assert ask(client, 1) == {0: "x"}
        assert len(seen.bodies) == 3


def test_a_server_that_stays_busy_is_not_asked_for_ever():
    with serving(lambda body, times: (503, {"error": "loading"})) as (client, seen):
        with pytest.raises(
            EndpointError, match=r"status 503 .*loading.* when asked v.json, record 0, 6 times"
        ):
            ask(client, 1)
        assert len(seen.bodies) == 6


def test_a_refused_record_is_named_at_once():
    answer: Answer = lambda body, times: (400, {"error": "too long"}) if body["n"] == 2 else (200, reply("x"))
    with serving(answer, in_flight=1) as (client, seen):
        with pytest.raises(BadRecordsError, match=r"status 400 .*too long") as caught:
            ask(client, 5)
        assert caught.value.problems[0].index == 2
        assert len(seen.bodies) == 3


def test_a_server_that_is_not_there():
    client = Client(Server("http://127.0.0.1:9/v1", "mini"), ServerConfig(base_url="http://127.0.0.1:9/v1"))
    with pytest.raises(EndpointError, match="cannot be reached"):
        ask(client, 1)


def test_a_silent_server_is_not_waited_for_for_ever():
    def answer(body: dict[str, Any], times: int) -> tuple[int, Any]:
        time.sleep(1.0)
        return 200, reply("late")

    with (
        serving(answer, request_seconds=0.2) as (client, _),
        pytest.raises(
            EndpointError, match=r"did not answer within 0\.2 s when asked v.json, record 0, 2 times"
        ),
    ):
        ask(client, 1)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"choices": []}, "without one choice and usage.prompt_tokens"),
        (reply("x") | {"usage": None}, "without one choice and usage.prompt_tokens"),
        ([1], "without one choice and usage.prompt_tokens"),
        (reply("x", finish_reason="content_filter"), "finish_reason 'content_filter'"),
        (reply("x", message={"reasoning_content": "hm"}), "part of an answer into 'reasoning_content'"),
        (reply(None, message={"tool_calls": [{}]}), "part of an answer into 'tool_calls'"),
        (reply("x", tokens=6), "counted 6 tokens in the prompt of v.json, record 0, which has 7"),
    ],
)
def test_what_is_no_whole_answer_is_refused(found, message):
    with (
        serving(lambda body, times: (200, found)) as (client, _),
        pytest.raises(EndpointError, match=message),
    ):
        ask(client, 1)


def test_an_empty_answer_is_an_answer():
    with serving(lambda body, times: (200, reply(None))) as (client, _):
        assert ask(client, 1) == {0: ""}


def test_the_key_comes_from_the_environment_and_is_sent(monkeypatch):
    monkeypatch.setenv("MY_KEY", "s3cret")
    with serving(lambda body, times: (200, reply("x")), api_key_env="MY_KEY") as (client, seen):
        ask(client, 1)
        assert seen.headers[0]["Authorization"] == "Bearer s3cret"
    monkeypatch.delenv("MY_KEY")
    with (
        pytest.raises(ConfigError, match="the environment variable MY_KEY is not set"),
        serving(lambda body, times: (200, reply("x")), api_key_env="MY_KEY"),
    ):
        pass


def test_a_signal_ends_it_at_once():
    def stop(*_: object) -> None:
        raise UnitStoppedError("stopped")

    def answer(body: dict[str, Any], times: int) -> tuple[int, Any]:
        time.sleep(20)
        return 200, reply("x")

    earlier = signal.signal(signal.SIGTERM, stop)
    began = time.monotonic()
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    try:
        with serving(answer) as (client, _), pytest.raises(UnitStoppedError):
            ask(client, 3)
    finally:
        signal.signal(signal.SIGTERM, earlier)
    assert time.monotonic() - began < 10


def test_what_keep_raises_comes_out():
    def keep(number: int, found: object) -> None:
        raise OSError(28, "No space left on device")

    with (
        serving(lambda body, times: (200, reply("x"))) as (client, _),
        pytest.raises(OSError, match="No space"),
    ):
        client.ask_all(((n, request(n)) for n in range(50)), keep)
