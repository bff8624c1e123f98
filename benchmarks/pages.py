"""The pages made from result files: `docs/benchmarks.md`, its plots, and the figures in the README."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks import predictions, results
from benchmarks.runner import FLOOR
from cotbal.report.plots.svg import drawing, picture

ROOT = Path(__file__).parent.parent
PAGE = Path("docs/benchmarks.md")
README = Path("README.md")

# Okabe-Ito, told apart by marker and dash as well as by colour
_STYLES = {
    "ours": ("#0072B2", "o", "-"),
    "stock": ("#D55E00", "s", "--"),
    "torch fused, one chunk": ("#009E73", "^", ":"),
}
_CURVES = {
    "curve-supervised": ("supervised", "share of supervised tokens"),
    "curve-tokens": ("tokens", "tokens"),
    "curve-vocabulary": ("vocab", "vocabulary"),
    "curve-tasks": ("tasks", "tasks"),
}


def load(folder: Path = results.FOLDER) -> list[dict[str, Any]]:
    """Every result file, in the order of machine and group."""
    return [results.read(path) for path in sorted(folder.glob("*/*.json"))]


def render(files: list[dict[str, Any]]) -> dict[Path, str]:
    """Path below the project's root -> text, for the page and its plots."""
    pages: dict[Path, str] = {}
    lines = [
        "# Benchmarks",
        "",
        "`make bench` (CPU) and `make bench-gpu` measure on your machine; `make docs` writes this page from the",
        "result files in `benchmarks/results`.",
        "",
        "- Times are medians and quartiles of interleaved runs in one process.",
        "- *x floor* is the ratio to the three bare GEMMs over the supervised rows, measured in the same run (for",
        "  the loss on logits: to one copy of them).",
        "- *Peak memory* is the most that torch's allocator held beyond what it held before, without gradients; for",
        "  whole training steps, with them. On CPUs the allocator keeps freed memory, for every contender alike.",
        "- *Compacted* contenders get the supervised rows alone; selecting the rows is not timed.",
        "- Where a contender has no figure, the line below the table says why.",
    ]
    for machine in dict.fromkeys(file["machine"]["kind"] for file in files):
        of_machine = [file for file in files if file["machine"]["kind"] == machine]
        lines += ["", f"## {_machine_title(of_machine[0]['machine'])}"]
        for file in of_machine:
            lines += ["", f"### {file['group']}", "", _provenance(file), ""]
            curve = next((c for c in _CURVES if file["group"].endswith(c)), None)
            if curve is not None:
                picture = _picture(file)
                pages[picture] = plot_curve(file, *_CURVES[curve])
                lines += [f"![time and memory against {_CURVES[curve][1]}](images/{picture.name})", ""]
            if file["group"].startswith("records-"):
                lines += [*_records_table(file), ""]
                continue
            for entry in file["entries"]:
                lines += [*_table(entry), ""]
    lines += predictions.section()
    pages[PAGE] = "\n".join(lines).rstrip() + "\n"
    return pages


def _picture(file: dict[str, Any]) -> Path:
    return Path("docs/images") / f"{file['machine']['kind']}-{file['group']}.svg"


def _machine_title(machine: dict[str, Any]) -> str:
    if "gpu" in machine:
        return str(machine["gpu"]["name"])
    return f"{machine['cpu']}, {machine['threads']} threads"


