"""Scores of the answers by a task's metric, and whether that metric can judge the task's references at all."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

from cotbal.config.yaml_file import ConfigError
from cotbal.data.records import SHOWN_PROBLEMS, Problem, Record
from cotbal.metrics.metric import Metric
from cotbal.output.answer_file import Answer
from cotbal.output.score_file import SampleScore
from cotbal.units.faults import metric_faults, score_with

__all__ = ["check_references", "group_of", "score_samples"]


def score_samples(
    records: Sequence[Record],
    answers: Sequence[Answer],
    metric: Metric,
    task: str,
    image_root: Path | None = None,
) -> list[SampleScore]:
    """The metric's score of every answer, with what it was given for.

    Raises:
        ConfigError: the metric cannot read a reference, or does not return one finite number per sample.
    """
    references = [record.references for record in records]
    if metric.kind != "generation":
        scores = [float(value) for value in answers]
    else:
        scores = score_with(metric, [str(value) for value in answers], references, task)
    for record, score in zip(records, scores, strict=True):
        if not math.isfinite(score):
            raise ConfigError(
                f"{record.source}, record {record.index}: its {metric.name} is {score}; either it has no answer "
                "tokens, or the model is broken"
            )
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
    """Score the references themselves, so that what a metric cannot judge is found before any training.

    Raises:
        ConfigError: references that the metric cannot read or that do not get full marks, by file and record.
    """
    files = ", ".join(sorted({str(record.source) for record in records}))
    with metric_faults(metric, task, f", references of {files}"):
        unjudged = metric.unjudged([record.references for record in records])
    if not unjudged:
        return
    problems = [Problem(records[i].source, records[i].index, reason) for i, reason in unjudged]
    lines = [f"  {problem}" for problem in problems[:SHOWN_PROBLEMS]]
    more = len(problems) - len(lines)
    raise ConfigError(
        "\n".join(
            [
                f"task '{task}', metric {metric.name}: {len(problems)} of {len(records)} references cannot be scored",
                *lines,
                *([f"  ... and {more} more"] if more else []),
                "Mend or remove these records, or give the task another metric.",
            ]
        )
    )


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
