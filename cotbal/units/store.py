"""The output folder on disk: what each unit is, how far it is, and writes that a kill cannot tear.

Layout of ``OUTPUT``::

    units/<unit>/manifest.json      what the unit is made from, its state, versions, times
                 checkpoints/       while it trains; a finished checkpoint holds a COMPLETE file
                 model/             the trained model, as `save_pretrained` writes it
                 skipped.jsonl      records that training skipped although the check had passed them
                 log.jsonl          what the trainer logged, one line an entry
                 predictions/       while it is scored: one JSONL a task
                 scores.jsonl       one line a sample: task, index, id, group, prediction, references, score
    scores.csv  weights.json  bad_records.jsonl  check/  report/
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cotbal.atomic import replacing
from cotbal.config.yaml_file import ConfigError
from cotbal.data.records import Problem
from cotbal.units.locking import locked

__all__ = ["Manifest", "OutputFolder", "SampleScore", "State", "UnitFolder", "json_line", "write_text"]

State = Literal["planned", "trained", "scored"]
SCHEMA = 1


def write_text(path: Path, text: str) -> None:
    """Replace a file whole, making its folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as stream:
        stream.write(text)


def json_line(values: Mapping[str, Any]) -> str:
    """Values as one line of JSON, in readable letters unless there is one that UTF-8 cannot hold."""
    line = json.dumps(dict(values), ensure_ascii=False, sort_keys=True)
    try:
        line.encode()
    except UnicodeEncodeError:
        line = json.dumps(dict(values), sort_keys=True)
    return line + "\n"


def _lines(path: Path) -> list[str]:
    """Lines as `json_line` ends them; `splitlines` would also split at separators inside of strings."""
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def _problems(path: Path) -> tuple[Problem, ...]:
    if not path.is_file():
        return ()
    lines = [json.loads(line) for line in _lines(path)]
    return tuple(Problem(Path(line["file"]), line["index"], line["reason"]) for line in lines)


@dataclass(frozen=True)
class SampleScore:
    """The score of one sample of one task, and what it was given for."""

    task: str
    index: int
    id: str
    group: str
    prediction: str | None
    references: tuple[str, ...]
    score: float


@dataclass(frozen=True)
class Manifest:
    """What a unit is and how far it is.

    Attributes:
        training: everything its weights depend on, as nested values.
        scoring: everything its scores depend on besides, per task.
        state: ``planned``, ``trained`` (its model is saved) or ``scored`` (nothing is left to do).
        versions: of the packages it was run with.
        seconds: time spent training and scoring, over all calls.
        samples: how many samples were trained on (all epochs) and scored.
        steps: optimizer steps of the training.
        finished: when it was scored, in UTC; empty before.
    """

    unit: str
    model: str
    stage: str
    seed: int
    training: Mapping[str, Any]
    scoring: Mapping[str, Any]
    state: State = "planned"
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    samples: Mapping[str, int] = field(default_factory=dict)
    steps: int = 0
    finished: str = ""
    schema: int = SCHEMA

    def advanced(self, state: State, **changes: Any) -> Manifest:
        """The same unit in another state."""
        return replace(self, state=state, **changes)


