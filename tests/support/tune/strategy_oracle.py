"""The strategies' definitions in scalar Python, as the authors' code computes them on a step's own losses.

Sources: MTAN (arXiv 1803.10704) and IGB (arXiv 2307.15429), with the windows of VisATB. A definition takes the mean
loss of every task in step s and answers with the weights of step s itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def softmax_times_count(values: Sequence[float]) -> list[float]:
    """N softmax(values)."""
    peak = max(values)
    exponentials = [math.exp(value - peak) for value in values]
    return [len(values) * e / math.fsum(exponentials) for e in exponentials]


class DwaDefinition:
    """A queue of 2 W losses per task that starts with ones; the ratio of its halves' means once step > W."""

    def __init__(self, tasks: int, window: int, temperature: float) -> None:
        self.window = window
        self.temperature = temperature
        self.queues = [[1.0] * (2 * window) for _ in range(tasks)]
        self.step = 0

    def ratios(self, losses: Sequence[float]) -> list[float]:
        """r of every task after this step's losses."""
        for queue, loss in zip(self.queues, losses, strict=True):
            queue.pop(0)
            queue.append(loss)
        begun = self.step > self.window
        self.step += 1
        if not begun:
            return [1.0] * len(self.queues)
        window = self.window
        return [math.fsum(queue[window:]) / math.fsum(queue[:window]) for queue in self.queues]

    def weights(self, losses: Sequence[float]) -> list[float]:
        """The weights of the step whose losses these are."""
        return softmax_times_count([ratio / self.temperature for ratio in self.ratios(losses)])


class IgbDefinition:
    """base = mean loss over steps start .. stop - 1; N softmax(loss / base) from step `stop` on, 1 before."""

    def __init__(self, tasks: int, start: int, stop: int) -> None:
        self.start, self.stop = start, stop
        self.history: list[list[float]] = []
        self.tasks = tasks

    def weights(self, losses: Sequence[float]) -> list[float]:
        """The weights of the step whose losses these are."""
        self.history.append(list(losses))
        if len(self.history) <= self.stop:
            return [1.0] * self.tasks
        base = [math.fsum(row[k] for row in self.history[self.start : self.stop]) for k in range(self.tasks)]
        count = self.stop - self.start
        return softmax_times_count([loss / (total / count) for loss, total in zip(losses, base, strict=True)])
