"""From other tools' files to one score table: read, scored where need be, and paired."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cotbal.imports import lmms_eval, predictions, vlmevalkit
from cotbal.imports.files import read_rows
from cotbal.imports.results import Result, ResultFile
from cotbal.imports.sources import Source
from cotbal.method import scores_csv
from cotbal.method.scores import ScoreTable
from cotbal.metrics import get as get_metric
from cotbal.metrics.metric import Metric
from cotbal.tasks import MINI, plus_model


@dataclass(frozen=True)
class ImportedScores:
    """A score table and the ids its samples are paired by.

    Attributes:
        table: the scores.
        ids: task -> id of every sample, in the table's order.
    """

    table: ScoreTable
    ids: Mapping[str, tuple[str, ...]]

    def missing(self) -> list[str]:
        """What weighing needs and the table lacks: `model on task` of mini and every task's plus model.

        >>> table = ScoreTable.from_samples({"mini": {"vqa": [0, 1]}})
        >>> ImportedScores(table, {"vqa": ("1", "2")}).missing()
        ['plus_vqa on vqa']
        """
        models = [MINI, *map(plus_model, self.table.tasks)]
        return [
            f"{model} on {task}"
            for model in models
            for task in self.table.tasks
            if not self.table.has(model, task)
        ]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as CSV, atomically, with the samples' own ids; `ScoreTable.from_csv` reads it."""
        table = self.table
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        content = scores_csv.Scores(table.tasks, table.higher_is_better, table.entries, table.groups)
        scores_csv.write({None: content}, path, self.ids)


def import_scores(
    sources: Sequence[Source],
    *,
    keys: Mapping[str, str] | None = None,
    metrics: Mapping[str, str] | None = None,
    lower_is_better: Collection[str] = (),
) -> ImportedScores:
    """Read the files and pair their samples.

    Args:
        sources: from `find_sources`.
        keys: task -> name of the score in the files, where there are several.
        metrics: task -> a metric of cotbal's to score the files' answers by, in place of scores in the files.
        lower_is_better: tasks whose scores in the files are better when lower, where the files do not say so.

    Raises:
        ValueError: naming file and line: a file of no known tool, a sample without a score, or samples that cannot be
            paired over the models; or a task that is not in the files.
    """
    keys, metrics = keys or {}, metrics or {}
    tasks = tuple(dict.fromkeys(source.task for source in sources))
    for option, named in (("score", keys), ("metric", metrics), ("lower-is-better", lower_is_better)):
        for task in named:
            if task not in tasks:
                raise ValueError(
                    f"--{option} {task}: no file is of this task; they are of {', '.join(tasks)}"
                )
    samples: dict[str, dict[str, list[float]]] = {source.model: {} for source in sources}
    groups: dict[str, list[str]] = {}
    ids: dict[str, tuple[str, ...]] = {}
    higher: dict[str, bool] = {}
    for task in tasks:
        metric = _metric(task, metrics[task]) if task in metrics else None
        first: ResultFile | None = None
        for source in (source for source in sources if source.task == task):
            file = read(source.path, keys.get(task))
            first = first or file
            paired = _paired(source, file.results, first.results)
            said = metric.higher_is_better if metric is not None else file.higher_is_better
            if said and task in lower_is_better:
                raise ValueError(f"--lower-is-better {task}: {source.path} says that higher is better")
            direction = task not in lower_is_better if said is None else said
            if higher.setdefault(task, direction) != direction:
                raise ValueError(
                    f"{source.path}: says the other direction of {task!r} than the files before it"
                )
            samples[source.model][task] = _scores(paired, metric, task)
        assert first is not None, "every task has a source"
        ids[task] = tuple(result.id for result in first.results)
        if all(result.group for result in first.results):
            groups[task] = [result.group for result in first.results]
    table = ScoreTable.from_samples(samples, tasks=tasks, groups=groups, higher_is_better=higher)
    return ImportedScores(table, ids)


def read(path: Path, key: str | None = None) -> ResultFile:
    """Read one file of lmms-eval, VLMEvalKit, ms-swift or LLaMA-Factory, told apart by its fields.

    Args:
        key: the name of the score, where the file has several.

    Raises:
        ValueError: see `import_scores`.
    """
    rows = read_rows(path)
    fields = rows[0][1]
    if lmms_eval.matches(fields):
        return lmms_eval.read(path, rows, key)
    if vlmevalkit.matches(fields):
        return vlmevalkit.read(path, rows, key)
    if predictions.matches(fields):
        return predictions.read(rows)
    raise ValueError(
        f"{rows[0][0]}: the fields are {', '.join(map(str, fields))}; known are samples of lmms-eval (doc_id, "
        "filtered_resps), sheets of VLMEvalKit (index, prediction), answers of ms-swift (response, labels) and of "
        "LLaMA-Factory (predict, label)"
    )


def _metric(task: str, name: str) -> Metric:
    metric = get_metric(name)
    if metric.kind == "loss":
        raise ValueError(f"--metric {task}={name}: the loss is the model's, answers in a file have none")
    return metric


def _paired(source: Source, found: Sequence[Result], first: Sequence[Result]) -> list[Result]:
    """The samples in the order of the first model's, which must be the same ones."""
    known = {result.id: result for result in found}
    wanted = {result.id for result in first}
    extra = next((result for result in found if result.id not in wanted), None)
    if extra is not None:
        raise ValueError(
            f"{extra.where}: sample {extra.id} is not in {_file(first[0])}; every model has to be scored on the same "
            f"samples of {source.task!r}"
        )
    for reference in first:
        if reference.id not in known:
            raise ValueError(
                f"{source.path}: no sample {reference.id}, which is in {reference.where}; every model has to be "
                f"scored on the same samples of {source.task!r}"
            )
        other = known[reference.id]
        if other.check != reference.check or other.group != reference.group:
            raise ValueError(
                f"{other.where}: sample {other.id} is another one than in {reference.where} (its hash, reference or "
                "picture differs); score every model on the same data, in the same order"
            )
    return [known[reference.id] for reference in first]


def _scores(results: Sequence[Result], metric: Metric | None, task: str) -> list[float]:
    if metric is None:
        for result in results:
            if result.score is None:
                raise ValueError(
                    f"{result.where}: {result.unscored}. Give --score {task}=NAME for a score of the file's own, or "
                    f"--metric {task}=NAME to score the answers by one of cotbal's metrics"
                )
        return [result.score for result in results if result.score is not None]
    answers = []
    for result in results:
        if result.prediction is None or not result.references:
            lacks = "prediction" if result.prediction is None else "reference"
            raise ValueError(f"{result.where}: no {lacks} that {metric.name} could score")
        answers.append(result.prediction)
    references = [result.references for result in results]
    unjudged = metric.unjudged(references)
    if unjudged:
        index, reason = unjudged[0]
        raise ValueError(f"{results[index].where}: {metric.name} cannot score this sample: {reason}")
    return metric.score(answers, references)


def _file(result: Result) -> str:
    return result.where.rsplit(", ", 1)[0]
