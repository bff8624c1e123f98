"""What answers the questions of a unit's scoring: its model in this process, or a server that has loaded it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from transformers import PreTrainedModel

from cotbal.config.schema import Config
from cotbal.config.yaml_file import ConfigError
from cotbal.data.records import Record
from cotbal.extras import check_extras
from cotbal.metrics.metric import Metric
from cotbal.models.adapters import adapters_wanted
from cotbal.output.answer_file import Answer
from cotbal.units.evaluate import answer
from cotbal.units.generation import generation_settings

__all__ = ["Answering", "Questions", "check_engine", "in_process"]


@dataclass(frozen=True)
class Questions:
    """What one task asks.

    Attributes:
        task: its name.
        records: its samples.
        metric: what the answers are for.
        max_new_tokens: of the longest answer.
        path: where answers are kept as they come.
    """

    task: str
    records: Sequence[Record]
    metric: Metric
    max_new_tokens: int
    path: Path


class Answering(Protocol):
    """Answers questions, and says what has answered.

    Attributes:
        engine: what a manifest records of it; empty for this process.
    """

    engine: Mapping[str, Any]

    def answers(self, questions: Questions) -> list[Answer]: ...


def check_engine(config: Config, metrics: Mapping[str, Metric]) -> None:
    """Refuse before any training what the config's engine cannot answer.

    Raises:
        ConfigError: the estimator is hybrid or a task is scored by its loss, which servers do not tell, or units keep
            adapters alone.
        MissingExtraError: the client's package is not installed.
    """
    if config.evaluation.engine == "transformers":
        return
    check_extras("evaluation.engine: openai", "openai")
    if config.preparation.estimator == "hybrid":
        raise ConfigError(
            "preparation.estimator: hybrid needs the token accuracies of given answers, which an OpenAI-compatible "
            "server does not tell; set estimator: full, or evaluation.engine: transformers"
        )
    if adapters_wanted(config.model):
        raise ConfigError(
            "evaluation.engine: units that train adapters keep nothing else, and a server cannot load an adapter "
            "alone; set evaluation.engine: transformers"
        )
    for task, metric in metrics.items():
        if metric.kind == "loss":
            raise ConfigError(
                f"task '{task}': metric {metric.name} needs the losses of given answers, which an OpenAI-compatible "
                "server does not tell; give the task a metric of answers, or set evaluation.engine: transformers"
            )


class _InProcess:
    """See `in_process`."""

    def __init__(
        self,
        model: PreTrainedModel,
        processor: Any,
        config: Config,
        source: str,
        advance: Callable[[int], None],
    ) -> None:
        self.engine: Mapping[str, Any] = {}
        self._model = model
        self._processor = processor
        self._config = config
        self._source = source
        self._advance = advance

    def answers(self, questions: Questions) -> list[Answer]:
        evaluation = self._config.evaluation
        return answer(
            self._model,
            self._processor,
            questions.records,
            metric=questions.metric,
            batch_size=evaluation.batch_size,
            max_new_tokens=questions.max_new_tokens,
            max_length=self._config.max_length,
            path=questions.path,
            generation=generation_settings(evaluation.generation),
            workers=evaluation.workers,
            advance=self._advance,
            source=self._source,
        )


@contextmanager
def in_process(
    load: Callable[[], PreTrainedModel],
    processor: Any,
    config: Config,
    source: str,
    advance: Callable[[int], None],
) -> Iterator[Answering]:
    """The unit's model, in memory within the block.

    Args:
        load: gives it, on its device.
        source: what answers come from; those of another source are not kept.
        advance: told how many samples were done or found done.
    """
    from cotbal.units.train import release_memory

    found = _InProcess(load(), processor, config, source, advance)
    try:
        yield found
    finally:
        # Whoever was in the block still holds `found`.
        del found._model
        release_memory()
