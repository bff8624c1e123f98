"""`docs/study.md` and its plot, made from the committed results alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.pages import ROOT
from benchmarks.study.design import AGAIN, DECLARED, DESCRIBED, VARIANTS
from benchmarks.study.gather import RESULTS
from benchmarks.study.health import states
from benchmarks.study.power import Declared, declared, detectable
from cotbal.report.plots.svg import drawing, picture

PAGE = Path("docs/study.md")
PLOT = Path("docs/images/study.svg")
NEGATIVE = Path(__file__).with_name("earlier.md")
ROWS = ("ew", AGAIN, *(label for label in (*DECLARED, *DESCRIBED) if label != "ew"))


def load(path: Path = RESULTS) -> dict[str, Any]:
    """The committed results."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def render(results: dict[str, Any]) -> dict[Path, str]:
    """Path below the project's root -> text."""
    plan = declared()
    seeds = _seeds(results)
    lines = [
        "# Does balancing help?",
        "",
        "What task weights are worth on three small generated mixtures, how sure that is, and what a cheaper",
        "preparation loses. `make study` makes it anew; this page is generated from its results.",
        "",
        "## In short",
        "",
        *_short(results, plan),
        "",
        "## What was asked",
        "",
        f"Version: **{results['size']}**. Training pictures per mixture: {results['scenes']['train']}; per task "
        f"{results['scenes']['validation']} validation and {results['scenes']['test']} test samples; tuned seeds per "
        f"strategy: {seeds[0] if seeds[0] == seeds[1] else f'{seeds[0]} to {seeds[1]}'}; preparations: "
        + ", ".join(f"{name} {count}" for name, count in results["preparations"].items())
        + ".",
        "",
        "The single-task reference is a mean over "
        + ", ".join(_reference_seeds(name, m["single_seeds"]) for name, m in results["mixtures"].items())
        + ". A seed's own spread, and too few preparations to average, are the limits of this version: see the "
        "intervals, and [make the full one](#making-it-again) before you build on it.",
        "",
        f"Four contrasts were declared before the runs, with their power: at {plan.confidence:.2%} each (together "
        f"{1 - plan.level:.0%}), with {plan.seeds} seeds per mixture and an assumed deviation between seeds of "
        f"{plan.deviation:g} points, a lead of {plan.detectable:.1f} points is found with a chance of "
        f"{plan.power:.0%}. Everything else here is description.",
        "",
        *_contrast_table(results, plan),
        "",
        "## Strategies",
        "",
        "dI and dE in percent against single-task tuning of the same epochs, then the lead over equal weights in "
        "points of dI with its 90% interval, paired by seed and test sample, and the mean scores. A strategy with "
        f"one seed has no interval; one that is missing has not been tuned in this version. `{AGAIN}` is `ew` with "
        "other seeds.",
        "",
        "![leads over equal weights](images/study.svg)",
        "",
    ]
    for name, mixture in results["mixtures"].items():
        lines += [f"### {name}", "", *_strategy_table(mixture), ""]
    lines += ["## Cheaper preparations", "", *_estimators(results), ""]
    lines += ["## The mixtures", "", *_health(results), ""]
    lines += [NEGATIVE.read_text(encoding="utf-8").rstrip(), ""]
    lines += ["## Making it again", "", *_making(results)]
    return {PAGE: "\n".join(lines).rstrip() + "\n", PLOT: plot(results)}


