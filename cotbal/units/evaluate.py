"""What a trained model answers: one generated text (or one teacher-forced loss) per sample.

Samples are answered longest first, in batches fixed by their position in that order, and answers are appended to
``predictions/<task>.jsonl`` batch by batch. So a killed call goes on where it was, with the same batches, hence the
same padding and the same rounding, as one that was not interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel

import cotbal_kernels as ck
from cotbal.atomic import naming
from cotbal.data.collate import TaskCollator
from cotbal.data.prompts import PromptCollator
from cotbal.data.records import BadRecordsError, Record
from cotbal.metrics.metric import Metric
from cotbal.output.answer_file import Answer, answer_line, read_answer
from cotbal.units import ranks
from cotbal.units.generation import generating, generation_settings

__all__ = [
    "answer",
    "longest_first",
    "prepared",
    "teacher_forced_loss",
    "to_model",
    "workers_beside",
]

Prepared = TypeVar("Prepared")
# For ordering samples: about what the tokens of one picture take as characters of text.
_CHARACTERS_OF_A_PICTURE = 2000


def answer(
    model: PreTrainedModel,
    processor: Any,
    records: Sequence[Record],
    *,
    metric: Metric,
    batch_size: int,
    max_new_tokens: int,
    max_length: int | None,
    path: Path,
    generation: Mapping[str, Any] | None = None,
    workers: int | None = None,
    advance: Callable[[int], None] = lambda samples: None,
    source: str = "",
) -> list[Answer]:
    """Return one answer per record: the generated text, or what a metric of another kind reads off the model.

    Args:
        path: where answers are kept as they come; the complete batches already in it are not done again. Of
            several processes each answers its share of the batches, in a file of its own, and all get every answer.
        generation: see `cotbal.units.generation.generation_settings`; None: plain greedy.
        workers: processes that prepare pictures and prompts while the model answers; None: as many as help.
        advance: told how many samples were done or found done.
        source: what the answers come from, such as the seal of the model; answers of another source are not kept.

    Raises:
        BadRecordsError: a record's picture or conversation cannot be used.
    """
    model.train(False)
    answers_of: _Answers
    if metric.kind == "loss":
        answers_of = _Losses(model, processor, max_length)
    elif metric.kind == "token_accuracy":
        answers_of = _Accuracies(model, processor, max_length)
    else:
        answers_of = _Generation(model, processor, max_new_tokens, generation)
    order = _share(longest_first(records), batch_size)
    share = ranks.world_size()
    if share > 1:
        path = path.with_name(f"{path.stem}.{ranks.rank()}-of-{share}{path.suffix}")
    kind = str if metric.kind == "generation" else float
    answers = _finished_batches(path, order, batch_size, kind, source)
    advance(share * len(answers))
    left = [
        [records[index] for index in order[start : start + batch_size]]
        for start in range(len(answers), len(order), batch_size)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without a buffer: what cannot be written fails where it is written, not once more when the file is closed.
    with path.open("ab", buffering=0) as stream, torch.inference_mode():
        for batch in prepared(left, answers_of.collate, _workers(workers, model.device, len(left))):
            found = answers_of.answers(batch)
            places = order[len(answers) : len(answers) + len(found)]
            with naming(path):
                lines = "".join(answer_line(i, a, source) for i, a in zip(places, found, strict=True))
                stream.write(lines.encode())
            answers += found
            advance(share * len(found))
    by_index: dict[int, Answer] = {}
    for part in ranks.gathered(dict(zip(order, answers, strict=True))):
        by_index |= part
    return [by_index[index] for index in range(len(records))]


def _share(order: list[int], batch_size: int) -> list[int]:
    """Of the batches that an order is cut into, those that this process answers: every W-th of W processes."""
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [index for batch in batches[ranks.rank() :: ranks.world_size()] for index in batch]


class _Answers(Protocol):
    """How a batch is prepared, perhaps in another process, and answered."""

    def collate(self, records: Sequence[Record]) -> dict[str, Any]: ...
    def answers(self, batch: dict[str, Any]) -> list[Answer]: ...


class _Generation:
    """Generated text; greedy, unless `generation` says otherwise."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        max_new_tokens: int,
        generation: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.pad = getattr(processor, "tokenizer", processor).pad_token_id
        self.prompts = PromptCollator(processor)
        self.max_new_tokens = max_new_tokens
        self.settings = generation_settings({}) if generation is None else generation

    def collate(self, records: Sequence[Record]) -> dict[str, Any]:
        return self.prompts(records)

    def answers(self, batch: dict[str, Any]) -> list[Answer]:
        batch = to_model(batch, self.model)
        sampled = bool(self.settings.get("do_sample"))
        with torch.random.fork_rng(enabled=sampled):
            if sampled:
                # From the batch itself, so that a resumed call draws what an undisturbed one would.
                torch.manual_seed(int(batch["input_ids"].sum()))
            with generating(self.model, self.pad, self.settings, self.max_new_tokens):
                tokens = self.model.generate(**batch)
        return list(self.prompts.decode(batch, tokens))

    def __call__(self, records: Sequence[Record]) -> list[Answer]:
        return self.answers(self.collate(records))


