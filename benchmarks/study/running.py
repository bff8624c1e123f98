"""Make the study's units: each once, in any number of processes, and again from where it was stopped.

Everything is cotbal's own: the units of a config, made by `cotbal.units.runner.Runner`, which keeps what is done and
locks what is in hand. A process takes the units of its share; no unit is tuned before all of its mixture's
preparations are scored.
"""

from __future__ import annotations

import gc
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.study.design import (
    AGAIN_SEEDS_FROM,
    CHEAPER,
    DECLARED,
    DESCRIBED,
    OF_CHEAPER,
    Size,
    mixtures,
    study_config,
)
from benchmarks.study.remembering import remember
from benchmarks.study.variants import Preparations, variant_weights
from cotbal.atomic import replacing
from cotbal.config.schema import Config
from cotbal.demo.dataset import write_dataset
from cotbal.demo.mixtures import DemoMixture
from cotbal.demo.model import build_model, build_processor
from cotbal.demo.pretrain import pretrain
from cotbal.method.scores import ScoreTable
from cotbal.metrics.metric import TOKEN_ACCURACY
from cotbal.models.loading import load_model, load_processor, quieten
from cotbal.output.locking import HeldError
from cotbal.units.evaluate import answer
from cotbal.units.progress import NoProgress
from cotbal.units.runner import Runner
from cotbal.units.schedule import Unit
from cotbal.units.stages import collect_scores

Say = Callable[[str], None]
_WAIT = 5.0


def set_up(folder: Path, size: Size, say: Say) -> None:
    """Pictures and questions of every mixture, and the base model that all of them start from."""
    for mixture in mixtures():
        data = folder / mixture.name / "data"
        if not data.is_dir():
            say(f"pictures and questions of {mixture.name}")
            unfinished = data.with_name("data.unfinished")
            write_dataset(unfinished, mixture, scenes=size.scenes)
            unfinished.rename(data)
    if not (folder / "base").is_dir():
        say("base model")
        words = tuple(word for mixture in mixtures() for word in mixture.words)
        processor = build_processor(words)
        model = build_model(processor)
        pretrain(model, processor, pretraining=size.pretraining)
        unfinished = folder / "base.unfinished"
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        unfinished.rename(folder / "base")


def work(folder: Path, size: Size, share: tuple[int, int], say: Say, until: float | None = None) -> None:
    """Make this process's share of all units.

    Args:
        share: (k, n), the k-th of n processes.
        until: time of the clock after which no further unit is begun.
    """
    torch.set_num_threads(size.threads)
    quieten()
    remember(load_processor(study_config(folder / "any", mixtures()[0], size, strategies=["ew"]).model))
    for mixture in mixtures():
        config = study_config(folder / mixture.name, mixture, size, strategies=DECLARED)
        runner = Runner(config, NoProgress())
        for unit in _shared(runner.schedule.of("prepare"), share):
            _make(runner, unit, say, until)
            _score_tokens(runner, unit, folder / mixture.name, say, until)
    for labels in (DECLARED, DESCRIBED):
        # Mixture by mixture, so that an interrupted study is whole in some of them.
        for mixture in mixtures():
            for seed in size.seeds:
                _tune(folder, mixture, size, seed, labels, share, say, until)
            for label in CHEAPER if labels is DECLARED else ():
                config = study_config(
                    folder / mixture.name, mixture, size, strategies=["ew"], preparation=label
                )
                runner = Runner(config, NoProgress())
                for unit in _shared(runner.schedule.of("prepare"), share):
                    _make(runner, unit, say, until)
    for mixture in mixtures():
        runner = Runner(again_config(folder / mixture.name, mixture, size), NoProgress())
        for unit in _shared(runner.schedule.of("tune"), share):
            _make(runner, unit, say, until)


def again_config(folder: Path, mixture: DemoMixture, size: Size) -> Config:
    """Equal weights once more, with seeds of their own."""
    seeds = [AGAIN_SEEDS_FROM + seed for seed in size.seeds]
    return study_config(folder, mixture, size, strategies=["ew"], seeds=seeds, single_task=False)


