"""Tasks and samples of tokens: how many there are, and which token is whose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from cotbal_kernels import checks

# Statistics have an entry for each task, and for each sample up to the largest id.
MOST_TASKS: Final = 2**20
MOST_SAMPLES: Final = 2**24


class Ranked(NamedTuple):
    """Sample ids in ascending order, those of unsupervised tokens last, without a synchronisation."""

    ordered: Tensor
    order: Tensor
    begins: Tensor

    def ids(self, count: int) -> Tensor:
        """Each id once, [count]."""
        return self.ordered[torch.nonzero_static(self.begins, size=count).reshape(-1)]

    def places(self) -> Tensor:
        """The place of each token's sample among the ids."""
        return torch.empty_like(self.order).scatter_(0, self.order, self.begins.cumsum(0) - 1)


def ranked_samples(samples: Tensor, supervised: Tensor) -> Ranked:
    last = torch.iinfo(torch.int64).max
    ordered, order = torch.where(supervised, samples, last).sort(stable=True)
    begins = ordered != last
    begins[1:] &= ordered[1:] != ordered[:-1]
    return Ranked(ordered, order, begins)


def count_tasks(
    task_ids: Tensor | None, task_weights: Tensor | Sequence[float] | None, num_tasks: int | None
) -> int:
    """T, from whichever of the arguments tells it."""
    if num_tasks is not None and not 1 <= num_tasks <= MOST_TASKS:
        raise ValueError(f"num_tasks is {num_tasks}; accepted: 1 to {MOST_TASKS}")
    if task_weights is not None:
        if len(task_weights) == 0:
            raise ValueError("task_weights is empty; at least one task is needed")
        if num_tasks is not None and num_tasks != len(task_weights):
            raise ValueError(f"num_tasks is {num_tasks}, but task_weights has {len(task_weights)} entries")
        num_tasks = len(task_weights)
        if num_tasks > MOST_TASKS:
            raise ValueError(f"task_weights has {num_tasks} entries; accepted: 1 to {MOST_TASKS}")
    if task_ids is None:
        if num_tasks not in (None, 1):
            raise ValueError(f"{num_tasks} tasks but no task_ids; pass the task of each sample or token")
        return 1
    if num_tasks is None:
        raise ValueError("task_ids came without task_weights; pass num_tasks, the number of tasks")
    return num_tasks


def tasks_of_tokens(labels: Tensor, task_ids: Tensor, sample_ids: Tensor | None) -> Tensor:
    """Flat task id of each label, i64; whatever stands at unsupervised positions."""
    checks.integer("task_ids", task_ids)
    checks.same_device("task_ids", task_ids, "labels", labels)
    if task_ids.shape == labels.shape:
        return task_ids.reshape(-1).to(torch.int64)
    if sample_ids is not None and task_ids.dim() == 1:
        # A sample without an entry gets task -1, which is refused where it is supervised.
        known = (sample_ids >= 0) & (sample_ids < task_ids.shape[0])
        table = torch.nn.functional.pad(task_ids.to(torch.int64), (0, 1), value=-1)
        return table[torch.where(known, sample_ids, task_ids.shape[0]).reshape(-1).to(torch.int64)]
    if sample_ids is None and labels.dim() > 1 and task_ids.shape == labels.shape[:-1]:
        return task_ids.unsqueeze(-1).expand(labels.shape).reshape(-1).to(torch.int64)
    per_sample = "(number of samples,)" if sample_ids is not None else str(tuple(labels.shape[:-1]))
    alternatives = f"{tuple(labels.shape)} (per token)" + (
        f" or {per_sample} (per sample)" if labels.dim() > 1 or sample_ids is not None else ""
    )
    raise ValueError(
        f"task_ids has shape {tuple(task_ids.shape)} for labels of shape {tuple(labels.shape)}; "
        f"accepted: {alternatives}"
    )
