"""A unit's answers by a server, after it has been held to what the model answers in process."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from cotbal.config.schema import Config
from cotbal.config.server import ServerConfig
from cotbal.data.records import Record
from cotbal.output.answer_file import Answer, answer_line, read_answer
from cotbal.output.store import OutputFolder, json_line
from cotbal.units.answering import Answering, Questions
from cotbal.units.endpoint.client import Client, Reply
from cotbal.units.endpoint.comparison import (
    PicturePair,
    Reference,
    parting,
    picture_pair,
    reference_answers,
    spread,
    tolerance,
)
from cotbal.units.endpoint.identity import check_model, check_same_engine, engine_of
from cotbal.units.endpoint.requests import Request, RequestMaker
from cotbal.units.endpoint.server import Server, given_server, started_server
from cotbal.units.endpoint.serving_folder import serving_folder
from cotbal.units.evaluate import longest_first, prepared, workers_beside
from cotbal.units.progress import ScheduleProgress
from cotbal.units.schedule import Unit
from cotbal.units.train import release_memory

__all__ = ["by_server"]

# Samples of which a server has to answer one before anything else.
_OPENING = 3
# Pictures shown with one question where nothing is known of what the model would answer.
_PICTURES_WITHOUT_REFERENCE = 4


@dataclass(frozen=True)
class _Expected:
    """What the model answers in process to some samples of a task."""

    questions: Questions
    references: tuple[Reference, ...]
    pictures: PicturePair | None
    tolerance: float


@contextlib.contextmanager
def by_server(
    unit: Unit,
    questions: Sequence[Questions],
    *,
    config: Config,
    processor: Any,
    load: Callable[[], PreTrainedModel],
    dtype: str,
    output: OutputFolder,
    source: str,
    progress: ScheduleProgress,
) -> Iterator[Answering]:
    """A server that answers for a unit within the block.

    Before it is asked for a table it has to know the model's name, be the same engine as that of the table's other
    units, count the same tokens as we do, see pictures, and answer a few samples as the model does in process.

    Args:
        questions: of all tasks.
        load: gives the model on its device; it is gone again when a server is started.
        dtype: what a server is to compute in.
        source: what the model is, such as its seal.

    Raises:
        EndpointError: the server is none of this, or does not answer.
        BadRecordsError: a record cannot be asked, or the server cannot answer it and answers others.
    """
    settings = config.evaluation.server
    assert settings is not None
    say = progress.say
    expected = _expected(questions, load, processor, settings.compare, config.evaluation.batch_size)
    with contextlib.ExitStack() as stack:
        folder = output.unit(unit.name).model
        server: Server
        if settings.command:
            serving = output.running / unit.name / "serving"
            shutil.rmtree(serving, ignore_errors=True)
            stack.callback(shutil.rmtree, serving, ignore_errors=True)
            serving.mkdir(parents=True)
            # A name that no other unit's server answers to.
            shown = serving_folder(folder, serving / f"{unit.name}-{source.rpartition(':')[2][:12]}")
            log = output.output_of(f"{unit.name}-server")
            server = stack.enter_context(
                started_server(settings, unit.name, shown, dtype=dtype, log=log, say=say)
            )
        else:
            server = given_server(settings, unit.name, folder)
        client = Client(server, settings)
        endpoint = _Endpoint(client, settings, processor, config.evaluation.workers, source, progress)
        make, some = endpoint.maker(questions[0]), spread(questions[0].records, _OPENING)
        check_model(client, (make([record]) for record in some))
        engine = engine_of(client, settings.command)
        others = [manifest for _, manifest in output.manifests()]
        check_same_engine(unit, engine, others, server.error)
        endpoint.hold_to(engine, expected, questions)
        yield endpoint


class _Endpoint:
    """See `by_server`."""

    def __init__(
        self,
        client: Client,
        settings: ServerConfig,
        processor: Any,
        workers: int | None,
        source: str,
        progress: ScheduleProgress,
    ) -> None:
        self.engine: Mapping[str, Any] = {}
        self._client = client
        self._settings = settings
        self._processor = processor
        self._workers = workers
        self._source = source
        self._progress = progress

    def maker(self, questions: Questions) -> RequestMaker:
        """What makes the requests of a task."""
        name, options = self._client.server.model, self._settings.request
        return RequestMaker(self._processor, name, questions.max_new_tokens, options)

    def answers(self, questions: Questions) -> list[Answer]:
        """One answer per record; those on file are not asked for again."""
        records, path = questions.records, questions.path
        found = _kept(path, len(records), self._source)
        self._progress.advance(len(found))
        order = [index for index in longest_first(records) if index not in found]
        workers = workers_beside(self._workers, len(order))
        requests = prepared([[records[index]] for index in order], self.maker(questions), workers)
        with path.open("a", encoding="utf-8") as stream:

            def keep(index: int, reply: Reply) -> None:
                found[index] = reply.text
                stream.write(answer_line(index, reply.text, self._source))
                stream.flush()
                self._progress.advance(1)

            self._client.ask_all(zip(order, requests, strict=True), keep)
        return [found[index] for index in range(len(records))]

    def hold_to(
        self, engine: tuple[str, str], expected: Sequence[_Expected], questions: Sequence[Questions]
    ) -> None:
        """Compare a few answers with those in process, and note how that went.

        Raises:
            EndpointError: one is another than the model's, or the server does not see pictures.
        """
        equal = compared = 0
        for part in expected:
            for reference, text in zip(
                part.references, self._ask(part.questions, part.references), strict=True
            ):
                compared += 1
                equal += text == reference.text
                self._compare(part, reference, text)
            if part.pictures is not None:
                self._see(part, part.pictures)
        pictures = any(part.pictures for part in expected)
        if not expected:
            pictures = self._see_something(questions)
        self.engine = {
            "engine": "openai",
            "server": engine[0],
            "version": engine[1],
            "compared": compared,
            "equal": equal,
            "pictures_told_apart": pictures,
        }
        # Answers of another engine are not gone on with.
        self._source = json_line({"model": self._source, "engine": engine, "request": self._settings.request})

    def _compare(self, part: _Expected, reference: Reference, text: str) -> None:
        gap = parting(reference, text)
        if gap is None or gap <= part.tolerance:
            return
        record = reference.record
        raise self._client.server.error(
            f"does not answer as {self._client.server.model} does: task '{part.questions.task}', {record.source}, "
            f"record {record.index}: it answers {text!r}, the model in process {reference.text!r}, and is sure of it "
            f"(by {gap:.3g} nats where they part; {part.tolerance:g} may be rounding). It serves another model or in "
            "another dtype, makes other prompts or pictures, or applies the checkpoint's own penalties "
            "(generation_config.json). evaluation.server.compare: 0 leaves the comparison out"
        )

    def _see(self, part: _Expected, pair: PicturePair) -> None:
        first, second = self._ask(part.questions, [pair.first, pair.second])
        if first == second:
            record = pair.first.record
            raise self._client.server.error(
                f"does not see pictures: task '{part.questions.task}', {record.source}, record {record.index}: it "
                f"answers {first!r} to two pictures, where the model in process answers {pair.first.text!r} to one "
                f"and {pair.second.text!r} to the other"
            )
        self._compare(part, pair.second, second)

    def _see_something(self, questions: Sequence[Questions]) -> bool:
        """Whether any task's question is answered differently for different pictures; told where none is."""
        asked = False
        for each in questions:
            shown = [record for record in each.records if record.images]
            alike = [record for record in shown if len(record.images) == len(shown[0].images)]
            if len({record.images for record in alike}) < 2:
                continue
            asked = True
            records = [replace(shown[0], images=r.images) for r in spread(alike, _PICTURES_WITHOUT_REFERENCE)]
            if len(set(self._ask_records(each, records))) > 1:
                return True
        if asked:
            self._progress.say(
                f"warning: {self._client.server} gives the same answer to different pictures of one question; with "
                "evaluation.server.compare at 1 or more it would be known whether the model does"
            )
        return False

    def _ask(self, questions: Questions, references: Sequence[Reference]) -> list[str]:
        return self._ask_records(questions, [reference.record for reference in references])

    def _ask_records(self, questions: Questions, records: Sequence[Record]) -> list[str]:
        maker = self.maker(questions)
        found: dict[int, str] = {}

        def keep(index: int, reply: Reply) -> None:
            found[index] = reply.text

        requests: Iterator[tuple[int, Request]] = ((n, maker([record])) for n, record in enumerate(records))
        self._client.ask_all(requests, keep)
        return [found[index] for index in range(len(records))]


def _expected(
    questions: Sequence[Questions],
    load: Callable[[], PreTrainedModel],
    processor: Any,
    count: int,
    batch_size: int,
) -> list[_Expected]:
    if not count:
        return []
    model = load()
    model.train(False)
    found = []
    for each in questions:
        options = {"max_new_tokens": each.max_new_tokens, "batch_size": batch_size}
        references = reference_answers(model, processor, spread(each.records, count), **options)
        with_picture = next((reference for reference in references if reference.record.images), None)
        pair = (
            None
            if with_picture is None
            else picture_pair(model, processor, each.records, with_picture, **options)
        )
        found.append(_Expected(each, tuple(references), pair, tolerance(model.dtype)))
    del model
    release_memory()
    return found


def _kept(path: Path, count: int, source: str) -> dict[int, Answer]:
    """The answers on file, of this source; the file keeps no others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        return {}
    found: dict[int, Answer] = {}
    with path.open("rb") as stream:
        for line in stream:
            read = read_answer(line, str, source)
            if read is not None and read[0] < count:
                found[read[0]] = read[1]
    path.write_text("".join(answer_line(index, value, source) for index, value in found.items()), "utf-8")
    return found
