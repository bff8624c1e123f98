"""Which units a config asks for: the N + 1 of the preparation, then the tuned ones on every seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from cotbal.config.schema import Config, StrategyConfig
from cotbal.config.yaml_file import ConfigError
from cotbal.tasks import MINI, plus_model, single_model

__all__ = ["STAGES", "Schedule", "Stage", "Unit", "make_schedule"]

Stage = Literal["prepare", "tune"]
STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass(frozen=True)
class Unit:
    """One training and the evaluation that follows it, in a folder of its own.

    Attributes:
        name: name of the folder, such as ``plus_vqa`` or ``cotbal-seed1``.
        model: id of what is trained: ``mini``, ``plus_<task>``, ``single_<task>`` or a strategy's name.
        stage: what `prepare` makes is scored on validation sets, what `tune` makes on test sets.
        seed: of data order, dropout and everything else random.
        train_tasks: tasks of the mixture it is trained on, in the config's order.
        scored_tasks: tasks it is scored on, in the config's order.
        strategy: how tasks are weighted; None weights all alike.
    """

    name: str
    model: str
    stage: Stage
    seed: int
    train_tasks: tuple[str, ...]
    scored_tasks: tuple[str, ...]
    strategy: StrategyConfig | None = None

    @property
    def split(self) -> Literal["validation", "test"]:
        """The data it is scored on."""
        return "validation" if self.stage == "prepare" else "test"

    @property
    def needs_weights(self) -> bool:
        """Whether it is trained with the measured weights, and so waits for them."""
        return self.strategy is not None and self.strategy.name == "cotbal"


@dataclass(frozen=True)
class Schedule:
    """All units of a config, in the order they run in."""

    units: tuple[Unit, ...]

    def of(self, stage: Stage) -> tuple[Unit, ...]:
        """The units of one stage."""
        return tuple(unit for unit in self.units if unit.stage == stage)

    def unit(self, name: str) -> Unit:
        """The unit of that name.

        Raises:
            ConfigError: there is none; the names that exist are listed.
        """
        for unit in self.units:
            if unit.name == name:
                return unit
        names = ", ".join(unit.name for unit in self.units)
        raise ConfigError(f"there is no unit '{name}' in the schedule; its units are {names}")


def make_schedule(config: Config) -> Schedule:
    """The schedule of a config; a pure function of it, reading no file.

    A mixture of N measured tasks gives ``mini`` and N ``plus_<task>`` units, and for each seed of the comparison
    one unit per strategy and, with ``single_task``, one per task that has a test set. Tasks with an explicit
    weight take no part in the preparation; they are in the mixture of every strategy's units.
    """
    measured = tuple(task.name for task in config.measured_tasks)
    everything = tuple(task.name for task in config.tasks)
    tested = tuple(task.name for task in config.tasks if task.test)
    units: list[Unit] = []
    if measured:
        models = [MINI, *(plus_model(name) for name in measured)]
        units += [Unit(model, model, "prepare", config.seed, measured, measured) for model in models]
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
    names = [unit.name.casefold() for unit in units]
    clash = sorted({unit.name for unit in units if names.count(unit.name.casefold()) > 1})
    if clash:
        raise ConfigError(
            f"two units would share the folder {clash[0]!r}; rename the task or `label` the strategy it comes from"
        )
    return Schedule(tuple(units))
