"""The strategies' definitions in scalar Python, as the authors' code computes them on a step's own losses.

Sources: MTAN (arXiv 1803.10704) and IGB (arXiv 2307.15429), with the windows of VisATB; UW-SO (arXiv 2408.07985);
CoBa (arXiv 2410.06741) as its authors' code computes it, on the losses it is given. A definition takes the mean
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


def uw_so(losses: Sequence[float], temperature: float) -> list[float]:
    """N softmax((1 / loss) / temperature)."""
    return softmax_times_count([1 / loss / temperature for loss in losses])


class CobaDefinition:
    """Weights that sum to 1, from slopes of the ratios of losses to the first ones."""

    def __init__(self, tasks: int, warmup: int, history: int, tau: float) -> None:
        self.tasks, self.warmup, self.history, self.tau = tasks, warmup, history, tau
        self.ratios: list[list[float]] = []
        self.slopes: list[list[float]] = []
        self.largest: list[float] = []
        self.first: list[float] = []

    def weights(self, losses: Sequence[float]) -> list[float]:
        """The weights of the step whose losses these are."""
        self.first = self.first or list(losses)
        self.ratios.append([loss / first for loss, first in zip(losses, self.first, strict=True)])
        if len(self.ratios) < self.warmup:
            return [1 / self.tasks] * self.tasks
        window = self.ratios[-self.history :]
        slopes = [slope([row[k] for row in window]) for k in range(self.tasks)]
        self.slopes = [*self.slopes, slopes][-self.history :]
        self.largest = [*self.largest, slope([max(row) for row in window])][-self.history :]
        n = len(self.slopes)
        relative = [self.tasks * a for a in shares(slopes)]
        absolute = [-n * shares([row[k] for row in self.slopes])[-1] for k in range(self.tasks)]
        divergence = softmax_times_count([-self.tau * n * b for b in shares(self.largest)])[-1]
        scores = [
            divergence * r / self.tasks + (1 - divergence) * a / self.tasks
            for r, a in zip(softmax_times_count(relative), softmax_times_count(absolute), strict=True)
        ]
        found = [w / self.tasks for w in softmax_times_count([self.tasks * score for score in scores])]
        least = 1 / (10 * self.tasks)
        if min(found) < least:
            found = [w * (1 - least * self.tasks) + least for w in found]
        return found


def shares(values: Sequence[float]) -> list[float]:
    """values over the sum of their sizes; 0 where all are 0."""
    total = math.fsum(map(abs, values))
    return [value / total if total else 0.0 for value in values]


def slope(values: Sequence[float]) -> float:
    """Of the least-squares line through (0, values[0]), (1, values[1]), ...; 0 of one value."""
    middle = (len(values) - 1) / 2
    squares = math.fsum((x - middle) ** 2 for x in range(len(values)))
    rises = (y - values[-1] for y in values)
    return math.fsum((x - middle) * y for x, y in enumerate(rises)) / squares if squares else 0.0
