"""Which file holds which model's results on which task."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """One file with the results of one model on one task, both by the names they are to have."""

    model: str
    task: str
    path: Path


def find_sources(
    patterns: Sequence[str], *, tasks: Mapping[str, str], models: Mapping[str, str]
) -> tuple[Source, ...]:
    """The files that patterns such as `out/{model}/*_samples_{task}.jsonl` name.

    Args:
        patterns: paths in which `{model}` and `{task}` stand for those names in the files' paths, and `*`, `**` and
            `?` for anything.
        tasks: name to be -> name in the paths; empty: all tasks, by the names they have there. A pattern without
            `{task}` is of the one task given.
        models: the same of models.

    Raises:
        ValueError: a pattern without `{model}` or that no file matches, a task or model that no file is of, or two
            files for one model and task.
    """
    found: dict[tuple[str, str], Source] = {}
    for pattern in patterns:
        if "{model}" not in pattern or ("{task}" not in pattern and len(tasks) != 1):
            raise ValueError(
                f"{pattern}: {{model}} and {{task}} are needed in the path, such as "
                "'out/{model}/*_samples_{task}.jsonl'; {task} may be missing where --task names just one"
            )
        shape = _shape(pattern, {"model": models, "task": tasks})
        paths = sorted(glob.glob(re.sub(r"\{(?:model|task)\}", "*", pattern), recursive=True))
        matches = [
            (path, match.groupdict()) for path in paths if (match := shape.fullmatch(path)) is not None
        ]
        if not matches and not (paths and (tasks or models)):
            raise ValueError(
                f"{pattern}: no file is there; {{model}} and {{task}} stand for one part of a name each"
            )
        for path, parts in matches:
            model = _renamed(parts["model"], models)
            task = _renamed(parts["task"], tasks) if "task" in parts else next(iter(tasks))
            known = found.setdefault((model, task), Source(model, task, Path(path)))
            if known.path != Path(path):
                raise ValueError(
                    f"{path}: model {model!r} has another file for task {task!r}, {known.path}; write the pattern so "
                    "that it finds one of the two"
                )
    for kind, names, place in (("model", models, 0), ("task", tasks, 1)):
        for name, theirs in names.items():
            if all(key[place] != name for key in found):
                raise ValueError(f"no file is of {kind} {theirs!r}, which is to be {name!r}")
    return tuple(found.values())


def _renamed(theirs: str, names: Mapping[str, str]) -> str:
    return next((name for name, known in names.items() if known == theirs), theirs)


def _shape(pattern: str, wanted: Mapping[str, Mapping[str, str]]) -> re.Pattern[str]:
    """The pattern as a regular expression, in which `{model}` and `{task}` are the wanted names, or any."""
    known = {"**/": r"(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = []
    seen: set[str] = set()
    for part in re.split(r"(\{model\}|\{task\}|\*\*/?|\*|\?)", pattern):
        name = part[1:-1]
        if part not in ("{model}", "{task}"):
            parts.append(known.get(part, re.escape(part)))
        elif name in seen:
            parts.append(f"(?P={name})")
        else:
            seen.add(name)
            names = sorted(wanted[name].values(), key=len, reverse=True)
            parts.append(f"(?P<{name}>{'|'.join(map(re.escape, names)) or '[^/]+'})")
    return re.compile("".join(parts))
