"""How sure the weights are: what varies, whether they differ from equal ones, and what would settle it."""

from __future__ import annotations

import numpy as np

from cotbal.method.certainty import Certainty, certainty_of
from cotbal.report.document import Section, Text
from cotbal.report.inputs import ReportInput
from cotbal.report.names import count, number

ONE_PREPARATION = (
    "Intervals cover the validation samples only: they say how far other samples would move a result. How far "
    "another order of training or another draw of the subsets would move it cannot be known from one preparation, "
    "and it is often more; preparation.seeds: [0, 1, 2] measures it."
)


def certainty_section(report: ReportInput) -> Section | None:
    """In words; None where there are no intervals to speak of."""
    found = certainty(report)
    if found is None:
        return None
    told = [_variances(found), equality(found), _order(found)]
    told += [needs(found)] if not found.differ else []
    return Section("certainty", "How sure the weights are", tuple(Text(text) for text in told))


def certainty(report: ReportInput) -> Certainty | None:
    """Of the measured weights, at their own temperature."""
    if report.measurement is None or report.weights is None:
        return None
    return certainty_of(report.measurement, report.weights.temperature)


def _variances(found: Certainty) -> str:
    if found.dominant is None:
        return ONE_PREPARATION
    by_seed = np.sqrt(np.nanmean(found.weights.seed_variance) / len(found.seeds))
    by_sample = np.sqrt(np.nanmean(found.weights.sample_variance))
    larger = "the seeds" if found.dominant == "seeds" else "the validation samples"
    seeds = ", ".join(map(str, found.seeds))
    return (
        f"The weights are means over {count(len(found.seeds), 'preparation')} (seeds {seeds}), and their intervals "
        f"hold both variances. Most of it comes from {larger}: the seeds move these means by "
        f"{number(float(by_seed))}, the validation samples by {number(float(by_sample))} (standard deviations, over "
        "all tasks)."
    )


def equality(found: Certainty) -> str:
    """Whether the weights differ from equal ones."""
    times = found.chance * 100
    chance = f"{times:.0f} times in 100" if times >= 1 else "less than once in 100"
    if found.differ:
        return (
            f"The weights differ from equal ones: tasks that are all alike would give such weights {chance}."
        )
    known = "samples and seeds" if found.seeds else "validation samples"
    return (
        f"These {known} do not show that any task should weigh more than another: tasks that are all alike would "
        f"give weights as far from 1 as these {chance}."
    )


def _order(found: Certainty) -> str:
    if not found.ranked:
        return "No two tasks are surely ranked; their order in the table may be chance."
    below: dict[str, list[str]] = {}
    for heavier, lighter in found.ranked:
        below.setdefault(heavier, []).append(lighter)
    listed = "; ".join(f"{heavier} above {', '.join(lighter)}" for heavier, lighter in below.items())
    pairs = len(found.tasks) * (len(found.tasks) - 1) // 2
    return (
        f"Surely ranked, all at once with {found.confidence:.0%} confidence, "
        f"{'is' if len(found.ranked) == 1 else 'are'} {len(found.ranked)} of {count(pairs, 'pair')}: {listed}."
    )


def needs(found: Certainty) -> str:
    """What would show a difference as large as the one seen."""
    if found.spread == 0:
        return (
            "The weights differ by no more than noise would make them, so nothing tells how many more samples or "
            "seeds would show a difference; there may be none."
        )
    ways = []
    if found.needed_samples is not None:
        ways.append(f"{max(found.needed_samples, 1.1):.1f} times the validation samples")
    if found.needed_seeds is not None and found.needed_seeds > len(found.seeds):
        ways.append(f"{count(found.needed_seeds, 'seed')} in place of {len(found.seeds)}")
    if not ways:
        return "Neither more seeds nor more validation samples would settle it alone; both together may."
    told = f"If the differences are what they seem, {' or '.join(ways)} would probably show them"
    if found.needed_samples is None:
        return f"{told}; no number of validation samples would alone, for the seeds differ too much."
    return f"{told}, the seeds' variance left aside." if found.dominant is None else f"{told}."
