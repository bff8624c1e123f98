"""The output folder on disk: what each unit is, how far it is, and writes that survive a kill.

Layout of `OUTPUT`:

    units/<unit>/manifest.json      what the unit is made from, its state, versions, times
                 checkpoints/       while it trains; a finished checkpoint holds a COMPLETE file
                 model/             the trained model, as `save_pretrained` writes it
                 skipped.jsonl      records that training skipped although the check had passed them
                 log.jsonl          what the trainer logged, one line an entry, appended while it trains
                 tensorboard/       where `report_to` has tensorboard
                 predictions/       while it is scored: one JSONL a task
                 scores.jsonl       one line a sample: task, index, id, group, prediction, references, score
                 token_accuracies.jsonl   the same of teacher-forced answers (`preparation.estimator: hybrid`)
    scores.csv  token_accuracies.csv  weights.json  seals.json  bad_records.jsonl  check/  report/
    running/<unit>/  its lock and progress    logs/<unit>.log  what its command said
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cotbal.atomic import naming, read_file, replacing, sync
from cotbal.config.yaml_file import ConfigError
from cotbal.data.records import Problem
from cotbal.output.holder import Holder
from cotbal.output.litter import bury, is_litter, remove_graves, remove_litter
from cotbal.output.locking import held_by_other, locked
from cotbal.output.manifest import SCHEMA, Manifest, manifest_of
from cotbal.output.products import check_product, seal_product
from cotbal.output.score_file import DamagedFileError, SampleScore, read_json_lines, read_scores
from cotbal.output.seals import damage, seal_files, seal_folder, seal_values

__all__ = ["OutputFolder", "UnitFolder", "json_line", "write_text"]


def write_text(path: Path, text: str) -> None:
    """Replace a whole file, and make its folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as stream:
        stream.write(text)


def json_line(values: Mapping[str, Any]) -> str:
    """Write values as one line of JSON, in readable letters unless UTF-8 cannot encode one."""
    line = json.dumps(dict(values), ensure_ascii=False, sort_keys=True)
    try:
        line.encode()
    except UnicodeEncodeError:
        line = json.dumps(dict(values), sort_keys=True)
    return line + "\n"


def _lines(problems: Iterable[Problem]) -> str:
    """One line per problem; each has a check of all of them, so that a line that is missing is seen."""
    entries = [{"file": str(p.file), "index": p.index, "reason": p.reason} for p in problems]
    check = seal_values({"problems": entries})[:16]
    return "".join(json_line({**entry, "check": check}) for entry in entries)


def _problems(path: Path) -> tuple[Problem, ...]:
    if not path.is_file():
        return ()
    try:
        lines = [values for _, values in read_json_lines(path)]
        return tuple(Problem(Path(line["file"]), line["index"], line["reason"]) for line in lines)
    except (KeyError, TypeError):
        raise ConfigError(f"{path}: not a list of records; delete it, and it is written anew") from None


def _waiting(unit: str, holder: Holder | None) -> str:
    who = "another process, which has not said its number," if holder is None else str(holder)
    return f"{unit} is being made by {who}; waiting for it"


