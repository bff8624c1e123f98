"""A fixed vector of weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from cotbal.method.arrays import FloatArray
from cotbal.strategies.base import Strategy


class Fixed(Strategy):
    """The same weights in every step.

    Args:
        num_tasks: T.
        weights: one finite number of at least 0 per task.

    >>> import torch
    >>> Fixed(2, [0.5, 1.5]).begin_step(torch.tensor([30, 10]))
    tensor([0.5000, 1.5000], dtype=torch.float64)
    """

    name: ClassVar[str] = "fixed"

    def __init__(self, num_tasks: int, weights: Sequence[float] | FloatArray | Tensor) -> None:
        super().__init__(num_tasks)
        # A copy: a TaskWeights' values are read-only, which torch.as_tensor warns about.
        given = weights if isinstance(weights, Tensor) else torch.tensor(weights, dtype=torch.float64)
        given = given.detach().double()
        if given.shape != (num_tasks,):
            raise ValueError(
                f"weights has shape {tuple(given.shape)}; {(num_tasks,)} is needed for {num_tasks} task(s)"
            )
        bad = ~(torch.isfinite(given) & (given >= 0))
        if bad.any():
            index = int(bad.nonzero()[0])
            raise ValueError(
                f"weights[{index}] is {given[index].item()}; a finite number of at least 0 is needed"
            )
        self.weights.copy_(given)
