"""Every file of a run's folder, damaged in every way, and what the commands that read it make of it.

`finished`: all files of a folder in which everything is done. `interrupted`: all files of a unit that was killed
while it trained, after two checkpoints, and while it was scored. A case ends in one of

- named: the command refuses with an error that names the file or its unit,
- redone: the command says so, and ends with the bits of an undisturbed run,
- harmless: the command ends with those bits,
- silent and wrong, unclear, or no cure: the product has to be mended.

After a named error its cure is tried, as the error tells it, for one damage of each file of the first unit and of
each file that belongs to no unit.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from soak.damages import DAMAGES
from soak.forked import Ended, cotbal, finish, start, warm
from soak.small_run import digests, products, write_small_run
from support.units.killed_run import plant

__all__ = ["BAD", "Case", "proof"]

BAD = ("silent and wrong", "unclear", "no cure")
_MADE_AGAIN = ("warning:", "damaged", "checking")


@dataclass(frozen=True)
class Case:
    """One damaged file, one command, and how it ended.

    Attributes:
        folder: `finished` or what it was interrupted in.
        cure: what comes of the error's advice: empty where it was not tried.
    """

    folder: str
    file: str
    damage: str
    command: str
    outcome: str
    said: str
    cure: str = ""


@dataclass(frozen=True)
class _Run:
    root: Path
    config: Path
    other: Path

    def cotbal(self, *words: object) -> Ended:
        return cotbal(words, self.root / "said.txt")


def proof(root: Path, *, short: bool, until: float | None) -> dict[str, Any]:
    """Make the runs in `root`, which is empty, and try every case; of a short proof a few dozen."""
    warm(root / "warm")
    names = os.environ.get("COTBAL_SOAK_FILES", "")

    def chosen(folder: str, file: str, damage: str) -> bool:
        if names and not re.search(names, f"{folder}:{file}:{damage}"):
            return False
        if until is not None and time.monotonic() > until:
            return False
        wanted = _in_short if short else _is_worth_it
        return wanted(folder, file, damage)

    cases = file_faults(root, chosen)
    counts = Counter(case.outcome for case in cases)
    return {
        "summary": f"{len(cases)} cases: "
        + ", ".join(f"{count} {name}" for name, count in counts.most_common()),
        "counts": dict(counts),
        "failures": [asdict(case) for case in cases if case.outcome in BAD],
        "cases": [asdict(case) for case in cases],
    }


def _is_worth_it(folder: str, file: str, damage: str) -> bool:
    """An interrupted unit is made to its end for each case: of sealed binaries, three kinds of damage are enough."""
    if folder == "finished" or file.endswith((".jsonl", "COMPLETE", "manifest.json")):
        return True
    if "checkpoint-2" in file:
        return damage == "one bit flipped"
    return damage in ("cut in half", "one bit flipped", "another run's")


def _in_short(folder: str, file: str, damage: str) -> bool:
    """One way of damage for each file that is the only one of its kind; a third of the plots and checkpoints."""
    if file.startswith("units/") and not file.startswith("units/mini/"):
        return False
    if file.endswith(".svg") and "summary" not in file:
        return False
    if "checkpoint-" in file and not file.endswith(("4/COMPLETE", "4/model.safetensors", "2/optimizer.pt")):
        return False
    if "/model/" in file and folder != "finished" and not file.endswith("model.safetensors"):
        return False
    turn = sorted(DAMAGES).index(damage)
    return (len(file) + len(folder)) % len(DAMAGES) == turn


def file_faults(root: Path, chosen: Callable[[str, str, str], bool]) -> list[Case]:
    """Make the runs in `root`, which is empty, and try every case that is chosen by folder, file and damage."""
    config = write_small_run(root / "mixture")
    # As if it had been made from other settings: same units, other numbers everywhere.
    another = write_small_run(root / "another", learning_rate=4e-3)
    run = _Run(root, config, root / "other")
    for path, output in ((config, root / "finished"), (another, run.other)):
        _ended_well(run.cotbal("run", path, "--output", output))
    return [*_finished(run, chosen), *_interrupted(run, chosen)]


def _ended_well(ended: Ended) -> None:
    if ended.code:
        raise RuntimeError(f"an undisturbed command ended with {ended.code}:\n{ended.said}")


def _cases(
    kind: str, template: Path, other: Path, below: str, chosen: Callable[[str, str, str], bool], copy: Path
) -> Iterator[tuple[str, str]]:
    """Damage a copy of the folder for each case, where that changes anything."""
    for name in digests(template, below):
        for damage, spoil in DAMAGES.items():
            if not chosen(kind, name, damage):
                continue
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(template, copy, symlinks=True)
            spoil(copy / name, other / name)
            if (copy / name).read_bytes() != (template / name).read_bytes():
                print(kind, name, damage, flush=True)
                yield name, damage


def _finished(run: _Run, chosen: Callable[[str, str, str], bool]) -> Iterator[Case]:
    template, copy = run.root / "finished", run.root / "case" / "finished"
    exported: dict[str, dict[str, str]] = {}
    for name, damage in _cases("finished", template, run.other, "**/*", chosen, copy):
        for command in _readers(name):
            words: list[object] = [command, run.config, "--output", copy]
            if command == "export":
                unit = name.split("/")[1]
                target = run.root / "exported"
                if unit not in exported:
                    _ended_well(run.cotbal(command, run.config, unit, "--output", template, "-o", target))
                    exported[unit] = digests(target)
                    shutil.rmtree(target)
                words[2:2] = [unit]
                ended = run.cotbal(*words, "-o", target)
                same = target.is_dir() and digests(target) == exported[unit]
                shutil.rmtree(target, ignore_errors=True)
            else:
                ended = run.cotbal(*words)
                # A finished unit's model is not read but by `export`; what is read is what is compared.
                same = _without_models(copy, name, command) == _without_models(template, name, command)
            outcome = _outcome(ended, name, same)
            cure = ""
            first = not name.startswith("units/") or "/mini/" in name
            if outcome == "named" and first and damage == "one bit flipped" and command == _readers(name)[-1]:
                cure = _cured(run, ended, copy, template)
                outcome = outcome if cure != "not cured" else "no cure"
            yield Case("finished", name, damage, command, outcome, _short(ended, run), cure)


def _readers(name: str) -> tuple[str, ...]:
    """The commands that read a file of a finished folder."""
    if "/model/" in name:
        return ("export",)
    if name.startswith("units/"):
        return ("report", "run") if name.split("/")[1] in ("mini", "cotbal-seed0") else ("report",)
    return {
        "scores.csv": ("weigh", "report", "run"),
        "weights.json": ("tune", "report"),
        "plan.json": ("status",),
    }.get(name, ("report", "run"))


def _without_models(output: Path, name: str, command: str) -> dict[str, str]:
    # What a command does not read, such as the page of the check, is nothing that it could get wrong.
    left = {name} if (command == "report" and name.startswith("check/")) or command == "status" else set()
    return {
        file: digest for file, digest in digests(output).items() if "/model/" not in file and file not in left
    }


def _interrupted(run: _Run, chosen: Callable[[str, str, str], bool]) -> Iterator[Case]:
    points = {
        "training": ("cotbal.tune.trainer:begin_step", 6, "after"),
        "scoring": ("cotbal.units.evaluate:_Generation.answers", 2, "before"),
    }
    template_of = {kind: run.root / kind for kind in points}
    for kind, point in points.items():
        for config, output in (
            (run.config, template_of[kind]),
            (run.root / "another" / "mixture.yaml", run.root / f"{kind}-other"),
        ):
            ended = _killed(
                ["unit", str(config), "mini", "--output", str(output)], point, run.root / "said.txt"
            )
            if ended.code != -signal.SIGKILL:
                raise RuntimeError(f"{point} was not reached:\n{ended.said}")
        copy = run.root / "case" / kind
        whole = products(run.root / "finished")
        wanted = {name: digest for name, digest in whole.items() if name.startswith("units/mini/")}
        other = run.root / f"{kind}-other"
        for name, damage in _cases(
            f"interrupted in {kind}", template_of[kind], other, "units/**/*", chosen, copy
        ):
            ended = run.cotbal("unit", run.config, "mini", "--output", copy)
            found = {
                name: digest for name, digest in products(copy).items() if name.startswith("units/mini/")
            }
            outcome = _outcome(ended, name, found == wanted)
            yield Case(f"interrupted in {kind}", name, damage, "unit", outcome, _short(ended, run))


def _killed(words: list[str], point: tuple[str, int, str], said: Path) -> Ended:
    def child() -> int:
        from cotbal.cli import main

        plant(*point)
        return main(words)

    return finish(*start(child, said))


def _outcome(ended: Ended, name: str, same: bool) -> str:
    if ended.code == 0:
        if not same:
            return "silent and wrong"
        file = Path(name).name
        told = any(mark in ended.said for mark in _MADE_AGAIN) and (file in ended.said or "check" in name)
        return "redone" if told else "harmless"
    unit = name.split("/")[1] if name.startswith("units/") else "-"
    plain = ended.code == 2 and "Traceback" not in ended.said and "error inside" not in ended.said
    said = " ".join(ended.said.split())
    return "named" if plain and (Path(name).name in said or f"{unit} would have" in said) else "unclear"


def _cured(run: _Run, ended: Ended, copy: Path, template: Path) -> str:
    """What comes of doing as an error says."""
    said = " ".join(ended.said.split())
    delete = re.search(r"(/\S+?): .*delete (the folder|it)\b", said)
    if delete:
        path = Path(delete[1])
        how = f"{path.name if delete[2] == 'it' else path.parent.name} deleted"
        shutil.rmtree(path.parent) if delete[2] != "it" else os.unlink(path)
        tried = [["run"]]
    elif "writes it anew" in said:
        how, tried = "made anew", [["prepare"], ["weigh"], ["run"]]
    else:
        how, tried = "--redo", [["run", "--redo"]]
    for command, *options in tried:
        if run.cotbal(command, run.config, "--output", copy, *options).code:
            return "not cured"
    mine = products(copy)
    return how if mine == products(template) else "not cured"


def _short(ended: Ended, run: _Run) -> str:
    """What was said, as far as it is an error or a warning, without the folder of the test."""
    said = re.split(r"(?m)^(?=error:|warning:)", ended.said)
    chosen = said[1:] if ended.code else [part for part in said[1:] if "damaged" in part]
    text = " ".join(" ".join(chosen or ([] if ended.code == 0 else [ended.said[-600:]])).split())
    return text.replace(str(run.root / "case"), "...").replace(str(run.root), "...")
