"""EW: every token counts the same."""

from __future__ import annotations

from typing import ClassVar

from cotbal.strategies.base import Strategy


class EqualWeights(Strategy):
    """w = 1 for every task: the ordinary mean over supervised tokens.

    >>> import torch
    >>> EqualWeights(2).begin_step(torch.tensor([30, 10]))
    tensor([1., 1.], dtype=torch.float64)
    """

    name: ClassVar[str] = "ew"
