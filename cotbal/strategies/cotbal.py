"""CoTBal: the weights that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from cotbal.method.weights import TaskWeights
from cotbal.strategies.fixed import Fixed


class CoTBal(Fixed):
    """The weights of `cotbal.weigh`, the same in every step (arXiv 2403.04343).

    Args:
        num_tasks: T.
        weights: measured weights.
        tasks: the tasks in the order of the training data; default: the order of the weights.

    >>> import torch
    >>> from cotbal.method.weighing import combine_terms
    >>> measured = combine_terms([0.2, 0.1], [0.1, 0.1], [0.5, 0.1], tasks=["caption", "vqa"])
    >>> CoTBal(2, measured, tasks=["vqa", "caption"]).begin_step(torch.tensor([30, 10]))
    tensor([0.7851, 1.2149], dtype=torch.float64)
    """

    name: ClassVar[str] = "cotbal"

    def __init__(self, num_tasks: int, weights: TaskWeights, tasks: Sequence[str] | None = None) -> None:
        if not isinstance(weights, TaskWeights):
            raise TypeError(
                f"weights must be TaskWeights; found {type(weights).__name__}. Load them with TaskWeights.load, "
                "or use the strategy 'fixed' for plain numbers"
            )
        ordered = weights if tasks is None else weights.for_tasks(tasks)
        super().__init__(num_tasks, ordered.values.tolist())
