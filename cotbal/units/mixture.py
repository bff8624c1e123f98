"""The records of a config's tasks, read once, and the training set of each unit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import Dataset

from cotbal.config.schema import Config
from cotbal.config.tasks import TaskConfig
from cotbal.config.yaml_file import ConfigError
from cotbal.data.dataset_info import data_file
from cotbal.data.formats import iter_records, read_records, refusal
from cotbal.data.notation import BoxNotation, notation_of
from cotbal.data.packed import PackedRecords
from cotbal.data.records import BadRecordsError, Problem, Record, RecordSet
from cotbal.data.splits import preparation_sets
from cotbal.output.fingerprint import data_digest
from cotbal.units.schedule import Unit

__all__ = ["Mixture", "RecordDataset", "packed"]

Split = Literal["train", "validation", "test"]


class RecordDataset(Dataset[Record | None]):
    """Records as a dataset, shared by forked workers; everything the processor does is left to the collator.

    Past its end it has blanks (None), which fill up the last step of an epoch.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records if isinstance(records, PackedRecords) else PackedRecords(records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record | None:
        return self.records[index] if index < len(self.records) else None


def packed(found: RecordSet) -> PackedRecords:
    """A set's records, packed as `Mixture` reads them."""
    held = found.records
    return held if isinstance(held, PackedRecords) else PackedRecords(held)


class Mixture:
    """Reads each file of a config when it is first needed, and keeps the records.

    Attributes:
        problems: broken records that were skipped, in the order of reading.
        files_read: the files read so far.
    """

    def __init__(self, config: Config) -> None:
        missing = config.missing_paths()
        if missing:
            lines = [
                f"{key}: no such {'folder' if '.images' in key else 'file'}: {path}" for key, path in missing
            ]
            raise ConfigError("the config names files that do not exist\n  " + "\n  ".join(lines))
        self.config = config
        self.problems: list[Problem] = []
        self.files_read: set[Path] = set()
        self._tasks = {task.name: task for task in config.tasks}
        self._read: dict[tuple[str, Split], RecordSet] = {}
        self._left_out: set[tuple[Path, int]] = set()
        self._records: dict[tuple[str, Split], PackedRecords] = {}
        self._boxes: BoxNotation | None = None
        self._preparations: dict[int, dict[str, Sequence[Record]]] = {}

    def task(self, name: str) -> TaskConfig:
        """Return the config of a task."""
        return self._tasks[name]

    def read(self, task: str, split: Split) -> RecordSet:
        """What the files of one split of a task hold: records, and the problems of those that cannot be read."""
        key = (task, split)
        if key not in self._read:
            settings = self._tasks[task]
            paths = getattr(settings, split)
            found = read_records(
                paths,
                task=task,
                image_root=settings.images,
                on_bad="skip",
                notation=self._notation,
                packed=True,
            )
            self._read[key] = found
            self.problems += found.problems
            self.files_read.update(map(data_file, paths))
        return self._read[key]

    def _notation(self) -> BoxNotation:
        """How the model's family writes boxes; asked for where the data have some to fill in."""
        if self._boxes is None:
            from cotbal.models.loading import load_processor

            self._boxes = notation_of(load_processor(self.config.model))
        return self._boxes

    def leave_out(self, problems: Iterable[Problem]) -> None:
        """Leave these records out from now on: a check has found that they cannot be used."""
        known = {(problem.file, problem.index) for problem in self.problems}
        for problem in problems:
            place = (problem.file, problem.index)
            if place not in known:
                self.problems.append(problem)
            self._left_out.add(place)
        self._records.clear()
        self._preparations.clear()

    def records(self, task: str, split: Split) -> PackedRecords:
        """Return the usable records of one split of a task.

        Raises:
            ConfigError: the split has no usable record.
            ValueError: a record is broken and `bad_records` is `refuse`.
        """
        key = (task, split)
        if key not in self._records:
            found = self.read(task, split)
            if found.problems and self.config.bad_records == "refuse":
                raise BadRecordsError(found.problems, refusal(len(found)))
            kept = packed(found)
            if self._left_out:
                kept = kept.select(
                    [number for number, place in enumerate(kept.where()) if place not in self._left_out]
                )
            if not len(kept):
                names = ", ".join(str(path) for path in getattr(self._tasks[task], split))
                raise ConfigError(f"task '{task}': no usable record in its {split} data ({names})")
            self._records[key] = kept
        return self._records[key]

    def first_records(self, task: str, count: int) -> list[Record]:
        """The first usable training records of a task, without reading on behind them.

        Raises:
            ConfigError: there is no usable record.
            ValueError: a record before them is broken and `bad_records` is `refuse`.
        """
        settings = self._tasks[task]
        found: list[Record] = []
        problems: list[Problem] = []
        for path in settings.train:
            for item in iter_records(path, task=task, image_root=settings.images, notation=self._notation):
                if isinstance(item, Problem):
                    problems.append(item)
                else:
                    found.append(item)
                if len(found) == count:
                    break
            if len(found) == count:
                break
        if problems and self.config.bad_records == "refuse":
            raise BadRecordsError(problems, refusal(len(found)))
        if not found:
            raise ConfigError(f"task '{task}': no usable record in its train data")
        return found

    def training_set(self, unit: Unit) -> Sequence[Record]:
        """Return a unit's training data: a preparation set, or all training data of its tasks."""
        if unit.stage == "tune":
            return PackedRecords.joined([self.records(task, "train") for task in unit.train_tasks])
        subsets = self.subset_seed(unit)
        if subsets not in self._preparations:
            by_task = {task: self.records(task, "train") for task in unit.train_tasks}
            settings = self.config.preparation
            self._preparations[subsets] = preparation_sets(
                by_task,
                mini_fraction=settings.mini_fraction,
                plus_fraction=settings.plus_fraction,
                seed=subsets,
            )
        return self._preparations[subsets][unit.model]

    def validation_set(self, unit: Unit) -> list[Record]:
        """Return the validation data of a unit's tasks, for a strategy that looks at it while training."""
        tasks = [task for task in unit.train_tasks if self._tasks[task].validation]
        return [record for task in tasks for record in self.records(task, "validation")]

    def validation_files(self, unit: Unit) -> dict[str, Any]:
        """Return digests of the files of `validation_set`, by task."""
        tasks = [task for task in unit.train_tasks if self._tasks[task].validation]
        return {task: self._digests(task, "validation") for task in tasks}

    def subset_seed(self, unit: Unit) -> int:
        """What fixes the subsets of the preparation that a unit belongs to."""
        if unit.preparation is None or "subsets" not in self.config.preparation.vary:
            return self.config.seed
        return unit.preparation

    def training_files(self, unit: Unit) -> dict[str, Any]:
        """Return digests of the files that a unit is trained on, by task."""
        return {task: self._digests(task, "train") for task in unit.train_tasks}

    def scoring_files(self, unit: Unit, task: str) -> list[str]:
        """Return digests of the files that a unit is scored on for one task."""
        return self._digests(task, unit.split)

    def _digests(self, task: str, split: Split) -> list[str]:
        return [data_digest(path) for path in getattr(self._tasks[task], split)]
