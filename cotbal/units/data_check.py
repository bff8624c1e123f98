"""Checking all data of a config before anything is trained, once per content.

What was found is kept in ``OUTPUT/check``: a summary that the next start reads, the length of every training record,
and a page to look at.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from cotbal.atomic import read_file
from cotbal.config.schema import Config
from cotbal.config.tasks import TaskConfig
from cotbal.config.yaml_file import ConfigError
from cotbal.data.check import Finding, SetSummary, inspect_records, summarise
from cotbal.data.check_page import COLUMNS, cells, check_page, samples_of
from cotbal.data.dataset_info import data_file
from cotbal.data.encode import Encoder
from cotbal.data.formats import refusal
from cotbal.data.packed import PackedRecords, mixes_images
from cotbal.data.records import BadRecordsError, Problem, RecordSet
from cotbal.models.model_source import processor_source
from cotbal.output.fingerprint import data_digest, folder_digest, versions
from cotbal.output.seals import damage, seal_files, seal_values
from cotbal.output.store import OutputFolder, write_text
from cotbal.units import ranks
from cotbal.units.batches import processes_per_unit
from cotbal.units.mixture import Mixture, Split, packed
from cotbal.units.progress import ScheduleProgress

__all__ = ["check_and_show", "check_data", "check_rows_fit", "record_lengths", "refuse_bad", "summaries"]

_SCHEMA = 3
_SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_LENGTHS = "lengths.jsonl"
_PAGE = "index.html"
SetKey = tuple[str, Split]


def check_data(
    config: Config,
    mixture: Mixture,
    load_processor: Callable[[], Any],
    progress: ScheduleProgress,
    *,
    workers: int | None = None,
) -> tuple[SetSummary, ...]:
    """Check every record of every set, leave out of the mixture what cannot be used, and list it.

    The records that cannot be used are in ``bad_records.jsonl`` before anything is raised.

    Args:
        load_processor: makes the processor; not called where the same content was checked before.
        workers: processes; None: as many as there are processors.

    Raises:
        BadRecordsError: there are some, and `bad_records` is ``refuse``.
        ConfigError: a set has lost all its records, or more than `max_bad_share` of them.
    """
    sets = summaries(config, mixture, load_processor, progress, workers=workers)
    refuse_bad(config, mixture, sets, progress)
    return sets


def summaries(
    config: Config,
    mixture: Mixture,
    load_processor: Callable[[], Any],
    progress: ScheduleProgress,
    *,
    workers: int | None = None,
) -> tuple[SetSummary, ...]:
    """What the check finds of every set, from the cache where the content is the same; nothing is refused."""
    folder = OutputFolder(config.output)
    read = {
        (task.name, split): mixture.read(task.name, split)
        for task in config.tasks
        for split in _SPLITS
        if getattr(task, split)
    }
    key = _key(config, read)
    cached = _cached(folder.check / "check.json", key, config)
    if cached is not None:
        return cached
    processor = load_processor()
    findings = _inspect(config, read, processor, progress, workers)
    trained_on = frozenset(
        finding.digest for (_, split), found in findings.items() if split == "train" for finding in found
    ) - {b""}
    sets = tuple(
        summarise(
            *set_key,
            read[set_key].records,
            found,
            read[set_key].problems,
            refuse_cut=config.bad_records == "refuse",
            trained_on=frozenset() if set_key[1] == "train" else trained_on,
        )
        for set_key, found in findings.items()
    )
    _write_lengths(config, key, read, findings)
    samples = [
        sample
        for (task, split), found in read.items()
        for sample in samples_of(task, split, found.records, processor)
    ]
    title = f"Data of {config.output.name}, checked" + (" quickly" if config.check == "quick" else "")
    write_text(folder.check / _PAGE, check_page(sets, samples, title))
    stored = [_stored(item, _files(config, item.task, item.split)) for item in sets]
    values: dict[str, Any] = {"schema": _SCHEMA, "key": key, "sets": stored}
    values["files"] = seal_files(folder.check, [_LENGTHS, _PAGE])
    # Last, since it vouches for the others.
    write_text(
        folder.check / "check.json", json.dumps({**values, "seal": seal_values(values)}, indent=1) + "\n"
    )
    return sets


def check_and_show(
    config: Config, progress: ScheduleProgress, console: Console, *, workers: int | None = None
) -> bool:
    """Check the data of a config and show what was found; False where a run would not begin.

    Raises:
        ConfigError: the config names files or a processor that cannot be read.
    """
    from cotbal.models.loading import load_processor

    mixture = Mixture(config)
    sets = summaries(config, mixture, lambda: load_processor(config.model), progress, workers=workers)
    table = Table(*COLUMNS)
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    for item in sets:
        table.add_row(*map(Text, cells(item)))
    console.print(table)
    for item in sets:
        for kind, count in item.reasons.items():
            console.print(Text(f"{item.task} {item.split}: {count:,} x {kind}"))
    try:
        refuse_bad(config, mixture, sets, progress)
    except (BadRecordsError, ConfigError) as error:
        console.print(Text(str(error)), style="red", soft_wrap=True)
        return False
    finally:
        console.print(Text(f"page: {OutputFolder(config.output).check / _PAGE}"), soft_wrap=True)
    return True


def refuse_bad(
    config: Config, mixture: Mixture, sets: Sequence[SetSummary], progress: ScheduleProgress
) -> None:
    """List the records that cannot be used, leave them out of the mixture, and stop where the config says so."""
    folder = OutputFolder(config.output)
    problems = [problem for item in sets for problem in item.problems]
    mixture.leave_out(problems)
    if ranks.is_first():
        folder.write_problems(problems)
    for note in dict.fromkeys(note for item in sets for note in item.notes):
        progress.say(f"note: {note}")
    if config.check == "quick":
        progress.say("check: quick looked at the headers of pictures and at a sample of records only")
    if problems and config.bad_records == "refuse":
        raise BadRecordsError(problems, refusal(sum(item.usable for item in sets)))
    lost = [item for item in sets if _has_lost_too_much(item, config.max_bad_share)]
    if lost:
        lines = [
            f"task '{item.task}', {item.split}: {len(item.problems)} of {item.records} records cannot be used; most: "
            + "; ".join(f"{kind} ({count})" for kind, count in list(item.reasons.items())[:3])
            for item in lost
        ]
        raise ConfigError(
            f"too many records would be skipped (max_bad_share is {config.max_bad_share:g}); all are listed in "
            f"{folder.bad_records}\n  " + "\n  ".join(lines)
        )


def record_lengths(config: Config) -> dict[tuple[Path, int], int]:
    """The tokens of every training record that can be used, images included, by file and index: of the last check."""
    path = OutputFolder(config.output).check / _LENGTHS
    _, rows = read_file(path).decode().splitlines()
    files = {task.name: _files(config, task.name, "train") for task in config.tasks}
    return {(files[task][file], index): tokens for task, file, index, tokens in json.loads(rows)}


def _write_lengths(
    config: Config, key: str, read: Mapping[SetKey, RecordSet], findings: Mapping[SetKey, Sequence[Finding]]
) -> None:
    rows: list[tuple[str, int, int, int]] = []
    for task, split in findings:
        if split != "train":
            continue
        # By their number, as in the summary, so that data can be moved.
        numbers = {file: number for number, file in enumerate(_files(config, task, split))}
        places = packed(read[task, split]).where()
        rows += [
            (task, numbers[source], index, finding.tokens)
            for (source, index), finding in zip(places, findings[task, split], strict=True)
            if finding.tokens
        ]
    path = OutputFolder(config.output).check / _LENGTHS
    write_text(path, f"{json.dumps({'key': key})}\n{json.dumps(rows)}\n")


def check_rows_fit(
    config: Config,
    mixture: Mixture,
    load_processor: Callable[[], Any],
    settings: Iterable[Mapping[str, Any]],
) -> None:
    """Refuse batches of records with and without pictures where the model's family cannot have them together.

    Args:
        load_processor: called only where some set has both.
        settings: of the training of each stage.

    Raises:
        ConfigError: naming the setting.
    """
    trained = mixes_images(
        PackedRecords.joined([packed(mixture.read(task.name, "train")) for task in config.tasks])
    )
    mixed = {
        f"{task.name} {split}"
        for task in config.tasks
        for split in _SPLITS[1:]
        if _mixes(mixture, task, split)
    }
    if not (mixed or trained):
        return
    processor = load_processor()
    if Encoder(processor).mixes_rows:
        return
    name = type(processor).__name__
    if trained and any(each.get("per_device_train_batch_size", 8) > 1 for each in settings):
        raise ConfigError(
            f"training.per_device_train_batch_size: {name} cannot have records with and without pictures in one "
            "batch, and the tasks have both; set it to 1 and raise gradient_accumulation_steps"
        )
    if trained and processes_per_unit(config) > 1:
        raise ConfigError(
            f"launch.processes: {name} cannot have records with and without pictures in one batch, and where several "
            "processes train together a blank picture joins the batches that have none; set it to 1, or leave out "
            "one kind"
        )
    if mixed and config.evaluation.batch_size > 1:
        raise ConfigError(
            f"evaluation.batch_size: {name} cannot have records with and without pictures in one batch, and "
            f"{', '.join(sorted(mixed))} has both; set it to 1"
        )


def _mixes(mixture: Mixture, task: TaskConfig, split: Split) -> bool:
    return bool(getattr(task, split)) and mixes_images(mixture.read(task.name, split))


def _has_lost_too_much(item: SetSummary, share: float) -> bool:
    return item.usable == 0 or len(item.problems) > share * item.records


def _inspect(
    config: Config,
    read: dict[SetKey, RecordSet],
    processor: Any,
    progress: ScheduleProgress,
    workers: int | None,
) -> dict[SetKey, list[Finding]]:
    metrics = {task.name: task.metric for task in config.tasks}
    findings: dict[SetKey, list[Finding]] = {}
    total = sum(len(found) for found in read.values())
    with _shown(progress, total) as advance:
        for (task, split), found in read.items():
            # Generation is never truncated, so only what is trained on or scored by its loss can be too long.
            cut = split == "train" or metrics[task] == "loss"
            findings[task, split] = inspect_records(
                found.records,
                processor,
                max_length=config.max_length if cut else None,
                mode=config.check,
                workers=workers,
                advance=advance,
            )
    return findings


@contextmanager
def _shown(progress: ScheduleProgress, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with the time left on a terminal; one line in a log."""
    console = getattr(progress, "console", None)
    if not isinstance(console, Console) or not console.is_terminal:
        progress.say(f"checking {total:,} records")
        yield lambda count: None
        return
    columns = (TextColumn("checking records"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as display:
        bar = display.add_task("", total=total)
        yield lambda count: display.advance(bar, count)


def _key(config: Config, read: dict[SetKey, RecordSet]) -> str:
    """What the result depends on: files, pictures, processor, limits and versions."""
    digest = hashlib.sha256()
    source = Path(processor_source(config.model))
    digest.update(
        json.dumps(
            {
                "model": str(source) if not source.is_dir() else folder_digest(source),
                "revision": config.model.revision,
                "max_length": config.max_length,
                "check": config.check,
                "bad_records": config.bad_records,
                "tasks": [[task.name, task.metric == "loss"] for task in config.tasks],
                "versions": versions(),
            },
            sort_keys=True,
        ).encode()
    )
    for (task, split), found in read.items():
        settings = next(item for item in config.tasks if item.name == task)
        for path in getattr(settings, split):
            digest.update(f"{task}/{split}/{path.name}={data_digest(path)}\n".encode())
        digest.update(repr([(problem.index, len(found)) for problem in found.problems]).encode())
        records = packed(found)
        for images, (source, _) in zip(records.images(), records.where(), strict=True):
            for image in images:
                digest.update(_stamp(image, str(settings.images or source.parent)))
    return digest.hexdigest()


def _stamp(image: str | bytes, root: str) -> bytes:
    """What changes when a picture's file does, without reading it; bytes are in the data file itself.

    Names count from the images' folder, so that data can be moved.
    """
    if isinstance(image, bytes):
        return b""
    below = image.startswith(f"{root}{os.sep}") and f"{os.sep}." not in image
    name = image[len(root) + 1 :] if below else os.path.relpath(image, root)
    try:
        status = os.stat(image)
    except OSError:
        return f"{name}: gone\n".encode("utf-8", "backslashreplace")
    return f"{name}:{status.st_size}:{status.st_mtime_ns}\n".encode("utf-8", "backslashreplace")


def _cached(path: Path, key: str, config: Config) -> tuple[SetSummary, ...] | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or values.get("schema") != _SCHEMA or values.get("key") != key:
        return None
    # What is not as it was written is made anew: that is only a matter of time.
    seal = values.pop("seal", None)
    if seal != seal_values(values) or damage(path.parent, values["files"], deep=True, extra=lambda _: False):
        return None
    return tuple(_summary(item, _files(config, item["task"], item["split"])) for item in values["sets"])


def _files(config: Config, task: str, split: str) -> tuple[Path, ...]:
    settings = next(item for item in config.tasks if item.name == task)
    return tuple(map(data_file, getattr(settings, split)))


def _stored(item: SetSummary, files: tuple[Path, ...]) -> dict[str, Any]:
    """A summary as JSON takes it; files by their number, so that data can be moved."""
    problems = [[files.index(problem.file), problem.index, problem.reason] for problem in item.problems]
    return {**asdict(item), "problems": problems}


def _summary(values: dict[str, Any], files: tuple[Path, ...]) -> SetSummary:
    problems = tuple(Problem(files[number], index, reason) for number, index, reason in values["problems"])
    return replace(SetSummary(**values), problems=problems, notes=tuple(values["notes"]))
