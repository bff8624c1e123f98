"""From records to batches: processor inputs, labels on answers only, task indices and the loss plan."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch.utils.data import get_worker_info

import cotbal_kernels as ck
from cotbal.atomic import naming
from cotbal.data.encode import Encoder
from cotbal.data.fields import record_task
from cotbal.data.formats import record_of
from cotbal.data.notation import notation_of
from cotbal.data.records import (
    BadRecordsError,
    OnBad,
    Problem,
    Record,
    RecordError,
    Turn,
    check_on_bad,
)
from cotbal.data.token_spans import supervised_tokens

logger = logging.getLogger(__name__)

# Workers count in slots of their own, so that no two processes write to one.
_COUNTER_SLOTS = 256
_SKIPPED, _SHORTENED = 0, 1

# What stands for a file in messages about dictionaries, which come from none.
_GIVEN = Path("batch")

Batch = dict[str, Any]


@dataclass(frozen=True)
class _Sample:
    """One row to be: its text, its tokens before images are expanded, and whose answer each token is."""

    record: Record
    task: int
    text: str
    tokens: tuple[int, ...]
    owners: tuple[int, ...]
    weights: tuple[float, ...]
    images: tuple[Image.Image, ...]
    notes: tuple[str, ...] = ()
    trained: bool = True


@dataclass(frozen=True)
class _Row:
    """Labels of one sample, and what truncation does to it."""

    positions: list[int]
    targets: list[int]
    weights: list[float]
    problem: str | None = None
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class Examined:
    """What becomes of one record when it is encoded alone.

    Attributes:
        problem: why it cannot be used, or not as a whole.
        fatal: nothing of it can be used.
        tokens: length of its row, images included, before any truncation.
        answer_tokens: how many of them are trained on.
        notes: what was said of its chat template.
    """

    problem: str | None
    fatal: bool
    tokens: int = 0
    answer_tokens: int = 0
    notes: tuple[str, ...] = ()


@dataclass
class TaskCollator:
    """Turns lists of records into training batches.

    A batch holds what the processor makes of the conversations (`input_ids`, `attention_mask`, image tensors,
    ...), right-padded, and

    - `labels` int64 [B, L]: the token ids of answer turns up to and including the end-of-turn marker,
      `ignore_index` elsewhere;
    - `loss_task_index` int64 [B]: each row's position in `tasks`;
    - `loss_plan`: the plan of the labels (`cotbal_kernels.planning`, shift=True), made on the CPU so that the
      loss needs no synchronisation; it carries the loss weights of turns that have others than 0 and 1 (an
      answer of weight 0 has no labels).

    Records are plain values, not dictionaries of columns, so the Trainer's `remove_unused_columns` leaves them as
    they are. A dictionary in one of the formats of `read_records`, such as a row of a `datasets.Dataset`, is taken
    too (relative image paths start from the working folder); `TaskBalancedTrainer` leaves it its columns.

    An answer is trained on whole or not at all. A record whose image cannot be decoded, whose template refuses it,
    or of which `max_length` leaves no whole answer, is refused or skipped as `on_bad` says; with "skip", a
    conversation of which some whole answers are left keeps those. Both are counted, over all data-loading
    workers (`skipped`, `shortened`), and logged once per record.

    Args:
        processor: a multimodal processor or, for text-only data, a tokenizer; it needs a chat template, a fast
            tokenizer and a padding token.
        tasks: names of the tasks, in the order of the task weights.
        max_length: longest row in tokens, images included; None: no limit.
        ignore_index: label of tokens that are not trained on.
        on_bad: "refuse" raises BadRecordsError; "skip" leaves out and counts.
        blank_image: give a batch without images one more row, a blank image without supervised tokens, so that
            the vision tower takes part in every step. Wanted where a mixture has records with and without
            images (`mixes_images`) and training is distributed.
        length_exponent: p, for tokens to weigh 1 / n^p in a row of n supervised tokens (`SquareAveraging`); 0: none.
        skipped_file: where records that are skipped are listed, one JSON object on each line, by all workers.

    Raises:
        ValueError: the processor lacks one of the above, `tasks` is empty or has duplicates, max_length < 1.
    """

    processor: Any
    tasks: Sequence[str]
    max_length: int | None = None
    ignore_index: int = -100
    on_bad: OnBad = "refuse"
    blank_image: bool = False
    length_exponent: float = 0.0
    skipped_file: Path | None = None
    takes_whole_records: ClassVar[bool] = True
    _counts: torch.Tensor = field(init=False, repr=False)
    _logged: set[tuple[Path, int]] = field(init=False, repr=False, default_factory=set)

    def __post_init__(self) -> None:
        check_on_bad(self.on_bad)
        self.tasks = tuple(self.tasks)
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks is {list(self.tasks)}; expected at least one name, each once")
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"max_length is {self.max_length}; expected 1 or more, or None for no limit")
        self._encoder = Encoder(self.processor)
        if self.blank_image and not self._encoder.sees:
            raise ValueError("blank_image is set, but the processor is a tokenizer that takes no images")
        self._numbers = {name: number for number, name in enumerate(self.tasks)}
        self._counts = torch.zeros(2, _COUNTER_SLOTS, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    @property
    def skipped(self) -> int:
        """Records left out so far; one that comes again in a later epoch counts again."""
        return int(self._counts[_SKIPPED].sum())

    @property
    def shortened(self) -> int:
        """Records of which only the first answers were kept so far."""
        return int(self._counts[_SHORTENED].sum())

    def __call__(self, records: Sequence[Record | Mapping[str, Any] | None]) -> Batch:
        """One batch of the records; None is a blank, and a batch of blanks alone is one row without an answer.

        Raises:
            BadRecordsError: `on_bad` is "refuse" and a record cannot be used.
            ValueError: a record's task is not among `tasks`.
            TypeError: something is neither a record nor a dictionary.
        """
        if not records:
            raise ValueError("an empty list of records cannot be collated")
        read = self._read([record for record in records if record is not None])
        task = self._numbers[read[0].task] if read and read[0].task in self._numbers else 0
        samples = self._samples(read)
        while True:
            if not samples:
                samples = [self._blank(task)]
            elif self.blank_image and not any(sample.images for sample in samples):
                samples = [*samples, self._blank(samples[0].task)]
            try:
                batch = self._encoder.encode(
                    [sample.text for sample in samples], [sample.images for sample in samples], side="right"
                )
            except Exception:
                # One row that the processor refuses must not cost the others, and has to be named.
                refused = {id(sample): self._alone(sample) for sample in samples if sample.trained}
                bad = {key: found for key, found in refused.items() if found.fatal}
                if not bad:
                    raise
                self._report([(s.record, bad[id(s)].problem, True) for s in samples if id(s) in bad])
                samples = [sample for sample in samples if sample.trained and id(sample) not in bad]
                continue
            rows = [self._row(sample, batch, number) for number, sample in enumerate(samples)]
            self._report([(s.record, row.problem, row.fatal) for s, row in zip(samples, rows, strict=True)])
            kept = [sample for sample, row in zip(samples, rows, strict=True) if not row.fatal]
            if len(kept) == len(samples):
                break
            # Image tensors of several rows are often one block: encode again rather than cut rows out.
            samples = [sample for sample in kept if sample.trained]
        return self._labelled(batch, samples, rows)

    def examine(self, record: Record) -> Examined:
        """What becomes of one record alone; nothing is raised, counted or logged.

        Raises:
            ValueError: the processor cannot serve such records at all.
        """
        try:
            return self._alone(self._sample(record))
        except RecordError as error:
            return Examined(str(error), True)

    def _alone(self, sample: _Sample) -> Examined:
        try:
            batch = self._encoder.encode([sample.text], [sample.images], side="right")
        except Exception as error:  # processors refuse with anything: ValueError, IndexError, TypeError, ...
            name = type(self.processor).__name__
            return Examined(f"{name} refuses it: {error or type(error).__name__}", True)
        row = self._row(sample, batch, 0)
        tokens = int(batch["attention_mask"][0].sum())
        return Examined(row.problem, row.fatal, tokens, len(row.targets), sample.notes)

    def _labelled(self, batch: Batch, samples: list[_Sample], rows: list[_Row]) -> Batch:
        ids = batch["input_ids"]
        # A blank row is never cut: its image's tokens must all be there.
        blank = [
            int(batch["attention_mask"][n].sum()) for n, sample in enumerate(samples) if not sample.trained
        ]
        if self.max_length is not None and ids.shape[1] > self.max_length:
            shape, limit = ids.shape, max([self.max_length, *blank])
            for name, value in batch.items():
                if isinstance(value, torch.Tensor) and value.shape == shape:
                    batch[name] = value[:, :limit].contiguous()
        labels = torch.full_like(batch["input_ids"], self.ignore_index)
        weights = torch.ones(labels.shape, dtype=torch.float32)
        for number, row in enumerate(rows):
            labels[number, row.positions] = torch.tensor(row.targets, dtype=labels.dtype)
            weights[number, row.positions] = torch.tensor(row.weights)
        if self.length_exponent:
            weights = weights * self._length_weights(labels)
        task_index = torch.tensor([sample.task for sample in samples], dtype=torch.int64)
        batch["labels"] = labels
        batch["loss_task_index"] = task_index
        batch["loss_plan"] = ck.plan(
            labels,
            task_index,
            num_tasks=len(self.tasks),
            token_weights=weights if self.length_exponent or bool((weights != 1).any()) else None,
            shift=True,
            ignore_index=self.ignore_index,
        )
        return batch

    def _length_weights(self, labels: torch.Tensor) -> torch.Tensor:
        """1 / n^p for every token of a row of n that are trained on, float32 [B, L]."""
        # The first position of a row predicts nothing that is before it: its label is never trained on.
        lengths = (labels[:, 1:] != self.ignore_index).sum(dim=1, keepdim=True).clamp_min(1)
        return (lengths**-self.length_exponent).expand_as(labels).contiguous()

    def _read(self, items: Sequence[Record | Mapping[str, Any]]) -> list[Record]:
        """The items as records; dictionaries are in one of the formats of `read_records`."""
        read: list[Record] = []
        problems: list[tuple[Record, str | None, bool]] = []
        for position, item in enumerate(items):
            if isinstance(item, Record):
                read.append(item)
                continue
            if not isinstance(item, Mapping):
                raise TypeError(
                    f"TaskCollator takes records, as read_records reads them, or dictionaries in one of its formats; "
                    f"found {type(item).__name__}"
                )
            task = self.tasks[0] if len(self.tasks) == 1 and record_task(item) is None else None
            try:
                read.append(
                    record_of(
                        item,
                        _GIVEN,
                        position,
                        root=Path(),
                        task=task,
                        notation=lambda: notation_of(self.processor),
                    )
                )
            except RecordError as error:
                stand_in = Record(str(position), self.tasks[0], (), (), (), _GIVEN, position)
                problems.append((stand_in, str(error), True))
        self._report(problems)
        return read

    def _samples(self, records: Sequence[Record]) -> list[_Sample]:
        samples: list[_Sample] = []
        problems: list[tuple[Record, str | None, bool]] = []
        for record in records:
            if record.task not in self._numbers:
                raise ValueError(
                    f"{record.source}, record {record.index}: task {record.task!r} is not in {self.tasks}"
                )
            try:
                samples.append(self._sample(record))
            except RecordError as error:
                problems.append((record, str(error), True))
        self._report(problems)
        return samples

    def _sample(self, record: Record) -> _Sample:
        chat = self._encoder.renderer.render(record)
        tokens, offsets = self._encoder.tokens(chat.text)
        return _Sample(
            record=record,
            task=self._numbers[record.task],
            text=chat.text,
            tokens=tokens,
            owners=tuple(supervised_tokens(offsets, chat.answers)),
            weights=chat.weights,
            images=self._encoder.images(record),
            notes=chat.notes,
        )

    def _blank(self, task: int) -> _Sample:
        """A row without supervised tokens: a blank image if the processor takes images, and two full stops."""
        text = "<image>\n." if self._encoder.sees else "."
        turns = (Turn("user", text), Turn("assistant", "."))
        stand_in = Record("", self.tasks[task], (), turns, (".",), _GIVEN, 0)
        images = (Image.new("RGB", (64, 64)),) if self._encoder.sees else ()
        rendered = self._encoder.renderer.render(stand_in).text
        return _Sample(stand_in, task, rendered, (), (), (), images, trained=False)

    def _row(self, sample: _Sample, batch: Batch, number: int) -> _Row:
        if not sample.trained:
            return _Row([], [], [])
        length = int(batch["attention_mask"][number].sum())
        expanded = batch["input_ids"][number, :length].tolist()
        try:
            places = self._encoder.locate(sample.tokens, expanded)
        except ValueError as error:
            return _Row([], [], [], problem=str(error), fatal=True)
        wanted = [
            position
            for position, owner in enumerate(sample.owners)
            if owner >= 0 and sample.weights[owner] > 0
        ]
        limit = self.max_length if self.max_length is not None else length
        lost = {sample.owners[position] for position in wanted if places[position] >= limit}
        kept = [position for position in wanted if sample.owners[position] not in lost]
        row = _Row(
            [places[position] for position in kept],
            [sample.tokens[position] for position in kept],
            [sample.weights[sample.owners[position]] for position in kept],
        )
        if not lost:
            return row
        answers = sum(weight > 0 for weight in sample.weights)
        fatal = len(lost) == answers or _images_end(places, length) > limit
        reason = (
            f"truncation to max_length={limit} cuts away {len(lost)} of {answers} answer(s): "
            f"the conversation has {length} tokens"
        )
        return replace(row, problem=reason, fatal=fatal)

    def _report(self, outcomes: Iterable[tuple[Record, str | None, bool]]) -> None:
        """Refuse, or count and log, the records that have a problem: (record, reason, whether it is lost)."""
        found = [(record, reason, lost) for record, reason, lost in outcomes if reason is not None]
        if not found:
            return
        if self.on_bad == "refuse":
            problems = [Problem(record.source, record.index, reason) for record, reason, _ in found]
            raise BadRecordsError(
                problems, "Mend the files or raise max_length, or leave bad records out with 'skip'."
            )
        worker = get_worker_info()
        slot = 0 if worker is None else 1 + worker.id % (_COUNTER_SLOTS - 1)
        for record, reason, lost in found:
            self._counts[_SKIPPED if lost else _SHORTENED, slot] += 1
            place = (record.source, record.index)
            if place not in self._logged:
                self._logged.add(place)
                verb = "left out" if lost else "shortened"
                logger.warning("%s, record %d %s: %s", record.source, record.index, verb, reason)
                self._list(record, f"{verb} while training: {reason}")

    def _list(self, record: Record, reason: str) -> None:
        if self.skipped_file is None:
            return
        line = json.dumps({"file": str(record.source), "index": record.index, "reason": reason}) + "\n"
        # One write in append mode: lines of several workers do not mix.
        with naming(self.skipped_file), self.skipped_file.open("ab", buffering=0) as stream:
            stream.write(line.encode())


def _images_end(places: Sequence[int], length: int) -> int:
    """Where the last image's tokens end in the expanded row: at the token after its placeholder; 0 without."""
    last = next((index for index in range(len(places) - 1, -1, -1) if places[index] < 0), None)
    if last is None:
        return 0
    return places[last + 1] if last + 1 < len(places) else length
