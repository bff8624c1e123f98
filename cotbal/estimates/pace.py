"""How fast units go, from those that are done and those that are being made, and what time is left."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cotbal.output.manifest import Manifest
from cotbal.output.standing import Standing, read_standing
from cotbal.output.store import OutputFolder
from cotbal.units.display import show_time

__all__ = ["Pace", "TimeLeft", "Work", "planned_work", "time_left"]

# Until something has been scored, scoring a sample is taken to last this share of training on one.
_ASSUMED_SCORING = 0.5
# A token accuracy takes a forward pass; training takes a backward pass of twice its work besides.
_ASSUMED_FORCED = 1 / 3


@dataclass(frozen=True)
class Work:
    """What a unit has to do.

    Attributes:
        samples: that its whole training sees.
        steps: optimizer steps.
        scored: samples to be scored.
        forced: samples whose token accuracies are taken for the hybrid estimator, in a forward pass each.
    """

    unit: str
    samples: int
    steps: int
    scored: int
    forced: int = 0


@dataclass(frozen=True)
class Pace:
    """Seconds per sample; None where nothing has been timed.

    Attributes:
        train: of training.
        score: of scoring.
        units: how many units were timed.
        forced: of taking token accuracies.
    """

    train: float | None
    score: float | None
    units: int
    forced: float | None = None


@dataclass(frozen=True)
class TimeLeft:
    """What time is left.

    Attributes:
        units: seconds of each unit that is not done; None until something has been timed.
        at_once: how many run side by side.
    """

    pace: Pace
    units: Mapping[str, float | None]
    at_once: int

    @property
    def seconds(self) -> float | None:
        """Until all is done; None until something has been timed."""
        known = [seconds for seconds in self.units.values() if seconds is not None]
        return sum(known) / self.at_once if len(known) == len(self.units) else None

    def __str__(self) -> str:
        if not self.units:
            return "time: all units are done"
        if self.seconds is None or self.pace.train is None:
            return "time: unknown until some steps are made; start the run, and ask again"
        side = f" with {self.at_once} units side by side" if self.at_once > 1 else ""
        timed = f"{self.pace.units} unit{'s' if self.pace.units > 1 else ''}"
        return (
            f"time: about {show_time(self.seconds)} left{side}, at {self.pace.train:.3g} s per sample of training "
            f"({timed} timed)"
        )


def planned_work(plan: Path) -> tuple[list[Work], int]:
    """The units of a `plan.json`, and how many run side by side; none where there is no such file."""
    try:
        values = json.loads(plan.read_bytes())
        work = [
            Work(
                str(each["name"]),
                int(each["samples"]),
                int(each["steps"]),
                int(each["scored"]),
                int(each.get("forced", 0)),
            )
            for each in values["units"]
        ]
        return work, max(1, int(values["at_once"]))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return [], 1


def time_left(folder: OutputFolder, work: Sequence[Work], at_once: int) -> TimeLeft:
    """The time that some units still take, by the pace of those in the folder.

    A resumed training is timed since it was resumed.
    """
    manifests = {manifest.unit: manifest for _, manifest in folder.manifests()}
    standings = {each.unit: _standing(folder, each.unit, manifests.get(each.unit)) for each in work}
    pace = _pace(work, manifests, standings)
    left: dict[str, float | None] = {}
    for each in work:
        manifest, standing = manifests.get(each.unit), standings[each.unit]
        state = "planned" if manifest is None else manifest.state
        if state == "scored":
            continue
        done = 0.0 if standing is None else standing.step / standing.steps
        samples = 0.0 if state == "trained" else each.samples * (1 - done)
        left[each.unit] = _seconds(pace, samples, each)
    return TimeLeft(pace, left, at_once)


def _standing(folder: OutputFolder, unit: str, manifest: Manifest | None) -> Standing | None:
    """Where a training stands that has not ended."""
    if manifest is None or manifest.state != "planned":
        return None
    found = read_standing(folder.standing_of(unit))
    return found if found is not None and 0 < found.step < found.steps else None


def _pace(
    work: Iterable[Work], manifests: Mapping[str, Manifest], standings: Mapping[str, Standing | None]
) -> Pace:
    train: list[tuple[float, float]] = []
    score: list[tuple[float, float]] = []
    forced: list[tuple[float, float]] = []
    timed = 0
    for each in work:
        manifest, standing = manifests.get(each.unit), standings[each.unit]
        if manifest is None:
            continue
        found = len(train)
        if manifest.seconds.get("train") and manifest.samples.get("train"):
            train.append((manifest.seconds["train"], manifest.samples["train"]))
        elif standing is not None and standing.seconds_left:
            share = standing.step / standing.steps
            train.append((standing.seconds_left * share / (1 - share), each.samples * share))
        if manifest.seconds.get("score") and manifest.samples.get("score"):
            score.append((manifest.seconds["score"], manifest.samples["score"]))
        if manifest.seconds.get("forced") and manifest.samples.get("forced"):
            forced.append((manifest.seconds["forced"], manifest.samples["forced"]))
        timed += len(train) - found
    return Pace(_rate(train), _rate(score), timed, _rate(forced))


def _rate(timed: Sequence[tuple[float, float]]) -> float | None:
    seconds, samples = sum(entry[0] for entry in timed), sum(entry[1] for entry in timed)
    return seconds / samples if samples else None


def _seconds(pace: Pace, samples: float, work: Work) -> float | None:
    if pace.train is None:
        return None
    score = pace.train * _ASSUMED_SCORING if pace.score is None else pace.score
    forced = pace.train * _ASSUMED_FORCED if pace.forced is None else pace.forced
    return samples * pace.train + work.scored * score + work.forced * forced