class _Losses:
    """Return the mean loss of each record's answer tokens."""

    def __init__(self, model: PreTrainedModel, processor: Any, max_length: int | None) -> None:
        self.model = model
        self.processor = processor
        self.max_length = max_length
        self.collators: dict[str, TaskCollator] = {}

    def collate(self, records: Sequence[Record]) -> dict[str, Any]:
        task = records[0].task
        if task not in self.collators:
            self.collators[task] = TaskCollator(self.processor, [task], max_length=self.max_length)
        return self.collators[task](records)

    def answers(self, batch: dict[str, Any]) -> list[Answer]:
        return list(teacher_forced_loss(self.model, batch))


class _Accuracies(_Losses):
    """Return the share of each record's answer tokens that are ranked first."""

    def answers(self, batch: dict[str, Any]) -> list[Answer]:
        labels = batch["labels"]
        out = _teacher_forced(self.model, batch, task_ids=torch.arange(len(labels)), num_tasks=len(labels))
        return list((out.task_correct / out.task_tokens).tolist())


def teacher_forced_loss(model: PreTrainedModel, batch: dict[str, Any]) -> list[float]:
    """Return the mean negative log-likelihood of each row's supervised tokens, [B] floats, in nats."""
    return [float(value) for value in _teacher_forced(model, batch).sample_loss]


def _teacher_forced(
    model: PreTrainedModel, batch: dict[str, Any], task_ids: torch.Tensor | None = None, num_tasks: int = 1
) -> ck.LossOutput:
    inputs = {
        name: value for name, value in batch.items() if name not in ("labels", "loss_task_index", "loss_plan")
    }
    logits = model(**to_model(inputs, model)).logits
    return ck.cross_entropy(
        logits,
        batch["labels"].to(logits.device),
        None if task_ids is None else task_ids.to(logits.device),
        num_tasks=num_tasks,
        shift=True,
        reduction="sum",
    )


def longest_first(records: Sequence[Record]) -> list[int]:
    """Positions of the records, the longest conversation first: little padding, and memory runs out at once or never.

    Lengths are in characters, not tokens: they are known without decoding a picture.
    """

    def length(index: int) -> int:
        record = records[index]
        return sum(len(turn.text) for turn in record.turns) + _CHARACTERS_OF_A_PICTURE * len(record.images)

    return sorted(range(len(records)), key=lambda index: (-length(index), index))


class _Prepared(Dataset[Prepared | BadRecordsError]):
    """Batches ready for the model; an error is a value, as workers cannot hand on one with its list of problems."""

    def __init__(self, batches: list[list[Record]], collate: Callable[[Sequence[Record]], Prepared]) -> None:
        self.batches = batches
        self.collate = collate

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Prepared | BadRecordsError:
        try:
            return self.collate(self.batches[index])
        except BadRecordsError as error:
            return error


def prepared(
    batches: list[list[Record]], collate: Callable[[Sequence[Record]], Prepared], workers: int
) -> Iterator[Prepared]:
    """What `collate` makes of each batch, in order, made by so many processes, which start at once.

    Raises:
        BadRecordsError: as `collate` does, when the batch's turn comes.
    """
    found = iter(DataLoader(_Prepared(batches, collate), batch_size=None, num_workers=workers))
    return map(_raised, found)


def _raised(batch: Prepared | BadRecordsError) -> Prepared:
    if isinstance(batch, BadRecordsError):
        raise batch
    return batch


def _workers(wanted: int | None, device: torch.device, batches: int) -> int:
    """On a CPU the model uses all cores itself; see `workers_beside` for other devices."""
    return workers_beside(0 if wanted is None and device.type == "cpu" else wanted, batches)


def workers_beside(wanted: int | None, batches: int) -> int:
    """So many processes as are wanted, or up to four, prepare batches for a model that needs few of the cores."""
    return min(min(4, max(1, (os.cpu_count() or 1) - 1)) if wanted is None else wanted, batches)


def _finished_batches(
    path: Path,
    order: Sequence[int],
    batch_size: int,
    kind: type[str] | type[float] = str,
    source: str = "",
) -> list[Answer]:
    """Answers of the complete batches in the file, in the given order.

    The file is cut after them, or before the first that is damaged or of another source.
    """
    if not path.is_file():
        return []
    answers: list[Answer] = []
    ends = [0]
    with naming(path), path.open("rb") as stream:
        for line in stream:
            found = read_answer(line, kind, source)
            if found is None or len(answers) == len(order) or found[0] != order[len(answers)]:
                break
            answers.append(found[1])
            ends.append(ends[-1] + len(line))
    keep = len(answers) if len(answers) == len(order) else len(answers) - len(answers) % batch_size
    with path.open("rb+") as stream:
        stream.truncate(ends[keep])
    return answers[:keep]


def to_model(batch: dict[str, Any], model: PreTrainedModel) -> dict[str, Any]:
    """Move tensors to the model's device, and floating ones to its dtype."""
    moved: dict[str, Any] = {}
    for name, value in batch.items():
        if isinstance(value, torch.Tensor):
            moved[name] = value.to(model.device, model.dtype if value.is_floating_point() else None)
        else:
            moved[name] = value
    return moved
