"""The stages, each a function of a config and of what earlier stages left in its output folder.

    prepare -> weigh -> tune -> report

Each does only what is missing and can be called again after an interruption. What trains is imported where it is
used: weighing a table of scores needs neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cotbal.config.schema import Config, load_config
from cotbal.config.yaml_file import ConfigError
from cotbal.method import weighing
from cotbal.method.measurement import measure
from cotbal.method.scores import ScoreTable
from cotbal.method.weights import Provenance, TaskWeights
from cotbal.output.score_file import SampleScore
from cotbal.output.store import OutputFolder
from cotbal.report.inputs import ReportInput
from cotbal.tasks import MINI
from cotbal.units.progress import ScheduleProgress
from cotbal.units.results import (
    measure_scores,
    read_accuracies,
    report_input,
    saved_accuracies,
    task_values,
)
from cotbal.units.schedule import Unit

if TYPE_CHECKING:
    from cotbal.tune.verification import Verification
    from cotbal.units.runner import Runner

    Approve = Callable[[Runner, Sequence[Unit]], None]

__all__ = [
    "check_weights",
    "mixture_weights",
    "prepare",
    "run_stages",
    "run_unit",
    "tune",
    "weigh",
    "weigh_source",
    "write_report",
]


def prepare(
    config: Config, progress: ScheduleProgress, *, redo: bool = False, approve: Approve | None = None
) -> ScoreTable:
    """Run mini and every plus unit, and write their scores to `scores.csv`.

    Args:
        approve: called before the first unit starts, when all else is checked; stops everything by raising.

    Raises:
        ConfigError: the config asks for something impossible, or no longer fits the finished units.
    """
    if not config.measured_tasks:
        raise ConfigError("no task has a `validation` set, so there is nothing to prepare or to measure")
    runner = _driving(config, progress, redo)
    units = runner.schedule.of("prepare")
    runner.check(units)
    _approved(runner, approve, units)
    with progress.follow(runner.remaining(units)):
        make_units(runner, units)
    return collect_scores(runner)


def make_units(runner: Runner, units: Sequence[Unit], weights: TaskWeights | None = None) -> None:
    """See `cotbal.units.launch.driver.make`."""
    from cotbal.units.launch.driver import make

    make(runner, units, weights)


def _driving(config: Config, progress: ScheduleProgress, redo: bool) -> Runner:
    """The runner of a command that starts the processes of its units, if any, by itself."""
    from cotbal.units.launch.driver import refuse_launcher
    from cotbal.units.runner import Runner

    refuse_launcher()
    return Runner(config, progress, redo=redo)


def _approved(runner: Runner, approve: Approve | None, units: Sequence[Unit]) -> None:
    check_records(runner)
    if approve is not None:
        approve(runner, units)


def check_records(runner: Runner) -> None:
    """Every stage that trains begins with this: see `cotbal.units.data_check.check_data`."""
    from cotbal.units import ranks
    from cotbal.units.data_check import check_data, check_rows_fit

    if ranks.is_first():
        check_data(runner.config, runner.mixture, lambda: runner.processor, runner.progress)
    ranks.barrier()
    if not ranks.is_first():
        # What the first process found is kept by content, so that this takes no time.
        check_data(runner.config, runner.mixture, lambda: runner.processor, runner.progress)
    check_rows_fit(runner.config, runner.mixture, lambda: runner.processor, runner.settings.values())


def collect_scores(runner: Runner) -> ScoreTable:
    """The validation scores of every preparation's units, written to ``scores.csv`` too.

    With the hybrid estimator, their token accuracies are written to ``token_accuracies.csv``.

    Raises:
        ConfigError: a unit has not been scored.
    """
    folder, seeds = runner.folder, runner.config.preparation_seeds
    table = ScoreTable.from_seeds({seed: _preparation(runner, seed, forced=False) for seed in seeds})
    _write_product(folder, table, folder.scores_csv)
    if runner.config.preparation.estimator == "hybrid":
        shares = ScoreTable.from_seeds({seed: _preparation(runner, seed, forced=True) for seed in seeds})
        _write_product(folder, shares, folder.accuracies_csv)
    else:
        folder.accuracies_csv.unlink(missing_ok=True)
    return table


def _write_product(folder: OutputFolder, table: ScoreTable, path: Path) -> None:
    table.to_csv(path)
    folder.seal_product(path)


def _preparation(runner: Runner, seed: int, *, forced: bool) -> ScoreTable:
    """The scores of one preparation's units, or with `forced` their token accuracies."""
    found: dict[str, dict[str, list[SampleScore]]] = {}
    for unit in runner.schedule.of("prepare"):
        if unit.preparation == seed:
            folder = runner.folder.unit(unit.name)
            found[unit.model] = (
                _by_task(folder.accuracies(), unit.forced_tasks)
                if forced
                else _by_task(folder.scores(), unit.scored_tasks)
            )
    directions = {task.name: task.higher_is_better for task in task_values(runner.config) if task.is_measured}
    return ScoreTable.from_samples(
        {
            model: {task: [score.score for score in scores] for task, scores in row.items()}
            for model, row in found.items()
        },
        tasks=[task.name for task in runner.config.measured_tasks],
        # `mini` is scored on every task, and all models on the same samples.
        groups={task: [score.group for score in scores] for task, scores in found[MINI].items()},
        higher_is_better=True if forced else directions,
    )


