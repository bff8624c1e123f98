"""What one optimizer step sees: the same samples, however many processes train and however they accumulate."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Sampler

from cotbal.config.schema import Config
from cotbal.config.yaml_file import ConfigError

__all__ = ["BatchLayout", "StepSampler", "batch_layout", "processes_per_unit"]

# Steps whose samples are sorted by length together: enough to sort well, few enough to stay shuffled.
_STEPS_PER_GROUP = 50


@dataclass(frozen=True)
class BatchLayout:
    """How the samples of one optimizer step are spread.

    Attributes:
        samples: of one optimizer step, over all processes and accumulated micro-batches.
        per_device: samples of a micro-batch on one process.
        processes: how many train together.
        accumulation: micro-batches per process and step; `samples = per_device * processes * accumulation`.
    """

    samples: int
    per_device: int
    processes: int
    accumulation: int


def processes_per_unit(config: Config) -> int:
    """How many processes train a unit together: the config's, or one per visible GPU, or one.

    Under torchrun or accelerate launch, those that they started.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > 1:
        return started
    return config.launch.processes or max(1, torch.cuda.device_count())


def batch_layout(settings: Mapping[str, Any], processes: int) -> BatchLayout:
    """The layout that `training` settings ask for on a number of processes.

    With `global_batch_size` the accumulation is computed from it; without, a step sees
    `per_device_train_batch_size * gradient_accumulation_steps * processes` samples, as transformers has it.

    Raises:
        ConfigError: both `global_batch_size` and `gradient_accumulation_steps` are given, or the global batch
            cannot be divided over the processes.

    >>> batch_layout({"global_batch_size": 128, "per_device_train_batch_size": 4}, processes=8)
    BatchLayout(samples=128, per_device=4, processes=8, accumulation=4)
    """
    per_device = int(settings.get("per_device_train_batch_size", 8))
    total = settings.get("global_batch_size")
    if total is None:
        accumulation = int(settings.get("gradient_accumulation_steps", 1))
        return BatchLayout(per_device * processes * accumulation, per_device, processes, accumulation)
    if "gradient_accumulation_steps" in settings:
        raise ConfigError(
            "training.gradient_accumulation_steps: given beside global_batch_size, which it follows from; "
            "leave one of them out"
        )
    together = per_device * processes
    if total % together:
        fitting = [size for size in range(1, total + 1) if total % (size * processes) == 0]
        advice = (
            f"per_device_train_batch_size can be {', '.join(map(str, fitting[-6:]))} here"
            if fitting
            else f"global_batch_size must be a multiple of {processes}"
        )
        raise ConfigError(
            f"training.global_batch_size: {total} samples cannot be spread over {processes} "
            f"process{'es' if processes > 1 else ''} of {per_device} (per_device_train_batch_size); {advice}"
        )
    return BatchLayout(total, per_device, processes, total // together)


class StepSampler(Sampler[int]):
    """Sample indices in an order that fixes which samples each optimizer step sees.

    An epoch is a permutation of all samples, drawn from the seed and the epoch alone, and then as many blanks
    (the index `count`) as fill up the last step. Cut into steps of `batch` samples it gives the same steps for
    every number of processes and every accumulation, since the Trainer deals consecutive micro-batches out to
    the processes in turn.

    Args:
        count: number of samples.
        batch: samples per optimizer step, see `BatchLayout.samples`.
        seed: of the order.
        lengths: length of each sample, to put samples of similar length into one step; None: any order.
        shuffled: False takes the samples as they come.
    """

    def __init__(
        self,
        count: int,
        batch: int,
        seed: int,
        lengths: Sequence[int] | None = None,
        *,
        shuffled: bool = True,
    ) -> None:
        self.count = count
        self.batch = batch
        self.seed = seed
        self.lengths = lengths
        self.shuffled = shuffled
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch whose order comes next; the data loader calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.count // self.batch) * self.batch

    def __iter__(self) -> Iterator[int]:
        yield from self._order()
        yield from [self.count] * (len(self) - self.count)

    def _order(self) -> list[int]:
        if not self.shuffled:
            return list(range(self.count))
        # Multiplying by a large prime keeps neighbouring seeds and epochs apart.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        order: list[int] = torch.randperm(self.count, generator=generator).tolist()
        if self.lengths is None:
            return order
        return self._grouped(order, self.lengths, generator)

    def _grouped(self, order: list[int], lengths: Sequence[int], generator: torch.Generator) -> list[int]:
        """Steps of similar length, in a random order of steps; the last, ragged one stays last."""
        group = self.batch * _STEPS_PER_GROUP
        in_order: list[int] = []
        for start in range(0, len(order), group):
            part = order[start : start + group]
            in_order += sorted(part, key=lambda index: lengths[index], reverse=True)
        steps = [in_order[start : start + self.batch] for start in range(0, len(in_order), self.batch)]
        ragged = steps.pop() if steps and len(steps[-1]) < self.batch else []
        shuffled = [steps[place] for place in torch.randperm(len(steps), generator=generator).tolist()]
        # The longest step first: what does not fit into memory fails in the first step, not hours later.
        longest = max(range(len(shuffled)), key=lambda place: lengths[shuffled[place][0]], default=None)
        if longest is not None:
            shuffled[0], shuffled[longest] = shuffled[longest], shuffled[0]
        return [index for step in [*shuffled, ragged] for index in step]
