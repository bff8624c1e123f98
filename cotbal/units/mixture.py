"""The records of a config's tasks, read once, and the training set of each unit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import Dataset

from cotbal.config.schema import Config, TaskConfig
from cotbal.config.yaml_file import ConfigError
from cotbal.data.dataset_info import data_file
from cotbal.data.formats import read_records, refusal
from cotbal.data.packed import PackedRecords
from cotbal.data.records import BadRecordsError, Problem, Record, RecordSet
from cotbal.data.splits import preparation_sets
from cotbal.units.fingerprint import data_digest
from cotbal.units.schedule import Unit

__all__ = ["Mixture", "RecordDataset"]

Split = Literal["train", "validation", "test"]


class RecordDataset(Dataset[Record]):
    """Records as a dataset, shared by forked workers; everything the processor does is left to the collator."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = PackedRecords(records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]


class Mixture:
    """Reads each file of a config when it is first needed, and keeps what it read.

    Attributes:
        problems: broken records that were skipped, in the order they were met.
        files_read: the files that have been read so far.
    """

    def __init__(self, config: Config) -> None:
        missing = config.missing_paths()
        if missing:
            lines = [
                f"{key}: there is no {'folder' if '.images' in key else 'file'} {path}"
                for key, path in missing
            ]
            raise ConfigError("the config names files that do not exist\n  " + "\n  ".join(lines))
        self.config = config
        self.problems: list[Problem] = []
        self.files_read: set[Path] = set()
        self._tasks = {task.name: task for task in config.tasks}
        self._read: dict[tuple[str, Split], RecordSet] = {}
        self._left_out: set[tuple[Path, int]] = set()
        self._records: dict[tuple[str, Split], list[Record]] = {}
        self._preparation: dict[str, list[Record]] | None = None

    def task(self, name: str) -> TaskConfig:
        """The config of a task."""
        return self._tasks[name]

    def read(self, task: str, split: Split) -> RecordSet:
        """What the files of one split of a task hold: records, and the problems of those that cannot be read."""
        key = (task, split)
        if key not in self._read:
            settings = self._tasks[task]
            paths = getattr(settings, split)
            found = read_records(paths, task=task, image_root=settings.images, on_bad="skip")
            self._read[key] = found
            self.problems += found.problems
            self.files_read.update(map(data_file, paths))
        return self._read[key]

    def leave_out(self, problems: Iterable[Problem]) -> None:
        """Leave these records out from now on: a check has found that they cannot be used."""
        known = {(problem.file, problem.index) for problem in self.problems}
        for problem in problems:
            place = (problem.file, problem.index)
            if place not in known:
                self.problems.append(problem)
            self._left_out.add(place)
        self._records.clear()
        self._preparation = None

    def records(self, task: str, split: Split) -> list[Record]:
        """The usable records of one split of a task.

        Raises:
            ConfigError: the split holds no usable record.
            ValueError: a broken record where `bad_records` is ``refuse``.
        """
        key = (task, split)
        if key not in self._records:
            found = self.read(task, split)
            if found.problems and self.config.bad_records == "refuse":
                raise BadRecordsError(found.problems, refusal(len(found)))
            kept = [record for record in found if (record.source, record.index) not in self._left_out]
            if not kept:
                names = ", ".join(str(path) for path in getattr(self._tasks[task], split))
                raise ConfigError(f"task '{task}': no usable record in its {split} data ({names})")
            self._records[key] = kept
        return self._records[key]

    def training_set(self, unit: Unit) -> list[Record]:
        """What a unit is trained on: a preparation set, or all training data of its tasks."""
        if unit.stage == "tune":
            return [record for task in unit.train_tasks for record in self.records(task, "train")]
        if self._preparation is None:
            by_task = {task: self.records(task, "train") for task in unit.train_tasks}
            settings = self.config.preparation
            self._preparation = preparation_sets(
                by_task,
                mini_fraction=settings.mini_fraction,
                plus_fraction=settings.plus_fraction,
                seed=self.config.seed,
            )
        return self._preparation[unit.model]

    def training_files(self, unit: Unit) -> dict[str, Any]:
        """Digests of the files a unit is trained on, by task."""
        return {task: self._digests(task, "train") for task in unit.train_tasks}

    def scoring_files(self, unit: Unit, task: str) -> list[str]:
        """Digests of the files a unit is scored on for one task."""
        return self._digests(task, unit.split)

    def _digests(self, task: str, split: Split) -> list[str]:
        return [data_digest(path) for path in getattr(self._tasks[task], split)]
