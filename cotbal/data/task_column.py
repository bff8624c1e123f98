"""Tasks from a column of a data set: any collator's batches with `loss_task_index` and the loss plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import cotbal_kernels as ck

INDEX_COLUMN = "loss_task_index"


@dataclass
class TaskColumnCollator:
    """A collator of examples (dictionaries of columns), around one that knows nothing of tasks.

    The task of an example is its `task_column`, a name of `tasks`; or else its `loss_task_index`, a position in
    `tasks`, which may also be one number per token. Both are taken off before the inner collator sees the example.
    The batch gets

    - `loss_task_index` int64 [B], or [B, L] where the inner collator puts several samples into one row or where
      an example gives one number per token;
    - `loss_plan`: the plan of its `labels` (`cotbal_kernels.planning`, shift=True).

    A batch to which the inner collator itself gave one of the two is left as it is.

    Args:
        collator: makes a batch with `labels` of a list of examples; one row per example, unless its attribute
            `padding_free` is true: then a single row of all of them.
        tasks: names of the tasks, in the order of the task weights.
        task_column: the column with the task's name.
    """

    collator: Callable[[list[dict[str, Any]]], Mapping[str, Any]]
    tasks: Sequence[str]
    task_column: str = "task"

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """One batch.

        Raises:
            ValueError: an example without a task, a task that is not in `tasks`, or task numbers that do not fit
                the labels.
        """
        bare = [
            {name: value for name, value in example.items() if name not in (self.task_column, INDEX_COLUMN)}
            for example in examples
        ]
        # Some collators change their examples: the lengths of the tokens must be read first.
        lengths = [len(example["input_ids"]) if "input_ids" in example else None for example in examples]
        batch = dict(self.collator(bare).items())
        if INDEX_COLUMN in batch or "loss_plan" in batch:
            return batch
        indices = [task_of(example, self.tasks, self.task_column) for example in examples]
        labels = batch["labels"]
        if getattr(self.collator, "padding_free", False):
            task_index = _one_row(indices, lengths, labels)
        elif any(isinstance(index, list) for index in indices):
            task_index = _of_tokens(indices, labels)
            _check_right_padded(indices, batch.get("attention_mask"))
        else:
            task_index = torch.tensor(indices, dtype=torch.int64)
        batch[INDEX_COLUMN] = task_index
        batch["loss_plan"] = ck.plan(labels, task_index, num_tasks=len(self.tasks), shift=True)
        return batch


def task_of(example: Mapping[str, Any], tasks: Sequence[str], task_column: str) -> int | list[int]:
    """Return the example's position in `tasks`, or one position per token.

    Raises:
        ValueError: the example has no task, or one that is not in `tasks`.

    >>> task_of({"task": "vqa"}, ["caption", "vqa"], "task")
    1
    """
    name = example.get(task_column)
    if name is not None:
        if name not in tasks:
            raise ValueError(_unknown(task_column, [name], tasks))
        return tasks.index(name)
    index = example.get(INDEX_COLUMN)
    if index is None:
        raise ValueError(_missing(task_column, example, "an example"))
    if isinstance(index, Tensor):
        index = index.tolist()
    return list(index) if isinstance(index, list | tuple) else int(index)


def check_task_column(dataset: Any, tasks: Sequence[str], task_column: str, name: str) -> None:
    """Refuse a data set of the `datasets` library whose columns do not give the task of every example.

    Streamed data sets and those with a transform are not checked, because that would take time.

    Raises:
        ValueError: the column is missing, or has values that are not in `tasks`.
    """
    columns = getattr(dataset, "column_names", None)
    if not isinstance(columns, list) or not hasattr(dataset, "unique"):
        return
    if (getattr(dataset, "format", None) or {}).get("type") == "custom":
        return
    if task_column in columns:
        unknown = [value for value in dataset.unique(task_column) if value not in set(tasks)]
        # An empty entry leaves the task to loss_task_index.
        unknown = [value for value in unknown if value is not None or INDEX_COLUMN not in columns]
        if unknown:
            raise ValueError(f"{name}: {_unknown(task_column, unknown, tasks)}")
    elif INDEX_COLUMN not in columns:
        raise ValueError(_missing(task_column, columns, name))


def _unknown(column: str, found: Sequence[Any], tasks: Sequence[str]) -> str:
    shown = ", ".join(map(repr, found[:5])) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
    hint = f"; positions in tasks go into {INDEX_COLUMN}" if any(isinstance(v, int) for v in found) else ""
    return f"column {column!r} has {shown}, but tasks names {list(tasks)}{hint}"


def _missing(column: str, columns: Iterable[str], name: str) -> str:
    return (
        f"{name} has neither a column {column!r} nor {INDEX_COLUMN} (its columns: {', '.join(map(str, columns))}), "
        f"so its task is unknown; add one, or name another column with task_column"
    )


def _one_row(indices: list[int | list[int]], lengths: list[int | None], labels: Tensor) -> Tensor:
    """Join the examples' task numbers into one row [1, L]; padding at its end counts for no task."""
    flat: list[int] = []
    for index, length in zip(indices, lengths, strict=True):
        flat += index if isinstance(index, list) else [index] * int(length or 0)
    return _of_tokens([flat], labels)


def _check_right_padded(indices: Sequence[int | list[int]], attention_mask: Tensor | None) -> None:
    if attention_mask is None or attention_mask.dim() != 2:
        return
    for row, index in enumerate(indices):
        if isinstance(index, list) and len(index) < attention_mask.shape[1] and not attention_mask[row, 0]:
            raise ValueError(
                f"row {row} is padded on the left, so {INDEX_COLUMN} cannot say which token is whose; pad on the "
                "right, or give one number per example"
            )


def _of_tokens(indices: Sequence[int | list[int]], labels: Tensor) -> Tensor:
    """Return task numbers [B, L], right-padded with 0."""
    task_index = torch.zeros_like(labels, dtype=torch.int64)
    for row, index in enumerate(indices):
        if isinstance(index, int):
            task_index[row] = index
        elif len(index) > labels.shape[1]:
            raise ValueError(
                f"{INDEX_COLUMN} has {len(index)} numbers for the {labels.shape[1]} tokens of row {row}; one per "
                "token is needed, or one per example"
            )
        else:
            task_index[row, : len(index)] = torch.as_tensor(index, dtype=torch.int64)
    return task_index
