"""The units that a config asks for: the N + 1 of the preparation, then the tuned ones for every seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal, get_args

from cotbal.config.schema import Config
from cotbal.config.stages import StrategyConfig
from cotbal.config.yaml_file import ConfigError
from cotbal.tasks import MINI, plus_model, single_model

__all__ = ["STAGES", "Schedule", "Stage", "Unit", "forced", "make_schedule"]

MAX_UNITS = 10_000

Stage = Literal["prepare", "tune"]
STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass(frozen=True)
class Unit:
    """One training with its scoring, in its own folder.

    Attributes:
        name: name of the folder, such as `plus_vqa` or `cotbal-seed1`.
        model: id of what is trained: `mini`, `plus_<task>`, `single_<task>` or a strategy's name.
        stage: `prepare` scores on validation sets, `tune` on test sets.
        seed: seeds data order, dropout and everything else random.
        train_tasks: tasks of the mixture it is trained on, in the config's order.
        scored_tasks: tasks it is scored on, in the config's order.
        forced_tasks: tasks whose token accuracies are taken, for the contributions of the hybrid estimator.
        strategy: how tasks are weighted; None weights all alike.
        preparation: seed of the preparation it belongs to; None where it belongs to none.
    """

    name: str
    model: str
    stage: Stage
    seed: int
    train_tasks: tuple[str, ...]
    scored_tasks: tuple[str, ...]
    strategy: StrategyConfig | None = None
    preparation: int | None = None
    forced_tasks: tuple[str, ...] = ()

    @property
    def split(self) -> Literal["validation", "test"]:
        """The split that it is scored on."""
        return "validation" if self.stage == "prepare" else "test"

    @property
    def needs_weights(self) -> bool:
        """Whether it is trained with the measured weights and must wait for them."""
        return self.strategy is not None and self.strategy.name == "cotbal"


@dataclass(frozen=True)
class Schedule:
    """All units of a config, in the order in which they run."""

    units: tuple[Unit, ...]

    def of(self, stage: Stage) -> tuple[Unit, ...]:
        """Return the units of one stage."""
        return tuple(unit for unit in self.units if unit.stage == stage)

    def unit(self, name: str) -> Unit:
        """Return the unit with that name.

        Raises:
            ConfigError: no unit has that name; the known names are listed.
        """
        for unit in self.units:
            if unit.name == name:
                return unit
        names = ", ".join(unit.name for unit in self.units)
        raise ConfigError(f"no unit '{name}'; known units: {names}")


def forced(task: str) -> str:
    """What a manifest calls the token accuracies of a task."""
    return f"{task} (token accuracy)"


def make_schedule(config: Config) -> Schedule:
    """Return the schedule of a config, without reading any file.

    A mixture of N measured tasks gives ``mini`` and N ``plus_<task>`` units for each seed of the preparation (with
    ``-seed<seed>`` behind, but for the config's own seed), and for each seed of the comparison one unit per strategy
    and, with ``single_task``, one per task that has a test set. Tasks with an explicit weight take no part in the
    preparation; they are in the mixture of every strategy's units.
    """
    measured = tuple(task.name for task in config.measured_tasks)
    everything = tuple(task.name for task in config.tasks)
    tested = tuple(task.name for task in config.tasks if task.test)
    count = len(config.comparison_seeds) * (len(config.comparison.strategies) + len(tested))
    if count > MAX_UNITS:
        raise ConfigError(
            f"comparison: seeds, strategies and tasks make {count} units; at most {MAX_UNITS} are accepted"
        )
    units: list[Unit] = []
    if measured:
        hybrid = config.preparation.estimator == "hybrid"
        # Difficulty needs every task's own two models only.
        models = {MINI: measured} | {plus_model(name): (name,) if hybrid else measured for name in measured}
        for seed in config.preparation_seeds:
            # Without a suffix for the config's own seed, so that more seeds can be added to a finished preparation.
            suffix = "" if seed == config.seed else f"-seed{seed}"
            order = seed if "order" in config.preparation.vary else config.seed
            units += [
                Unit(
                    f"{model}{suffix}",
                    model,
                    "prepare",
                    order,
                    measured,
                    scored,
                    preparation=seed,
                    forced_tasks=measured if hybrid else (),
                )
                for model, scored in models.items()
            ]
    for seed in config.comparison_seeds:
        if config.comparison.single_task:
            units += [
                Unit(
                    f"{single_model(name)}-seed{seed}",
                    single_model(name),
                    "tune",
                    seed,
                    (name,),
                    (name,),
                )
                for name in tested
            ]
        units += [
            Unit(f"{s.model}-seed{seed}", s.model, "tune", seed, everything, tested, s)
            for s in config.comparison.strategies
        ]
    names = Counter(unit.name.casefold() for unit in units)
    clash = sorted({unit.name for unit in units if names[unit.name.casefold()] > 1})
    if clash:
        raise ConfigError(
            f"two units would share the folder {clash[0]!r}; rename the task, or give the strategy a `label`"
        )
    return Schedule(tuple(units))