def _by_task(scores: Sequence[SampleScore], tasks: Sequence[str]) -> dict[str, list[SampleScore]]:
    """The scores of these tasks; a unit may hold others, of another estimator."""
    found: dict[str, list[SampleScore]] = {task: [] for task in tasks}
    for score in scores:
        if score.task in found:
            found[score.task].append(score)
    return found


def weigh(config: Config) -> TaskWeights:
    """Turn the preparation's scores into weights, and write `weights.json`.

    Raises:
        ConfigError: `scores.csv` does not exist yet, or is of another estimator than the config's.
    """
    folder = OutputFolder(config.output)
    if not folder.scores_csv.is_file():
        raise ConfigError(f"{folder.scores_csv}: there is no such file; run `cotbal prepare` first")
    folder.check_product(folder.scores_csv)
    settings = config.weighing
    accuracies = saved_accuracies(config, folder)
    measurement = measure_scores(config, ScoreTable.from_csv(folder.scores_csv), accuracies)
    weights = weighing.weigh(
        measurement,
        settings.temperature,
        shrink=settings.shrink,
        explicit={task.name: task.weight for task in config.tasks if task.weight is not None},
    )
    weights.save(folder.weights_json)
    folder.seal_product(folder.weights_json)
    return weights


def mixture_weights(config: Config, measured: TaskWeights | None) -> TaskWeights | None:
    """Return the weights of all tasks of the mixture in the config's order: measured, or given in the config.

    None if tasks remain to be measured.

    Raises:
        ConfigError: the weights are for other tasks than the config's, or a given weight differs from the config's.
    """
    explicit = {task.name: task.weight for task in config.tasks if task.weight is not None}
    names = [task.name for task in config.tasks]
    if measured is None:
        return None if config.measured_tasks else _explicit_weights(explicit)
    found = measured.as_dict()
    for task, weight in explicit.items():
        if found.get(task, weight) != weight:
            raise ConfigError(
                f"the config gives task '{task}' the weight {weight:g}, the saved weights have {found[task]:g}; "
                "weigh again"
            )
    try:
        added = {task: weight for task, weight in explicit.items() if task not in found}
        return measured.with_explicit(added).for_tasks(names)
    except ValueError as error:
        raise ConfigError(f"the saved weights do not fit the config: {error}") from None


def _explicit_weights(weights: Mapping[str, float]) -> TaskWeights:
    """Return the weights of a mixture in which nothing is measured."""
    none = np.full(len(weights), np.nan)
    values = np.array(list(weights.values()))
    return TaskWeights(tuple(weights), values, none, none, none, 0.5, None, Provenance.here("arrays"))


def tune(
    config: Config,
    progress: ScheduleProgress,
    *,
    weights: TaskWeights | None = None,
    redo: bool = False,
    approve: Approve | None = None,
) -> tuple[Unit, ...]:
    """Run every unit of this stage: the strategies and, if requested, single tasks, for each seed.

    Args:
        weights: measured weights to use instead of the output folder's `weights.json`.
        approve: as in `prepare`.

    Raises:
        ConfigError: as in `prepare`; also if weights are needed and missing.
    """
    runner = _driving(config, progress, redo)
    units = runner.schedule.of("tune")
    mixed = mixture_weights(config, weights or saved_weights(config))
    runner.check(units, mixed)
    _approved(runner, approve, units)
    with progress.follow(runner.remaining(units)):
        make_units(runner, units, mixed)
    return units


def saved_weights(config: Config) -> TaskWeights | None:
    """The weights that `weigh` saved, if any."""
    folder = OutputFolder(config.output)
    folder.check_product(folder.weights_json)
    return TaskWeights.load(folder.weights_json) if folder.weights_json.is_file() else None


def run_stages(
    config: Config, progress: ScheduleProgress, *, redo: bool = False, approve: Approve | None = None
) -> TaskWeights | None:
    """Prepare, weigh and tune with one progress display, and return the measured weights.

    Raises:
        ConfigError: as in `prepare`.
    """
    runner = _driving(config, progress, redo)
    prepared = runner.schedule.of("prepare")
    tuned = runner.schedule.of("tune")
    runner.check(prepared)
    # Check everything that needs no measured weights before the first hour is spent.
    runner.check([unit for unit in tuned if not unit.needs_weights])
    _approved(runner, approve, (*prepared, *tuned))
    weights: TaskWeights | None = None
    with progress.follow(runner.remaining((*prepared, *tuned))):
        if prepared:
            make_units(runner, prepared)
            collect_scores(runner)
            weights = weigh(config)
        make_units(runner, tuned, mixture_weights(config, weights))
    return weights


