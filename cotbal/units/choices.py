"""Make the metrics and strategies that a config names, or refuse them before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cotbal import strategies
from cotbal.config.stages import StrategyConfig
from cotbal.config.tasks import TaskConfig
from cotbal.config.yaml_file import ConfigError
from cotbal.method.weights import TaskWeights
from cotbal.metrics import get as get_metric
from cotbal.metrics.metric import Metric
from cotbal.strategies.base import Strategy

__all__ = ["check_strategy", "make_strategy", "metric_of"]


def metric_of(task: TaskConfig, index: int) -> Metric:
    """Return the metric that a task names.

    Raises:
        ConfigError: no metric has that name.
    """
    try:
        return get_metric(str(task.metric))
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"tasks[{index}].metric: {error}") from error


def make_strategy(
    settings: StrategyConfig, tasks: Sequence[str], seed: int, weights: TaskWeights | None
) -> Strategy:
    """Make a config's strategy for these tasks in this order.

    `fixed` takes its weights by task name; `rlw` draws from the unit's seed unless it has its own.

    Raises:
        ValueError: a strategy or option is unknown, or a task has no weight.
    """
    options = settings.options
    if settings.name == "cotbal" and weights is not None:
        options = {"weights": weights, "tasks": tasks} | options
    if settings.name == "rlw":
        options = {"seed": seed} | options
    if settings.name == "fixed" and isinstance(options.get("weights"), Mapping):
        given = options["weights"]
        unfit = sorted({*given} ^ {*tasks})
        if unfit:
            raise ValueError(
                f"weights must name every task once and no other; check {', '.join(map(str, unfit))}"
            )
        options = options | {"weights": [given[task] for task in tasks]}
    return strategies.get(settings.name, len(tasks), **options)


def check_strategy(
    settings: StrategyConfig, index: int, tasks: Sequence[str], *, validated: bool = True
) -> None:
    """Refuse an unknown strategy or option before anything runs.

    Args:
        validated: whether some task has a validation set.

    Raises:
        ConfigError: with the key's path and what is wrong.
    """
    place = f"comparison.strategies[{index}]"
    if settings.name == "cotbal":
        if settings.options:
            names = ", ".join(settings.options)
            raise ConfigError(f"{place}: cotbal takes no options, found {names}; see `weighing`")
        return
    try:
        make_strategy(settings, tasks, 0, None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{place}: {error}") from error
    if strategies.uses_validation(settings.name) and not validated:
        raise ConfigError(
            f"{place}: {settings.name} aligns gradients with validation samples, and no task has a `validation` set"
        )
