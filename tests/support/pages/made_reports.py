"""Report inputs of any number of tasks, made from drawn scores; nothing is trained."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from cotbal.data.records import Problem
from cotbal.method.measurement import measure
from cotbal.method.scores import ScoreTable
from cotbal.method.undefined import UndefinedContributionsWarning
from cotbal.method.weighing import weigh
from cotbal.report.inputs import Comparison, Curve, ReportInput, ReportProvenance, StrategyScores, UnitRecord
from cotbal.tasks import MINI, Task, plus_model

METRICS = ("cider", "exact_match", "iou@0.5", "anls", "loss")
NAMES = (
    "caption",
    "vqa",
    "grounding",
    "reading",
    "visual-question-answering-on-charts-and-tables",
    "counting",
)


def task_values(count: int, *, explicit: bool = False) -> tuple[Task, ...]:
    """Tasks with names short and long; the fifth metric is better when lower."""
    tasks = []
    for i in range(count):
        name = NAMES[i % len(NAMES)] + (f"-{i}" if i >= len(NAMES) else "")
        metric = METRICS[i % len(METRICS)]
        tasks.append(Task(name, metric, metric != "loss"))
    return (*tasks, Task("text-only", None, weight=0.5)) if explicit else tuple(tasks)


def score_table(
    tasks: tuple[Task, ...],
    *,
    samples: int = 200,
    mastered: tuple[int, ...] = (),
    alike: bool = False,
    seed: int = 0,
) -> ScoreTable:
    """Per-sample scores; tasks at the places `mastered` gain nothing from their own data; `alike`: all are equal."""
    random = np.random.default_rng(seed)
    measured = [task for task in tasks if task.is_measured]
    help_ = random.uniform(-0.1, 0.5, (len(measured), len(measured)))
    np.fill_diagonal(help_, 1.0)
    difficulty = random.permutation(np.linspace(0.15, 0.8, len(measured)))
    if alike:
        help_ = np.where(np.eye(len(measured)), 1.0, 0.1)
        difficulty = np.full(len(measured), 0.5)
    noise = {task.name: random.uniform(0, 1, samples) for task in measured}
    rows: dict[str, dict[str, list[float]]] = {}
    for i, model in enumerate([MINI, *(plus_model(task.name) for task in measured)]):
        rows[model] = {}
        for j, task in enumerate(measured):
            gain = 0.0 if i == 0 or j in mastered else 0.9 * difficulty[j] * help_[i - 1, j]
            level = 0.9 * (1 - difficulty[j]) + gain if task.higher_is_better else 1.5 - gain
            values = (
                (noise[task.name] < level).astype(float)
                if task.higher_is_better
                else level + noise[task.name]
            )
            rows[model][task.name] = [float(value) for value in values]
    return ScoreTable.from_samples(
        rows,
        tasks=[task.name for task in measured],
        groups={task.name: [f"{k // 2}.png" for k in range(samples)] for task in measured[:1]},
        higher_is_better=[task.higher_is_better for task in measured],
    )


def comparison(
    tasks: tuple[Task, ...],
    *,
    strategies: tuple[str, ...] = ("ew", "cotbal"),
    seeds: tuple[int, ...] = (0, 1),
    single: bool = True,
    seed: int = 0,
) -> Comparison:
    """Test scores; later strategies are a little better on average."""
    random = np.random.default_rng(seed)
    tested = [task for task in tasks if task.is_measured]
    base = random.uniform(0.3, 0.8, len(tested))
    rows = []
    for number, strategy in enumerate((("single",) if single else ()) + strategies):
        for run_seed in seeds:
            factor = 1 + 0.02 * number + random.normal(0, 0.03, len(tested))
            sign = np.array([1 if task.higher_is_better else -1 for task in tested])
            scores = base * factor**sign
            rows.append(
                StrategyScores(
                    strategy, run_seed, {t.name: float(s) for t, s in zip(tested, scores, strict=True)}
                )
            )
    return Comparison(
        tuple(task.name for task in tested),
        tuple(task.higher_is_better for task in tested),
        tuple(rows),
        {task.name: 500 for task in tested},
    )


def curves(
    tasks: tuple[Task, ...], compared: Comparison, *, points: int = 50, seed: int = 0
) -> tuple[Curve, ...]:
    """Falling, noisy losses of every unit."""
    random = np.random.default_rng(seed)
    found = []
    steps = tuple(range(10, 10 * points + 1, 10))

    def losses() -> tuple[float, ...]:
        fall = random.uniform(1, 4) * np.exp(-np.array(steps) / (2.5 * points)) + random.uniform(0.02, 0.6)
        return tuple(float(value) for value in fall * random.lognormal(0, 0.12, points))

    names = [task.name for task in tasks]
    for row in compared.scores:
        if row.strategy == "single":
            found += [
                Curve(f"single_{name}-seed{row.seed}", "single", row.seed, name, steps, losses())
                for name in row.scores
            ]
        else:
            name = f"{row.strategy}-seed{row.seed}"
            found += [Curve(name, row.strategy, row.seed, task, steps, losses()) for task in names]
    for model in [MINI, *(plus_model(task.name) for task in tasks if task.is_measured)]:
        found += [Curve(model, model, 0, task.name, steps, losses()) for task in tasks if task.is_measured]
    return tuple(found)


def made_report(
    count: int = 3,
    *,
    samples: int = 200,
    mastered: tuple[int, ...] = (),
    explicit: bool = False,
    means_only: bool = False,
    compared: bool = True,
    preparations: int = 1,
    alike: bool = False,
    seed: int = 0,
    **comparing: Any,
) -> ReportInput:
    """A report of `count` measured tasks with all its parts, unless told otherwise."""
    tasks = task_values(count, explicit=explicit)
    scores = score_table(tasks, samples=samples, mastered=mastered, alike=alike, seed=seed)
    if means_only:
        scores = ScoreTable.from_means(
            scores.mini, scores.plus, tasks=scores.tasks, higher_is_better=scores.higher_is_better
        )
    if preparations > 1:
        more = {
            number: score_table(tasks, samples=samples, mastered=mastered, seed=seed + number)
            for number in range(preparations)
        }
        scores = ScoreTable.from_seeds(more)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedContributionsWarning)
        measurement = measure(scores, replicates=200)
    tuned = comparison(tasks, seed=seed, **comparing) if compared else None
    units = [MINI, *(plus_model(task) for task in scores.tasks)]
    return ReportInput(
        title="My mixture",
        tasks=tasks,
        scores=scores,
        measurement=measurement,
        weights=weigh(measurement),
        comparison=tuned,
        curves=() if tuned is None else curves(tasks, tuned, seed=seed),
        problems=(Problem(Path("data/caption.json"), 17, "there is no image images/17.png"),),
        provenance=ReportProvenance(
            versions={"cotbal": "0.1.0", "torch": "2.13.0"},
            seeds={"preparation": "0", "comparison": "0, 1"},
            config="model: models/base\noutput: runs/my-mixture\n",
            model="models/base",
            date="2026-11-22",
            units=tuple(
                UnitRecord(name, "scored", 0, 120 + i, 960, {"train": 61.5 + i, "score": 7.25})
                for i, name in enumerate(units)
            ),
        ),
    )