def _reference_seeds(name: str, count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'} on {name}"


def _seeds(results: dict[str, Any]) -> tuple[int, int]:
    counts = [len(r["improvement"]) for m in results["mixtures"].values() for r in m["results"].values()]
    return min(counts), max(counts)


def _verdict(row: dict[str, Any]) -> str:
    if "mean" not in row:
        return "not complete"
    low, high = row["interval"]
    if low > 0:
        return "ahead"
    return "behind" if high < 0 else "not shown either way"


def _short(results: dict[str, Any], plan: Declared) -> list[str]:
    lines = []
    by_name = {row["name"]: row for row in results["contrasts"]}
    for contrast in plan.contrasts:
        row = by_name[contrast.name]
        if "mean" not in row:
            alone = "; ".join(
                f"{found['mean']:+.2f} points of dI on {name} (interval {found['interval'][0]:+.2f} to "
                f"{found['interval'][1]:+.2f})"
                for name, found in row["alone"].items()
            )
            lines.append(
                f"- **{contrast.question}** Not answered: the runs are complete on {row['mixtures']} of "
                f"{len(plan.mixtures)} mixtures. There: {alone or 'nothing yet'}."
            )
            continue
        low, high = row["interval"]
        words = {
            "ahead": "Yes" if contrast.behind == "ew" else "It is ahead",
            "behind": "No, it is behind",
            "not shown either way": "These runs do not show it either way",
        }[_verdict(row)]
        lines.append(
            f"- **{contrast.question}** {words}: {row['mean']:+.2f} points of dI, "
            f"{plan.confidence:.2%} interval {low:+.2f} to {high:+.2f}."
        )
    better = {
        name: sorted(
            (s for s, r in mixture["results"].items() if r.get("lead", {}).get("interval", [0])[0] > 0),
            key=lambda s: -mixture["results"][s]["lead"]["mean"],
        )
        for name, mixture in results["mixtures"].items()
    }
    worse = {
        name: [s for s, r in mixture["results"].items() if r.get("lead", {}).get("interval", [0, 0])[1] < 0]
        for name, mixture in results["mixtures"].items()
    }
    lines.append(
        "- Ahead of equal weights by their own 90% interval, uncorrected: "
        + "; ".join(f"{name}: {', '.join(found) or 'none'}" for name, found in better.items())
        + ". Behind: "
        + "; ".join(f"{name}: {', '.join(found) or 'none'}" for name, found in worse.items())
        + "."
    )
    lines += _chance(results, plan)
    lines += _weights_in_short(results)
    lines.append(f"- **Where CoTBal is not ahead.** {_not_ahead(results, plan)}")
    lines.append(f"- **Defaults.** {_defaults(results)}")
    return lines


def _chance(results: dict[str, Any], plan: Declared) -> Iterable[str]:
    """What equal weights with other seeds make of the leads above."""
    found = {
        name: again["lead"]
        for name, mixture in results["mixtures"].items()
        if "lead" in (again := mixture["results"].get(AGAIN, {}))
    }
    if not found:
        return
    leads = "; ".join(
        f"{name} {lead['mean']:+.2f} ({lead['interval'][0]:+.2f} to {lead['interval'][1]:+.2f})"
        for name, lead in found.items()
    )
    seeds = max(lead["seeds"] for lead in found.values())
    both = "; ".join(
        f"`{contrast.ahead}` " + ", ".join(_over_both_sets(results, contrast.ahead, name) for name in found)
        for contrast in plan.contrasts
        if contrast.behind == "ew"
    )
    yield (
        f"- **What chance does.** Equal weights tuned again with {seeds} other seeds (`{AGAIN}`) lie from `ew` "
        f"by, in points of dI: {leads}. All leads on this page are over the same units of `ew`, so the luck that "
        f"these had is in every lead of their mixture. Over the mean of both sets the leads are: {both}."
    )


def _over_both_sets(results: dict[str, Any], strategy: str, mixture: str) -> str:
    """A strategy's lead over the mean of `ew` and `ew-again`."""
    rows = results["mixtures"][mixture]["results"]
    return f"{rows[strategy]['lead']['mean'] - rows[AGAIN]['lead']['mean'] / 2:+.2f} on {mixture}"


def _not_ahead(results: dict[str, Any], plan: Declared) -> str:
    """What the declared contrasts against equal weights show on each mixture alone."""
    found: dict[str, list[str]] = {"ahead of": [], "behind": [], "not told apart from": []}
    for row, contrast in zip(results["contrasts"], plan.contrasts, strict=True):
        for name, part in row["alone"].items() if contrast.behind == "ew" else ():
            verdict = {"ahead": "ahead of", "behind": "behind"}.get(_verdict(part), "not told apart from")
            found[verdict].append(f"`{contrast.ahead}` on {name} ({part['mean']:+.2f})")
    parts = [f"{', '.join(listed)}: {verdict} equal weights" for verdict, listed in found.items() if listed]
    return (
        f"By each mixture's own {plan.confidence:.2%} interval: {'; '.join(parts) or 'nothing is complete'}."
    )


def _defaults(results: dict[str, Any]) -> str:
    verdicts = {_verdict(row) for row in results["contrasts"]}
    if "not complete" in verdicts:
        return "They stay as they are: the declared contrasts are not answered yet."
    worse = [
        name
        for name, mixture in results["mixtures"].items()
        if mixture["preparation"]["distance"]["cotbal"]["rms"]
        > mixture["preparation"]["distance"]["equal"]["rms"]
    ]
    shown = (
        "no declared contrast shows another setting to be better"
        if verdicts == {"not shown either way"}
        else "a lead shown here is one of a small model on generated data"
    )
    text = f"They stay as they are: {shown}. "
    if worse:
        text += (
            f"On {', '.join(worse)} the weights of one preparation are farther from what the others agree on than "
            "weights of 1 are: at this size one preparation is mostly chance. "
        )
    return text + (
        "So tune `ew` beside `cotbal` and let the report's interval decide, give `preparation.seeds` two or more "
        "where a decision hangs on the weights, and set `weighing.shrink` where you have one preparation. Keep "
        "`preparation.estimator: full` unless answers are long."
    )


def _weights_in_short(results: dict[str, Any]) -> Iterable[str]:
    parts = {name: mixture["preparation"] for name, mixture in results["mixtures"].items()}
    for label, words in (
        ("equal", "Weights of 1 lie from the mean of the other preparations, in rms over tasks and seeds"),
        ("cotbal", "The weights of one preparation"),
        ("cotbal-shrunk", "The same with `shrink`"),
        ("cotbal-hybrid", "Hybrid ones"),
    ):
        distances = ", ".join(
            f"{part['distance'][label]['rms']:.3f} on {name}" for name, part in parts.items()
        )
        yield f"- {words}: {distances}."


def _contrast_table(results: dict[str, Any], plan: Declared) -> Iterable[str]:
    yield "| question | contrast | lead in dI | interval | deviation between seeds | would find | |"
    yield "|:--|:--|--:|:--|--:|--:|:--|"
    by_name = {row["name"]: row for row in results["contrasts"]}
    for contrast in plan.contrasts:
        row = by_name[contrast.name]
        cells = ["-"] * 4
        if "mean" in row:
            low, high = row["interval"]
            least = detectable(
                max(row["deviation"], 0.01), row["seeds"], row["mixtures"], contrasts=len(plan.contrasts)
            )
            cells = [
                f"{row['mean']:+.2f}",
                f"{low:+.2f} to {high:+.2f}",
                f"{row['deviation']:.2f}",
                f"{least:.2f}",
            ]
        yield (
            f"| {contrast.question} | `{contrast.ahead}` - `{contrast.behind}` | {' | '.join(cells)} "
            f"| {_verdict(row)} |"
        )
    yield ""
    yield "| contrast, each mixture alone | " + " | ".join(plan.mixtures) + " |"
    yield "|:--|" + ":--|" * len(plan.mixtures)
    for contrast in plan.contrasts:
        cells = []
        for name in plan.mixtures:
            found = by_name[contrast.name]["alone"].get(name)
            low, high = (0.0, 0.0) if found is None else found["interval"]
            cells.append(
                "not complete" if found is None else f"{found['mean']:+.2f} ({low:+.2f} to {high:+.2f})"
            )
        yield f"| `{contrast.ahead}` - `{contrast.behind}` | {' | '.join(cells)} |"
    yield ""
    yield (
        "*Would find* is the lead that the deviation actually seen lets these seeds find with a chance of "
        f"{plan.power:.0%}."
    )


def _strategy_table(mixture: dict[str, Any]) -> Iterable[str]:
    tasks = mixture["tasks"]
    yield f"| strategy | seeds | dI | dE | lead over EW | 90% interval | {' | '.join(tasks)} |"
    yield "|:--|--:|--:|--:|--:|:--|" + "--:|" * len(tasks)
    yield "| single task | | | | | | " + " | ".join(f"{score:.3f}" for score in mixture["single"]) + " |"
    for name in ROWS:
        row = mixture["results"].get(name)
        if row is None:
            continue
        found = row.get("lead")
        shown = ["", ""]
        if found is not None:
            shown = [f"{found['mean']:+.2f}", "{:+.2f} to {:+.2f}".format(*found["interval"])]
        scores = np.mean(list(mixture["scores"][name].values()), axis=0)
        yield (
            f"| `{name}` | {len(row['improvement'])} | {np.mean(row['improvement']):+.2f} "
            f"| {np.mean(row['error']):.2f} | {shown[0]} | {shown[1]} | "
            + " | ".join(f"{score:.3f}" for score in scores)
            + " |"
        )


_ESTIMATORS = {
    "equal": "weights of 1",
    "cotbal": "one full preparation",
    "cotbal-hybrid": "one hybrid preparation",
    "cotbal-shrunk": "one full preparation, `shrink`",
    "half": "one of half of everything",
    "half x 2": "two of half of everything",
}
# Estimator -> the strategy that is tuned with its weights, where the names differ.
_TUNED = {"equal": "ew", "half": "cotbal-half", "half x 2": "cotbal-half-twice"}


def _estimators(results: dict[str, Any]) -> Iterable[str]:
    yield "How far the weights of one preparation lie from the mean of the other full preparations, over tasks and"
    yield "seeds, beside the yardsticks: weights of 1, one full preparation, and two preparations of half of"
    yield "everything (half the mini subsets, half of the own task), which train as many samples as a full one and"
    yield "score twice as many. `preparation.estimator: hybrid` takes contributions from teacher-forced token"
    yield "accuracies and difficulty from generated answers, which needs 2 N of N (N + 1) passes of generation;"
    yield "where answers are short, as here, that saves little time. Cost is in seconds, training and scoring. C is"
    yield "the correlation of one preparation's contributions with their mean, plain and with the means of their"
    yield "columns taken off. dI is of the units tuned with such weights."
    yield ""
    yield "| mixture | weights | cost | rms | largest | C | C, centred | dI |"
    yield "|:--|:--|--:|--:|--:|--:|--:|--:|"
    for name, mixture in results["mixtures"].items():
        cost = _costs(mixture)
        for label, distance in mixture["preparation"]["distance"].items():
            tuned = mixture["results"].get(_TUNED.get(label, label))
            improvement = "-" if tuned is None else f"{np.mean(tuned['improvement']):+.2f}"
            agreement = (f"{distance[key]:.2f}" if key in distance else "-" for key in ("c", "c_centred"))
            yield (
                f"| {name} | {_ESTIMATORS[label]} | {cost[label]:.0f} | {distance['rms']:.3f} "
                f"| {distance['largest']:.3f} | {' | '.join(agreement)} | {improvement} |"
            )
    yield ""
    yield (
        "Hybrid and full weights of the same preparation differ by "
        + "; ".join(
            f"{m['preparation']['hybrid_from_full']['rms']:.3f} (rms) and "
            f"{m['preparation']['hybrid_from_full']['largest']:.3f} (largest) on {name}"
            for name, m in results["mixtures"].items()
        )
        + "."
    )
    yield ""
    yield "The distance to the mean of the others when one preparation's weights are pulled toward 1 (share kept):"
    yield ""
    shares = list(next(iter(results["mixtures"].values()))["preparation"]["pulled"])
    yield f"| mixture | {' | '.join(shares)} |"
    yield "|:--|" + "--:|" * len(shares)
    for name, mixture in results["mixtures"].items():
        cells = (f"{mixture['preparation']['pulled'][share]:.3f}" for share in shares)
        yield f"| {name} | {' | '.join(cells)} |"


def _costs(mixture: dict[str, Any]) -> dict[str, float]:
    """Seconds of one preparation by each estimator, from medians of its units."""
    seconds, count = mixture["seconds"], len(mixture["tasks"])
    train, score = (count + 1) * seconds["prepare train"], (count + 1) * seconds["prepare score"]
    half = (count + 1) * (seconds.get("half train", math.nan) + seconds.get("half score", math.nan))
    hybrid = train + score * 2 / (count + 1) + (count + 1) * seconds["tokens"]
    return {
        "equal": 0.0,
        "cotbal": train + score,
        "cotbal-hybrid": hybrid,
        "cotbal-shrunk": train + score,
        "half": half,
        "half x 2": 2 * half,
    }


def _health(results: dict[str, Any]) -> Iterable[str]:
    yield "A task is *learned* where single-task tuning is clearly above the most common answer, *hopeless* where it"
    yield "is not, and *mastered* where it is within 3% of full marks."
    yield ""
    yield "| mixture | task | metric | training samples | constant answer | single task | |"
    yield "|:--|:--|:--|--:|--:|--:|:--|"
    for name, mixture in results["mixtures"].items():
        for row, state in zip(_rows(mixture), states(mixture, results["scenes"]["test"]), strict=True):
            yield f"| {name} | {' | '.join(row)} | {state} |"


def _rows(mixture: dict[str, Any]) -> Iterable[Sequence[str]]:
    columns = (mixture[key] for key in ("tasks", "metrics", "train", "constant", "single"))
    for task, metric, train, constant, single in zip(*columns, strict=True):
        yield task, metric, str(train), f"{constant:.3f}", f"{single:.3f}"


def _making(results: dict[str, Any]) -> list[str]:
    machine = results["machine"]
    options = "; ".join(
        f"{name} {', '.join(f'{key} {value}' for key, value in values.items())}"
        for name, values in results["options"].items()
    )
    return [
        "`make study` makes the short version; stopped at any time, the same call goes on. The full one is",
        "`python -m benchmarks.study run --size full`; add `run --processes 8` to spread either over processes. Then",
        "`python -m benchmarks.study page` makes this page.",
        "",
        f"These results: {machine['cpu']}, torch {machine['versions']['torch']}, one thread per process"
        + (f"; options besides the defaults: {options}" if options else "")
        + ".",
    ]


def plot(results: dict[str, Any]) -> str:
    """Leads over equal weights with their intervals, one panel per mixture, as SVG text."""
    names = [name for name in ROWS if name != "ew"]
    with drawing("study"):
        figure = Figure(figsize=(7.5, 4.2), layout="constrained")
        figure.patch.set_visible(False)
        panels = figure.subplots(1, len(results["mixtures"]), sharey=True)
        for axes, (title, mixture) in zip(panels, results["mixtures"].items(), strict=True):
            for place, name in enumerate(names):
                found = mixture["results"].get(name, {}).get("lead")
                if found is None:
                    continue
                colour = "#0072B2" if name in VARIANTS else "#D55E00"
                axes.plot(found["interval"], [place, place], color=colour, linewidth=1.5)
                axes.plot([found["mean"]], [place], color=colour, marker="o", markersize=4)
            axes.axvline(0, color="#777777", linewidth=0.8)
            axes.set(title=title, xlabel="points of dI")
            axes.set_yticks(range(len(names)), names)
            axes.tick_params(length=0)
            axes.patch.set_visible(False)
            axes.grid(axis="x")
        panels[0].invert_yaxis()
        made = picture(
            figure,
            name="study",
            title="Leads over equal weights",
            alt="Lead of every strategy over equal weights in points of dI with its 90% interval, by mixture",
            caption="",
        )
    return made.file


def write_all(root: Path = ROOT) -> list[Path]:
    """Write the page and its plot."""
    pages = render(load())
    for path, text in pages.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return list(pages)