def _tune(
    folder: Path,
    mixture: DemoMixture,
    size: Size,
    seed: int,
    labels: Sequence[str],
    share: tuple[int, int],
    say: Say,
    until: float | None,
) -> None:
    found = wait_for_preparations(folder / mixture.name, mixture, size, until)
    prepared = size.preparation_seeds[mixture.name]
    half = None
    if not set(OF_CHEAPER).isdisjoint(labels):
        half = wait_for_half(folder / mixture.name, mixture, size, until)
    config = study_config(
        folder / mixture.name,
        mixture,
        size,
        strategies=labels,
        seeds=[seed],
        weights=variant_weights(found, prepared[seed % len(prepared)], half),
    )
    runner = Runner(config, NoProgress())
    for unit in _shared(runner.schedule.of("tune"), share):
        _make(runner, unit, say, until)


def _shared(units: Sequence[Unit], share: tuple[int, int]) -> Iterator[Unit]:
    yield from units[share[0] :: share[1]]


class OutOfTimeError(Exception):
    """The time that was given is over; the same call goes on from here."""


def _make(runner: Runner, unit: Unit, say: Say, until: float | None) -> None:
    if is_scored(runner, unit):
        return
    if until is not None and time.time() > until:
        raise OutOfTimeError
    # What is remembered from before is not garbage; looking for it after every unit would take a second.
    gc.freeze()
    started = time.monotonic()
    try:
        runner.run([unit])
    except HeldError:
        # Another process makes it.
        return
    say(f"{runner.config.name} {unit.name}: {time.monotonic() - started:.1f} s")


def _score_tokens(runner: Runner, unit: Unit, folder: Path, say: Say, until: float | None) -> None:
    """Teacher-forced token accuracies of a preparation's model on every validation set."""
    path = _tokens_file(folder, unit)
    if path.is_file() or not is_scored(runner, unit):
        return
    if until is not None and time.time() > until:
        raise OutOfTimeError
    unit_folder = runner.folder.unit(unit.name)
    model = load_model(runner.config.model, unit_folder.model)
    started = time.monotonic()
    partial = path.with_suffix("")
    scores = {
        task: answer(
            model,
            runner.processor,
            runner.mixture.records(task, "validation"),
            metric=TOKEN_ACCURACY,
            batch_size=runner.config.evaluation.batch_size,
            max_new_tokens=0,
            max_length=None,
            path=partial / f"{task}.jsonl",
        )
        for task in unit.scored_tasks
    }
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as stream:
        json.dump({"seconds": time.monotonic() - started, "scores": scores}, stream)
    shutil.rmtree(partial)


def wait_for_preparations(
    folder: Path, mixture: DemoMixture, size: Size, until: float | None = None
) -> Preparations:
    """The scores of all preparations of a mixture, once other processes have made their share.

    Raises:
        OutOfTimeError: they have not by `until`.
    """
    config = study_config(folder, mixture, size, strategies=DECLARED)
    runner = Runner(config, NoProgress())
    units = runner.schedule.of("prepare")
    while not all(is_scored(runner, unit) and _tokens_file(folder, unit).is_file() for unit in units):
        if until is not None and time.time() > until:
            raise OutOfTimeError
        time.sleep(_WAIT)
    return preparations(folder, runner)


def wait_for_half(folder: Path, mixture: DemoMixture, size: Size, until: float | None = None) -> ScoreTable:
    """The scores of all preparations of half of everything, once other processes have made their share.

    Raises:
        OutOfTimeError: they have not by `until`.
    """
    runner = Runner(study_config(folder, mixture, size, strategies=["ew"], preparation="half"), NoProgress())
    while not all(is_scored(runner, unit) for unit in runner.schedule.of("prepare")):
        if until is not None and time.time() > until:
            raise OutOfTimeError
        time.sleep(_WAIT)
    return collect_scores(runner)


def preparations(folder: Path, runner: Runner) -> Preparations:
    """What the scored preparations of a mixture hold."""
    generated = collect_scores(runner)
    tables: dict[int, ScoreTable] = {}
    for seed in runner.config.preparation_seeds:
        samples = {
            unit.model: json.loads(_tokens_file(folder, unit).read_text())["scores"]
            for unit in runner.schedule.of("prepare")
            if unit.preparation == seed
        }
        tables[seed] = ScoreTable.from_samples(
            samples,
            tasks=generated.tasks,
            groups={task: labels.tolist() for task, labels in generated.groups.items()},
        )
    return Preparations(generated, ScoreTable.from_seeds(tables))


def _tokens_file(folder: Path, unit: Unit) -> Path:
    return folder / "tokens" / f"{unit.name}.json"


def is_scored(runner: Runner, unit: Unit) -> bool:
    """Whether a unit is done."""
    manifest = runner.folder.unit(unit.name).manifest()
    return manifest is not None and manifest.state == "scored"
