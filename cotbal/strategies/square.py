"""Square averaging: between counting tokens and counting samples."""

from __future__ import annotations

from typing import ClassVar

from cotbal.strategies.base import Strategy


class SquareAveraging(Strategy):
    """Every token of a sample of n supervised tokens weighs 1 / n^p; the tasks weigh 1 (InternVL, p = 0.5).

        loss = sum over tokens t of nll(t) / n(t)^p  /  sum over tokens t of 1 / n(t)^p

    p = 0 counts tokens, as EW does, and p = 1 counts samples; between them, long answers neither drown the short ones
    nor are lost among them. The weights belong to samples, so the collator makes them
    (`TaskCollator(length_exponent=...)`), and a step whose batches lack them is refused. The sums run over the whole
    optimizer step; in InternVL's code over one micro-batch, averaged over the ranks.

    >>> SquareAveraging(2).length_exponent
    0.5
    """

    name: ClassVar[str] = "square"

    def __init__(self, num_tasks: int, exponent: float = 0.5) -> None:
        super().__init__(num_tasks)
        if not 0 < exponent <= 1:
            raise ValueError(f"exponent is {exponent}; a number above 0 and at most 1 is needed")
        self.length_exponent = float(exponent)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, exponent={self.length_exponent}"
