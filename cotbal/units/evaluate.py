"""Scoring a trained model: one greedy answer (or one teacher-forced loss) a sample, then the task's metric.

Answers are appended to ``predictions/<task>.jsonl`` batch by batch, so a killed call goes on where it was. Batches
are fixed by position, hence the same whether a call was interrupted or not: padding, and with it rounding, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

import cotbal_kernels as ck
from cotbal.config.yaml_file import ConfigError
from cotbal.data.collate import TaskCollator
from cotbal.data.prompts import PromptCollator
from cotbal.data.records import Record
from cotbal.metrics.metric import Metric
from cotbal.units.store import SampleScore, json_line

__all__ = ["answer", "check_references", "group_of", "score_samples", "teacher_forced_loss"]

Answer = str | float


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
    advance: Callable[[int], None] = lambda samples: None,
) -> list[Answer]:
    """One answer per record: the generated text, or the mean loss of its answer tokens for a ``loss`` metric.

    Args:
        path: where answers are kept as they come; the complete batches already in it are not done again.
        advance: told how many samples were done or found done.
    """
    done = _finished_batches(path, len(records), batch_size)
    advance(len(done))
    answers = list(done)
    one_batch: Callable[[Sequence[Record]], list[Answer]]
    if metric.kind == "loss":
        one_batch = _Losses(model, processor, max_length)
    else:
        one_batch = _Generation(model, processor, max_new_tokens)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream, torch.inference_mode():
        model.train(False)
        for batch in _batches(records[len(done) :], batch_size):
            found = one_batch(batch)
            first = len(answers)
            stream.write("".join(json_line({"index": first + i, "answer": a}) for i, a in enumerate(found)))
            stream.flush()
            answers += found
            advance(len(found))
    return answers


class _Generation:
    """Greedy generation for one batch."""

    def __init__(self, model: Any, processor: Any, max_new_tokens: int) -> None:
        self.model = model
        self.pad = getattr(processor, "tokenizer", processor).pad_token_id
        self.collate = PromptCollator(processor)
        self.max_new_tokens = max_new_tokens

    def __call__(self, records: Sequence[Record]) -> list[Answer]:
        batch = _to(self.collate(list(records)), self.model)
        tokens = self.model.generate(
            **batch,
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=self.pad,
        )
        return list(self.collate.decode(batch, tokens))


class _Losses:
    """Mean loss of each record's answer tokens."""

    def __init__(self, model: PreTrainedModel, processor: Any, max_length: int | None) -> None:
        self.model = model
        self.processor = processor
        self.max_length = max_length
        self.collators: dict[str, TaskCollator] = {}

    def __call__(self, records: Sequence[Record]) -> list[Answer]:
        task = records[0].task
        if task not in self.collators:
            self.collators[task] = TaskCollator(self.processor, [task], max_length=self.max_length)
        return list(teacher_forced_loss(self.model, self.collators[task](list(records))))


def teacher_forced_loss(model: PreTrainedModel, batch: dict[str, Any]) -> list[float]:
    """Mean negative log-likelihood of each row's supervised tokens, [B] floats, in nats."""
    inputs = {
        name: value for name, value in batch.items() if name not in ("labels", "loss_task_index", "loss_plan")
    }
    logits = model(**_to(inputs, model)).logits
    out = ck.cross_entropy(logits, batch["labels"].to(logits.device), shift=True, reduction="sum")
    return [float(value) for value in out.sample_loss]


def score_samples(
    records: Sequence[Record],
    answers: Sequence[Answer],
    metric: Metric,
    task: str,
    image_root: Path | None = None,
) -> list[SampleScore]:
    """The metric's score of every answer, with what it was given for.

    Raises:
        ValueError: the metric cannot read a reference, or does not return one finite number a sample.
    """
    references = [record.references for record in records]
    if metric.kind == "loss":
        scores = [float(value) for value in answers]
    else:
        scores = metric.score([str(value) for value in answers], references)
    return [
        SampleScore(
            task=task,
            index=index,
            id=record.id,
            group=group_of(record, image_root),
            prediction=value if isinstance(value, str) else None,
            references=tuple(record.references),
            score=score,
        )
        for index, (record, value, score) in enumerate(zip(records, answers, scores, strict=True))
    ]


def check_references(records: Sequence[Record], metric: Metric, task: str) -> None:
    """Try a metric on the references themselves, so that one it cannot read is found before any training.

    Raises:
        ConfigError: what the metric says of them.
    """
    if metric.kind == "loss":
        return
    references = [record.references for record in records]
    try:
        metric.score([accepted[0] for accepted in references], references)
    except (ValueError, TypeError) as error:
        files = ", ".join(sorted({str(record.source) for record in records}))
        raise ConfigError(f"task '{task}', metric {metric.name}, references of {files}: {error}") from error


def group_of(record: Record, image_root: Path | None = None) -> str:
    """What samples of one picture have in common: its path below the images' folder, so that data can be moved.

    A record without a picture is a group of its own.
    """
    if not record.images:
        return f"{record.source.name}:{record.index}"
    picture, root = record.images[0], image_root or record.source.parent
    if not isinstance(picture, Path):
        return f"sha256:{hashlib.sha256(picture).hexdigest()}"
    return (picture.relative_to(root) if picture.is_relative_to(root) else picture).as_posix()


def _batches(records: Sequence[Record], size: int) -> Iterator[Sequence[Record]]:
    for start in range(0, len(records), size):
        yield records[start : start + size]


def _finished_batches(path: Path, count: int, batch_size: int) -> list[Answer]:
    """Answers of the complete batches in the file, which is cut after them."""
    if not path.is_file():
        return []
    answers: list[Answer] = []
    ends = [0]
    with path.open("rb") as stream:
        for line in stream:
            try:
                values = json.loads(line)
                if not line.endswith(b"\n") or values["index"] != len(answers):
                    break
                answers.append(values["answer"])
            except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
                break
            ends.append(ends[-1] + len(line))
    keep = len(answers) if len(answers) == count else len(answers) - len(answers) % batch_size
    with path.open("rb+") as stream:
        stream.truncate(ends[keep])
    return answers[:keep]


def _to(batch: dict[str, Any], model: PreTrainedModel) -> dict[str, Any]:
    """Tensors on the model's device, floating ones in its dtype."""
    moved: dict[str, Any] = {}
    for name, value in batch.items():
        if isinstance(value, torch.Tensor):
            moved[name] = value.to(model.device, model.dtype if value.is_floating_point() else None)
        else:
            moved[name] = value
    return moved