def check_weights(config: Config) -> tuple[Verification, str]:
    """Prove on one batch that task weights act, with the measured weights if there are any, else with 1 for all.

    See `cotbal.units.self_check.check_weights`.
    """
    from cotbal.units.self_check import check_weights as check

    weights = mixture_weights(config, saved_weights(config))
    return check(config, None if weights is None else weights.as_dict())


def write_report(config: Config) -> tuple[ReportInput, Path]:
    """Write the report of what has been done so far, and return its values and the path of its page."""
    from cotbal.report.write import write_report as write

    values = report_input(config)
    return values, write(values, OutputFolder(config.output).report)


def run_unit(
    config: Config,
    name: str,
    progress: ScheduleProgress,
    weights: TaskWeights | None = None,
    *,
    approve: Approve | None = None,
) -> None:
    """Make one unit of the schedule, in this process and those that its launcher started beside it.

    If another process is making it, this one waits until that has ended, and then does what is still missing.

    Args:
        weights: measured weights to use in place of the output folder's ``weights.json``.
        approve: as in `prepare`; called by the first process, before it joins the others.

    Raises:
        ConfigError: as in `prepare`; also if no unit has that name.
    """
    from cotbal.units import ranks
    from cotbal.units.arguments import training_arguments
    from cotbal.units.batches import processes_per_unit
    from cotbal.units.joint_lock import joint_lock
    from cotbal.units.runner import Runner

    runner = Runner(config, progress)
    unit = runner.schedule.unit(name)
    wanted = processes_per_unit(config)
    if wanted != ranks.world_size():
        raise ConfigError(
            f"{name} is trained by {wanted} processes (launch.processes, or one per visible GPU), and this is one; "
            f"start it by `torchrun --nproc-per-node {wanted} -m cotbal unit ...`, or set launch.processes: 1"
        )
    with joint_lock(runner.folder, name, progress.say):
        if approve is not None and ranks.is_first():
            approve(runner, [unit])
        # Making them joins the other processes, over the backend and with the time limit that the settings ask for.
        training_arguments(runner.settings[unit.stage], runner.folder.unit(name).checkpoints, unit.seed)
        mixed = mixture_weights(config, weights or saved_weights(config)) if unit.needs_weights else None
        check_records(runner)
        with progress.follow(runner.remaining([unit])):
            runner.run([unit], mixed, holding=True)


def weigh_source(
    source: Path, output: Path | None, temperature: float | None, lower_is_better: Sequence[str]
) -> tuple[TaskWeights, Path]:
    """Weigh a CSV of scores, an output folder, or a config; return the weights and where they were saved.

    Raises:
        ConfigError: the source is none of these, or an option does not apply to it.
    """
    if source.suffix in {".yaml", ".yml"}:
        if lower_is_better:
            raise ConfigError(
                "--lower-is-better is for a CSV; in a config, give the task `higher_is_better: false`"
            )
        if output is not None and output.suffix == ".json":
            raise ConfigError(
                f"--output {output}: with a config, it is the folder to work in, as for every command; the weights "
                "are its weights.json"
            )
        config = load_config(source, output=output)
        if temperature is not None:
            config = config.model_copy(
                update={"weighing": config.weighing.model_copy(update={"temperature": temperature})}
            )
        return weigh(config), OutputFolder(config.output).weights_json
    folder = source if source.is_dir() else source.parent
    path = OutputFolder(source).scores_csv if source.is_dir() else source
    if not path.is_file():
        raise ConfigError(
            f"{path}: no such file; give a config (.yaml), the output folder of a prepared one, or a CSV"
        )
    higher: Mapping[str, bool] | None = None
    if lower_is_better:
        tasks = ScoreTable.from_csv(path).tasks
        unknown = [task for task in lower_is_better if task not in tasks]
        if unknown:
            raise ConfigError(
                f"--lower-is-better {unknown[0]}: {path} has no such task; it has {', '.join(tasks)}"
            )
        higher = {task: task not in lower_is_better for task in tasks}
    target = output or OutputFolder(folder).weights_json
    # Before anything is computed: a mistyped path should be met at once.
    if target.is_dir():
        raise ConfigError(f"--output {target}: is a folder; give a file, such as {target / 'weights.json'}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output {target}: its folder cannot be made ({error.strerror})") from None
    accuracies = None
    if source.is_dir():
        OutputFolder(source).check_product(path)
        accuracies = read_accuracies(OutputFolder(source))
    weights = weighing.weigh(
        measure(ScoreTable.from_csv(path, higher_is_better=higher), accuracies=accuracies),
        0.5 if temperature is None else temperature,
    )
    weights.save(target)
    products = OutputFolder(target.parent)
    if target == products.weights_json and products.units.is_dir():
        products.seal_product(target)
    return weights, target
