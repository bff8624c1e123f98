"""Asking a server: many requests at once, and what goes wrong told apart: the record, the server, or its end."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import httpx2

from cotbal.config.server import ServerConfig
from cotbal.config.yaml_file import ConfigError
from cotbal.data.records import BadRecordsError, Problem
from cotbal.units.endpoint.requests import Request
from cotbal.units.endpoint.server import EndpointError, Server

__all__ = ["Client", "Reply"]

_Kind = Literal["record", "server", "busy", "fault", "silent", "lost"]
# How often a request is sent before its failure counts. What may be the record's own fault is not tried for long.
_TRIES: dict[_Kind, int] = {"record": 1, "server": 1, "busy": 6, "fault": 2, "silent": 2, "lost": 5}
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0
_BUSY = frozenset({429, 502, 503, 504})
_OF_THE_SERVER = frozenset({401, 403, 404, 405})
_SHOWN_CHARACTERS = 500


@dataclass(frozen=True)
class Reply:
    """An answer, and how many tokens the server has counted in the prompt."""

    text: str
    prompt_tokens: int


@dataclass(frozen=True)
class Failure:
    """Why there is no answer to one request, in words."""

    kind: _Kind
    said: str


class Client:
    """Asks one server.

    Args:
        server: whom.
        settings: the config's `evaluation.server`.

    Raises:
        ConfigError: the variable that `api_key_env` names is not set.
    """

    def __init__(self, server: Server, settings: ServerConfig) -> None:
        self.server = server
        self._settings = settings
        self._headers = {"Content-Type": "application/json"}
        if settings.api_key_env is not None:
            key = os.environ.get(settings.api_key_env)
            if not key:
                raise ConfigError(
                    f"evaluation.server.api_key_env: the environment variable {settings.api_key_env} is not set"
                )
            self._headers["Authorization"] = f"Bearer {key}"
        # A request that was answered: if it is answered again, another one's failure is its own.
        self._witness: bytes | None = None

    def get(self, url: str) -> Any:
        """The JSON at an address of the server; None where there is none."""
        try:
            with httpx2.Client(
                timeout=30.0, headers=self._headers, trust_env=not self._settings.is_local
            ) as http:
                found = http.get(url)
                return found.json() if found.status_code == 200 else None
        except (httpx2.TransportError, ValueError):
            return None

    def try_one(self, request: Request) -> Reply | Failure:
        """Ask once, with the usual patience, and say what came of it.

        Raises:
            EndpointError: the server is gone, or its answer cannot be read.
        """

        async def ask() -> Reply | Failure:
            async with self._http() as http:
                return await self._patiently(http, request)

        found = asyncio.run(ask())
        if isinstance(found, Reply):
            self._witness = request.body
        return found

    def ask_all(self, requests: Iterable[tuple[int, Request]], keep: Callable[[int, Reply], None]) -> None:
        """Ask everything, at most `in_flight` at once, and hand on the answers as they come, in any order.

        Args:
            requests: numbered; taken only when they can be sent, so that few pictures are in memory.
            keep: called with each answer and its request's number.

        Raises:
            BadRecordsError: the server cannot answer a record, and answers others.
            EndpointError: the server is gone, cannot answer anything, or has counted other tokens than we.
        """
        try:
            asyncio.run(self._ask_all(iter(requests), keep))
        except BaseExceptionGroup as group:
            raise _first(group) from None

    async def _ask_all(
        self, requests: Iterator[tuple[int, Request]], keep: Callable[[int, Reply], None]
    ) -> None:
        free = asyncio.Semaphore(self._settings.in_flight)

        async def answer(number: int, request: Request) -> None:
            try:
                keep(number, await self._answer(http, request))
            finally:
                free.release()

        async with self._http() as http, asyncio.TaskGroup() as group:
            while True:
                await free.acquire()
                numbered = await asyncio.to_thread(next, requests, None)
                if numbered is None:
                    break
                group.create_task(answer(*numbered))

    async def _answer(self, http: httpx2.AsyncClient, request: Request) -> Reply:
        found = await self._patiently(http, request)
        if isinstance(found, Failure):
            raise await self._explained(http, request, found)
        if found.prompt_tokens != request.tokens:
            raise self.server.error(_miscounted(request, found.prompt_tokens))
        self._witness = request.body
        return found

    async def _patiently(self, http: httpx2.AsyncClient, request: Request) -> Reply | Failure:
        pause = _FIRST_PAUSE
        for attempt in count(1):
            found = await self._post(http, request.body)
            if isinstance(found, Reply):
                return found
            if self.server.has_ended:
                raise self.server.error(f"{found.said} while it was asked {request}")
            if attempt >= _TRIES[found.kind]:
                break
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return found

    async def _explained(self, http: httpx2.AsyncClient, request: Request, failure: Failure) -> Exception:
        """Whose fault a failure is: a record's only if the server answers something else."""
        tries = _TRIES[failure.kind]
        times = "" if tries == 1 else f", {tries} times"
        if failure.kind == "record" or (
            failure.kind in ("fault", "silent") and await self._answers_others(http, request)
        ):
            reason = f"{self.server} {failure.said}{times}, and answers other records"
            problem = Problem(request.source, request.index, reason)
            return BadRecordsError(
                [problem],
                "Mend or remove the record; the answers to the others are kept, and are not asked for again.",
            )
        return self.server.error(f"{failure.said} when asked {request}{times}")

    async def _answers_others(self, http: httpx2.AsyncClient, request: Request) -> bool:
        if self._witness is None or self._witness == request.body:
            return False
        return isinstance(await self._post(http, self._witness), Reply)

    async def _post(self, http: httpx2.AsyncClient, body: bytes) -> Reply | Failure:
        try:
            found = await http.post(f"{self.server.base_url}/chat/completions", content=body)
        except httpx2.TimeoutException:
            return Failure("silent", f"did not answer within {self._settings.request_seconds:g} s")
        except httpx2.TransportError as error:
            return Failure("lost", f"cannot be reached ({error or type(error).__name__})")
        status = found.status_code
        if status == 200:
            return self._reply(found.content)
        kind: _Kind = (
            "busy"
            if status in _BUSY
            else "server"
            if status in _OF_THE_SERVER
            else "fault"
            if status >= 500
            else "record"
        )
        said = " ".join(found.text.split())[:_SHOWN_CHARACTERS]
        return Failure(kind, f"answered with status {status} ({said})")

    def _reply(self, content: bytes) -> Reply:
        """The answer in a response.

        Raises:
            EndpointError: it is none of OpenAI's, was not finished, or leaves out a part of what was generated.
        """
        try:
            values = json.loads(content)
            (choice,) = values["choices"]
            message, reason = choice["message"], choice["finish_reason"]
            text = message.get("content") or ""
            tokens = values["usage"]["prompt_tokens"]
            if type(tokens) is not int or not isinstance(text, str):
                raise TypeError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            shown = content[:_SHOWN_CHARACTERS].decode(errors="replace")
            raise self.server.error(
                f"answered without one choice and usage.prompt_tokens, which OpenAI-compatible servers give: {shown}"
            ) from None
        if reason not in ("stop", "length"):
            raise self.server.error(f"did not finish an answer (finish_reason {reason!r})")
        hidden = next(
            (name for name in ("reasoning_content", "reasoning", "tool_calls") if message.get(name)), None
        )
        if hidden is not None:
            raise self.server.error(
                f"has put a part of an answer into '{hidden}'; start it without parsers of reasoning and tools, so "
                "that answers come as they were generated"
            )
        return Reply(text.strip(), tokens)

    def _http(self) -> httpx2.AsyncClient:
        at_once = self._settings.in_flight
        return httpx2.AsyncClient(
            headers=self._headers,
            timeout=httpx2.Timeout(self._settings.request_seconds, connect=30.0),
            limits=httpx2.Limits(max_connections=at_once + 1, max_keepalive_connections=at_once),
            # A proxy has no business between this process and a server on the same machine.
            trust_env=not self._settings.is_local,
        )


def _miscounted(request: Request, counted: int) -> str:
    what = f"has counted {counted} tokens in the prompt of {request}, which has {request.tokens}"
    if request.pictures and counted < request.tokens - 1:
        return (
            f"{what} with its {request.pictures} picture(s). It has most likely loaded the model as text only and "
            "dropped what it was shown; serve the whole model, its processor included"
        )
    return (
        f"{what}. It makes the prompt in another way: look at its chat template and at the token that begins a text "
        "(vLLM leaves it out unless evaluation.server.request has add_special_tokens: true)"
    )


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """One error of several that came together; the end of a server explains the others."""
    found = list(_leaves(group))
    return next((error for error in found if isinstance(error, EndpointError)), found[0])


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