class UnitFolder:
    """The folder of one unit."""

    # What a scoring leaves.
    score_files = ("scores.jsonl", "token_accuracies.jsonl")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.predictions = path / "predictions"
        self._manifest = path / "manifest.json"
        self._scores, self._accuracies = (path / name for name in self.score_files)
        self._log = path / "log.jsonl"
        self.skipped = path / "skipped.jsonl"
        self.tensorboard = path / "tensorboard"

    def manifest(self) -> Manifest | None:
        """Return the manifest, or None if the unit has not begun.

        Raises:
            ConfigError: the file exists but is not a manifest of this version.
        """
        try:
            values = json.loads(read_file(self._manifest))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"{self._manifest}: not a manifest ({error}); delete the folder to redo it"
            ) from None
        if not isinstance(values, dict) or values.get("schema") != SCHEMA:
            raise ConfigError(
                f"{self._manifest}: written by another version of cotbal; use that version, or delete the folder "
                "to redo it"
            )
        seal = values.pop("seal", None)
        if seal is not None and seal != seal_values(values):
            raise ConfigError(
                f"{self._manifest}: its content has changed since it was written; delete the folder to redo it"
            )
        return manifest_of(values, self._manifest)

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest, which carries a seal of itself: a report shows what it says."""
        values = asdict(manifest)
        sealed = {**values, "seal": seal_values(values)}
        write_text(self._manifest, json.dumps(sealed, indent=1, sort_keys=True) + "\n")

    def scores(self) -> list[SampleScore]:
        """All samples' scores, in the order of tasks and samples, held to what was written.

        Raises:
            ConfigError: the unit has not been scored; or the file is damaged.
        """
        manifest = self.manifest()
        return read_scores(self._scores, None if manifest is None else manifest.files.get(self._scores.name))

    def write_scores(self, scores: Iterable[SampleScore]) -> dict[str, str]:
        """Replace the scores; the samples' file exists only when it is whole. Returns its seal, for the manifest."""
        write_text(self._scores, "".join(json_line(asdict(score)) for score in scores))
        return seal_files(self.path, [self._scores.name])

    def accuracies(self) -> list[SampleScore]:
        """All samples' token accuracies, like `scores`."""
        manifest = self.manifest()
        seal = None if manifest is None else manifest.files.get(self._accuracies.name)
        return read_scores(self._accuracies, seal)

    def write_accuracies(self, accuracies: Iterable[SampleScore]) -> dict[str, str]:
        """Like `write_scores`."""
        write_text(self._accuracies, "".join(json_line(asdict(score)) for score in accuracies))
        return seal_files(self.path, [self._accuracies.name])

    def kept_scores(self, manifest: Manifest) -> tuple[list[SampleScore], list[SampleScore]]:
        """Scores and token accuracies of an earlier scoring that still hold: those that the manifest has sealed."""
        return (
            self.scores() if self._scores.name in manifest.files else [],
            self.accuracies() if self._accuracies.name in manifest.files else [],
        )

    def log(self) -> list[dict[str, Any]]:
        """What the trainer has logged so far, in order.

        Of a training that goes on, or was killed, the last line may be half written; it is left out.

        Raises:
            ConfigError: the file is damaged.
        """
        if not self._log.is_file():
            return []
        manifest = self.manifest()
        seal = None if manifest is None else manifest.files.get(self._log.name)
        return [values for _, values in read_json_lines(self._log, seal, torn=seal is None)]

    def append_log(self, line: str) -> None:
        """Add one entry, as `json_line` writes it, in one write."""
        with naming(self._log), self._log.open("ab", buffering=0) as stream:
            stream.write(line.encode())

    def write_log(self, entries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        """Replace the log; returns its seal, for the manifest."""
        write_text(self._log, "".join(json_line(entry) for entry in entries))
        return seal_files(self.path, [self._log.name])

    def seal_model(self) -> dict[str, str]:
        """The seals of the saved model's files, for the manifest; they are on the disk by then."""
        return {f"{self.model.name}/{name}": seal for name, seal in seal_folder(self.model).items()}

    def seal_skipped(self) -> dict[str, str]:
        """The seal of what the training skipped, for the manifest; nothing where it skipped nothing."""
        if not self.skipped.is_file():
            return {}
        sync(self.skipped)
        return seal_files(self.path, [self.skipped.name])

    def model_damage(self, manifest: Manifest, *, deep: bool) -> list[str]:
        """What of the saved model is not as it was written, in sentences.

        Args:
            deep: compare the files' digests too, which reads all of them; not only names and sizes.
        """
        start = f"{self.model.name}/"
        seals = {
            name.removeprefix(start): seal for name, seal in manifest.files.items() if name.startswith(start)
        }
        if not seals:
            return []
        return damage(self.model, seals, deep=deep, extra=lambda name: not name.endswith(".md"))

    def discard_scores(self) -> None:
        """Delete scores and predictions; the trained model stays."""
        self._scores.unlink(missing_ok=True)
        self._accuracies.unlink(missing_ok=True)
        shutil.rmtree(self.predictions, ignore_errors=True)

    def discard(self) -> None:
        """Forget the unit altogether.

        Raises:
            ConfigError: the folder is there, but is not one that cotbal made.
        """
        if not self.path.is_dir():
            return
        others = [path.name for path in self.path.iterdir() if not is_litter(path.name)]
        if others and not self._manifest.is_file():
            raise ConfigError(
                f"{self.path}: not a unit's folder (it holds {others[0]} and no manifest.json), so cotbal does not "
                "touch it; move it away, or give another `output`"
            )
        bury(self.path)


class OutputFolder:
    """The output folder of a config."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.units = path / "units"
        self.scores_csv = path / "scores.csv"
        self.accuracies_csv = path / "token_accuracies.csv"
        self.weights_json = path / "weights.json"
        self.weights_in_use = path / "weights_in_use.json"
        self.running = path / "running"
        self.bad_records = path / "bad_records.jsonl"
        self._seals = path / "seals.json"
        self.report = path / "report"
        self.check = path / "check"
        self.plan = path / "plan.json"

    def unit(self, name: str) -> UnitFolder:
        """Return the folder of the unit with that name, whether or not it exists."""
        return UnitFolder(self.units / name)

    def progress_of(self, unit: str) -> Path:
        """The file in which a unit's command tells how far it is, while it runs."""
        return self.running / unit / "progress.json"

    def standing_of(self, unit: str) -> Path:
        """The file in which a training tells which step it is at."""
        return self.running / unit / "steps.json"

    def output_of(self, unit: str) -> Path:
        """The file that has what a unit's command said."""
        return self.path / "logs" / f"{unit}.log"

    def manifests(self) -> Iterator[tuple[UnitFolder, Manifest]]:
        """The units that were begun, sorted by name."""
        for _, folder in self._unit_folders():
            manifest = folder.manifest()
            if manifest is not None:
                yield folder, manifest

    def seal_product(self, path: Path) -> None:
        """See `cotbal.output.products.seal_product`."""
        seal_product(self._seals, path)

    def check_product(self, path: Path) -> None:
        """See `cotbal.output.products.check_product`."""
        check_product(self._seals, path, "weigh" if path == self.weights_json else "prepare")

    def problems(self) -> tuple[Problem, ...]:
        """Return the broken records that were left out of the files read so far.

        Raises:
            ConfigError: the file is not as it was written.
        """
        found = _problems(self.bad_records)
        if self.bad_records.is_file() and not (
            found and _lines(found).encode() == read_file(self.bad_records)
        ):
            raise ConfigError(
                f"{self.bad_records}: its content has changed since it was written; delete it, and `cotbal run` "
                "writes it anew"
            )
        return found

    def _skipped_late(self) -> Iterator[Problem]:
        """What trainings skipped although the check had passed it: a picture that was lost meanwhile, for one."""
        for path in sorted(self.units.glob("*/skipped.jsonl")):
            try:
                yield from _problems(path)
            except DamagedFileError:
                # Workers append to it as they go, so that a kill can leave half a line; the whole ones count.
                continue

    def write_problems(self, problems: Iterable[Problem], read: Container[Path] | None = None) -> None:
        """Replace what is known of the files that were read (None: of all); of others it stays."""
        kept = [] if read is None else [problem for problem in self.problems() if problem.file not in read]
        listed: dict[tuple[Path, int], Problem] = {}
        for problem in (*kept, *problems, *self._skipped_late()):
            listed.setdefault((problem.file, problem.index), problem)
        if listed:
            write_text(self.bad_records, _lines(listed.values()))
        else:
            # An empty file could be one that was emptied.
            self.bad_records.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process from working in this folder, and clear away what a killed one was writing.

        Raises:
            ConfigError: another process holds the lock; which one.
        """
        with locked(self.path):
            self._remove_litter()
            yield

    @contextmanager
    def unit_locked(self, unit: str, say: Callable[[str], object], job: str = "") -> Iterator[bool]:
        """Keep a second process from making the same unit, which waits here until the first has ended.

        Yields whether another process was waited for.

        Args:
            unit: its name.
            say: told who holds the unit, if anyone does.
            job: see `cotbal.output.holder.Holder`.
        """
        with locked(
            self.running / unit, waiting=lambda held: say(_waiting(unit, held.holder)), job=job
        ) as waited:
            yield waited

    def maker_of(self, unit: str) -> Holder | None:
        """The other process that is making a unit now, if there is one."""
        return held_by_other(self.running / unit)

    def _remove_litter(self) -> None:
        # A unit that is being made by another process, such as one whose driver has died, may be writing these files.
        units = [path for path, _ in self._unit_folders() if self.maker_of(path.name) is None]
        checkpoints = [path for unit in units for path in (unit / "checkpoints").glob("checkpoint-*")]
        remove_litter([self.path, self.report, *units, *checkpoints])
        remove_graves(self.units)

    def _unit_folders(self) -> list[tuple[Path, UnitFolder]]:
        """The folders of units, sorted by name; those without a manifest are not cotbal's."""
        found = sorted(self.units.iterdir()) if self.units.is_dir() else []
        return [
            (path, UnitFolder(path))
            for path in found
            if not path.name.startswith(".") and (path / "manifest.json").is_file()
        ]