class UnitFolder:
    """The folder of one unit."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.predictions = path / "predictions"
        self._manifest = path / "manifest.json"
        self._scores = path / "scores.jsonl"
        self._log = path / "log.jsonl"
        self.skipped = path / "skipped.jsonl"

    def manifest(self) -> Manifest | None:
        """The manifest, or None where the unit was never begun.

        Raises:
            ConfigError: the file is there but is not a manifest of this version.
        """
        try:
            values = json.loads(self._manifest.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except json.JSONDecodeError as error:
            raise ConfigError(
                f"{self._manifest}: not a manifest ({error}); delete the folder to redo it"
            ) from None
        if not isinstance(values, dict) or values.get("schema") != SCHEMA:
            raise ConfigError(
                f"{self._manifest}: written by another version of cotbal; use that version, or delete the folder "
                "to redo it"
            )
        return Manifest(**values)

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest."""
        write_text(self._manifest, json.dumps(asdict(manifest), indent=1, sort_keys=True) + "\n")

    def scores(self) -> list[SampleScore]:
        """All samples' scores, in the order of tasks and samples.

        Raises:
            ConfigError: the unit has not been scored, or the file is damaged.
        """
        found: list[SampleScore] = []
        if not self._scores.is_file():
            raise ConfigError(f"{self._scores}: there is no such file; this unit has not been scored yet")
        for line in _lines(self._scores):
            try:
                values = json.loads(line)
                found.append(SampleScore(**{**values, "references": tuple(values["references"])}))
            except (json.JSONDecodeError, TypeError, KeyError):
                place = f"{self._scores}:{len(found) + 1}"
                raise ConfigError(f"{place}: not a score; delete the folder to redo the unit") from None
        return found

    def write_scores(self, scores: Iterable[SampleScore]) -> None:
        """Replace the scores; the samples' file exists only when it is whole."""
        write_text(self._scores, "".join(json_line(asdict(score)) for score in scores))

    def log(self) -> list[dict[str, Any]]:
        """What the trainer logged, in order; empty where it has not finished."""
        if not self._log.is_file():
            return []
        return [json.loads(line) for line in _lines(self._log)]

    def write_log(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Replace the log."""
        write_text(self._log, "".join(json_line(entry) for entry in entries))

    def discard_scores(self) -> None:
        """Forget scores and predictions; the trained model stays."""
        self._scores.unlink(missing_ok=True)
        shutil.rmtree(self.predictions, ignore_errors=True)

    def discard(self) -> None:
        """Forget the unit altogether."""
        # The manifest goes first: without it, a folder that a kill left half deleted is simply not begun.
        self._manifest.unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)


class OutputFolder:
    """The output folder of a config."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.units = path / "units"
        self.scores_csv = path / "scores.csv"
        self.weights_json = path / "weights.json"
        self.bad_records = path / "bad_records.jsonl"
        self.report = path / "report"
        self.check = path / "check"

    def unit(self, name: str) -> UnitFolder:
        """The folder of the unit of that name, whether or not it exists."""
        return UnitFolder(self.units / name)

    def manifests(self) -> Iterator[tuple[UnitFolder, Manifest]]:
        """The units that were begun, sorted by name."""
        folders = sorted(self.units.iterdir()) if self.units.is_dir() else []
        for path in folders:
            folder = UnitFolder(path)
            manifest = folder.manifest()
            if manifest is not None:
                yield folder, manifest

    def problems(self) -> tuple[Problem, ...]:
        """The broken records that were left out, as far as files have been read."""
        return _problems(self.bad_records)

    def _skipped_late(self) -> Iterator[Problem]:
        """What trainings skipped although the check had passed it: a picture that was lost meanwhile, for one."""
        for path in sorted(self.units.glob("*/skipped.jsonl")):
            yield from _problems(path)

    def write_problems(self, problems: Iterable[Problem], read: Container[Path] | None = None) -> None:
        """Replace what is known of the files that were read (None: of all); of others it stays."""
        kept = [] if read is None else [problem for problem in self.problems() if problem.file not in read]
        listed: dict[tuple[Path, int], Problem] = {}
        for problem in (*kept, *problems, *self._skipped_late()):
            listed.setdefault((problem.file, problem.index), problem)
        entries = [{"file": str(p.file), "index": p.index, "reason": p.reason} for p in listed.values()]
        write_text(self.bad_records, "".join(json_line(entry) for entry in entries))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process from working in this folder, and clear away what a killed one was writing.

        Raises:
            ConfigError: another process holds the lock; which one.
        """
        with locked(self.path):
            for unfinished in self.path.rglob(".*.tmp"):
                unfinished.unlink()
            yield