def _provenance(file: dict[str, Any]) -> str:
    machine = file["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"Measured {file['measured'][:10]} at commit `{machine['commit'][:12]}` with {versions}."


def _records_table(file: dict[str, Any]) -> list[str]:
    """Records are made up to LLaVA-1.5's measure; processor time stands a busy machine better than the clock."""
    lines = [
        "| case | records | file | processor time | by the clock | peak memory | x file |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in file["entries"]:
        cells = [
            entry["name"],
            f"{entry['records']:,}",
            f"{entry['file_bytes'] / 1e6:,.0f} MB",
            seconds(entry["cpu"]),
            seconds(entry["wall"]),
            f"{entry['peak_bytes'] / 2**20:,.0f} MiB",
            f"{entry['peak_bytes'] / entry['file_bytes']:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _table(entry: dict[str, Any]) -> list[str]:
    timings = entry["contenders"]
    with_floor = any("ratio_to_floor" in timing for timing in timings.values())
    rate = any("tokens_per_second" in timing for timing in timings.values())
    to_stock = any("ratio_to_stock" in timing for timing in timings.values())
    header = ["contender", "median", "quartiles"]
    header += ["x floor"] if with_floor else []
    header += ["tokens/s"] if rate else []
    header += ["x stock"] if to_stock else []
    header += ["peak memory", "runs"]
    lines = [f"**{entry['name']}**", ""]
    if "emulated" in entry.get("floor", ""):
        lines += [f"Floor: {entry['floor']}.", ""]
    lines += ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for name, timing in sorted(timings.items(), key=lambda item: item[1]["median"]):
        cells = [
            f"*{name}*" if name == FLOOR else name,
            seconds(timing["median"]),
            f"{seconds(timing['lower'])} to {seconds(timing['upper'])}",
        ]
        cells += [f"{timing['ratio_to_floor']:.2f}"] if with_floor else []
        cells += [f"{timing['tokens_per_second']:,.0f}"] if rate else []
        cells += [f"{timing['ratio_to_stock']:.3f}"] if to_stock else []
        peak = timing["peak_bytes"]
        cells += [f"{peak / 2**20:,.0f} MiB", str(timing["runs"])]
        lines.append("| " + " | ".join(cells) + " |")
    if "paired" in entry:
        pair = entry["paired"]
        lines += [
            "",
            f"*{pair['first']}* takes {pair['ratio']:.3f} times as long as *{pair['second']}* (95 % interval "
            f"{pair['lower']:.3f} to {pair['upper']:.3f}, from {pair['pairs']} pairs of calls side by side).",
        ]
    if "largest_batch" in entry:
        told = ", ".join(f"{name}: {batch}" for name, batch in entry["largest_batch"].items())
        limit = entry.get("memory_limit")
        where = "" if limit is None else f" into {limit / 2**20:,.0f} MiB beyond the first step's"
        lines += ["", f"Samples in the largest batch that fits{where} (powers of two): {told}."]
    if entry["absent"]:
        by_reason: dict[str, list[str]] = {}
        for name, reason in entry["absent"].items():
            by_reason.setdefault(reason, []).append(name)
        told = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())
        lines += ["", f"No figure: {told}."]
    return lines


def seconds(value: float) -> str:
    """Three significant digits in the unit people would choose."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 1 or unit == "µs":
            return f"{value * factor:.3g} {unit}" if value * factor < 1000 else f"{value * factor:.0f} {unit}"
    raise AssertionError("unreachable")


def plot_curve(file: dict[str, Any], key: str, label: str) -> str:
    """Time and peak memory of every contender against one quantity, as SVG text."""
    name = file["group"]
    with drawing(name):
        figure = Figure(figsize=(7.5, 2.9), layout="constrained")
        figure.patch.set_visible(False)
        panels = figure.subplots(1, 2)
        for contender, (colour, marker, dash) in _STYLES.items():
            points = [
                (entry[key], entry["contenders"][contender])
                for entry in file["entries"]
                if contender in entry["contenders"]
            ]
            if not points:
                continue
            x = [point[0] for point in points]
            style: dict[str, Any] = {
                "color": colour,
                "marker": marker,
                "linestyle": dash,
                "markersize": 5,
                "label": contender,
            }
            panels[0].plot(x, [point[1]["median"] * 1e3 for point in points], **style)
            panels[1].plot(x, [point[1]["peak_bytes"] / 2**20 for point in points], **style)
        for axes, unit in zip(panels, ("ms, forward and backward", "peak MiB"), strict=True):
            axes.set(xlabel=label, ylabel=unit, ylim=(0, None))
            axes.tick_params(length=0)
            axes.patch.set_visible(False)
            axes.grid(axis="y")
        panels[0].legend()
        return picture(
            figure,
            name=name,
            title=f"Time and memory against {label}",
            alt=f"{', '.join(_STYLES)} on {_machine_title(file['machine'])}; the tables below give the figures.",
            caption="",
        ).file


def readme_block(files: Iterable[dict[str, Any]]) -> str:
    """The README's figures: one row per head-line case of every machine, ours against the others; whole steps."""
    files = list(files)
    rows = [
        "| machine | case | ours | x bare GEMMs | stock | stock, compiled | `F.linear_cross_entropy` |",
        "|---|---|---|---|---|---|---|",
    ]
    for file in files:
        if file["group"] not in ("cpu-loss", "gpu-LLaVA-1.5"):
            continue
        for entry in file["entries"]:
            timings = entry["contenders"]
            if "ours" not in timings or entry["hidden"] < 1024:
                continue

            def against(*names: str, timings: dict[str, Any] = timings) -> str:
                medians = [timings[name]["median"] for name in names if name in timings]
                if not medians:
                    return "-"
                return f"{seconds(min(medians))} ({min(medians) / timings['ours']['median']:.1f} x)"

            cells = [
                _machine_title(file["machine"]),
                f"{entry['label']}, {entry['dtype']}, {entry['supervised']:.0%} supervised",
                seconds(timings["ours"]["median"]),
                f"{timings['ours']['ratio_to_floor']:.2f}",
                against("stock"),
                against("stock, compiled"),
                against("torch fused", "torch fused, one chunk"),
            ]
            rows.append("| " + " | ".join(cells) + " |")
    if any("emulated" in entry.get("floor", "") for file in files for entry in file["entries"]):
        rows += [
            "",
            "On CPUs that only emulate bfloat16 products, the bare GEMMs are timed in float32, and the others, which",
            "would take minutes, are left out.",
        ]
    rows += [
        "",
        "`F.linear_cross_entropy` runs in one chunk and with its automatic options; the faster of the two counts.",
    ]
    rows += [
        "",
        "Whole training steps that log every task, against transformers' `Trainer` without weights:",
        "",
    ]
    for file in files:
        if file["group"].endswith("tuning"):
            rows += [_step_line(file, entry) for entry in file["entries"]]
    for file in files:
        if file["group"].endswith("curve-supervised"):
            title = _machine_title(file["machine"])
            rows += [
                "",
                f"![time and memory against the share of supervised tokens, {title}]({_picture(file)})",
            ]
    return "\n".join(rows) + "\n"


def _step_line(file: dict[str, Any], entry: dict[str, Any]) -> str:
    ours, stock = entry["contenders"]["ours"], entry["contenders"]["stock"]
    return (
        f"- {entry['name']}: {ours['ratio_to_stock']:.2f} x the time, {ours['peak_bytes'] / 2**20:,.0f} instead of "
        f"{stock['peak_bytes'] / 2**20:,.0f} MiB ({_machine_title(file['machine'])})"
    )


def headline(files: Iterable[dict[str, Any]]) -> str:
    """One sentence: a whole training step of the largest model measured, against the stock trainer's."""
    steps = [(file, entry) for file in files if file["group"].endswith("tuning") for entry in file["entries"]]
    file, entry = max(steps, key=lambda step: step[1]["contenders"]["stock"]["peak_bytes"])
    ours, stock = entry["contenders"]["ours"], entry["contenders"]["stock"]
    time = f"{ours['ratio_to_stock']:.2f} x the time of transformers' `Trainer`"
    memory = " MiB of memory instead of ".join(f"{t['peak_bytes'] / 2**20:,.0f}" for t in (ours, stock))
    where = f"({entry['name']}; {_machine_title(file['machine'])})"
    return f"**With the weights, a training step takes {time},\nand {memory}** {where}.\n"


def with_readme_blocks(readme: str, files: list[dict[str, Any]]) -> str:
    """The README with its generated blocks, `headline` and `benchmarks`, made anew."""
    for name, block in (("headline", headline(files)), ("benchmarks", readme_block(files))):
        pattern = rf"(<!-- {name}: generated by `make docs` -->\n).*?(<!-- end of {name} -->)"
        readme, found = re.subn(pattern, lambda m, block=block: m[1] + block + m[2], readme, flags=re.S)
        if found != 1:
            raise ValueError(f"README.md has {found} generated blocks named {name!r}; exactly one is needed")
    return readme


def write_all(root: Path = ROOT) -> list[Path]:
    files = load()
    pages = render(files)
    readme = root / README
    if readme.exists():
        pages[README] = with_readme_blocks(readme.read_text(), files)
    for path, text in pages.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return list(pages)
