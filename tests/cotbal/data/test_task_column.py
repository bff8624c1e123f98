"""Tasks from a column: what the wrapped collator sees, and what its batch gets."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset

import cotbal_kernels as ck
from cotbal.data.task_column import TaskColumnCollator, check_task_column

TASKS = ("caption", "vqa", "ocr")


class Padding:
    """Pads `input_ids`, which are the labels too; or puts all examples into one row."""

    def __init__(self, padding_free=False, extra=0):
        self.padding_free, self.extra = padding_free, extra
        self.seen = []

    def __call__(self, examples):
        self.seen.append([dict(example) for example in examples])
        rows = [example.pop("input_ids") for example in examples]  # as TRL's, it takes its examples apart
        if self.padding_free:
            rows = [[token for row in rows for token in row]]
        longest = max(map(len, rows)) + self.extra
        return {"labels": torch.tensor([row + [-100] * (longest - len(row)) for row in rows])}


def test_names_become_numbers_and_stay_away_from_the_inner_collator():
    inner = Padding()
    examples = [{"input_ids": [5, 6, 7], "task": "ocr"}, {"input_ids": [8, 9], "task": "caption"}]
    batch = TaskColumnCollator(inner, TASKS)(examples)
    assert inner.seen == [[{"input_ids": [5, 6, 7]}, {"input_ids": [8, 9]}]]
    assert batch["loss_task_index"].tolist() == [2, 0]
    assert batch["loss_plan"].task_tokens.tolist() == [1, 0, 2]
    assert examples[0] == {"input_ids": [5, 6, 7], "task": "ocr"}


def test_another_column_and_positions():
    collator = TaskColumnCollator(Padding(), TASKS, "source")
    batch = collator([{"input_ids": [1, 2], "source": "vqa"}, {"input_ids": [3, 4], "loss_task_index": 2}])
    assert batch["loss_task_index"].tolist() == [1, 2]
    batch = collator([{"input_ids": [1, 2], "source": None, "loss_task_index": torch.tensor(0)}])
    assert batch["loss_task_index"].tolist() == [0]


def test_several_samples_in_a_row():
    collator = TaskColumnCollator(Padding(padding_free=True, extra=2), TASKS)
    examples = [
        {"input_ids": [1, 2, 3], "task": "vqa"},
        {"input_ids": [4, 5], "task": "ocr"},
        {"input_ids": [6, 7, 8], "loss_task_index": [0, 0, 2]},
    ]
    batch = collator(examples)
    assert batch["loss_task_index"].tolist() == [[1, 1, 1, 2, 2, 0, 0, 2, 0, 0]]
    assert batch["loss_plan"].task_tokens.tolist() == [2, 2, 3]


def test_one_number_per_token():
    examples = [{"input_ids": [1, 2, 3], "loss_task_index": [0, 1, 1]}, {"input_ids": [4, 5], "task": "ocr"}]
    batch = TaskColumnCollator(Padding(), TASKS)(examples)
    assert batch["loss_task_index"].tolist() == [[0, 1, 1], [2, 2, 2]]
    with pytest.raises(ValueError, match="has 4 numbers for the 3 tokens of row 0"):
        TaskColumnCollator(Padding(), TASKS)([{"input_ids": [1, 2, 3], "loss_task_index": [0, 1, 1, 0]}])


def test_a_collator_that_knows_its_tasks_is_left_alone():
    labels = torch.tensor([[1, 2]])
    plan = ck.plan(labels, torch.tensor([1]), num_tasks=3, shift=True)
    batch = TaskColumnCollator(lambda examples: {"labels": labels, "loss_plan": plan}, TASKS)([{"x": 1}])
    assert batch["loss_plan"] is plan
    assert "loss_task_index" not in batch


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"task": "osr"}, r"column 'task' has 'osr', but tasks names \['caption', 'vqa', 'ocr'\]$"),
        ({"task": 1}, "column 'task' has 1, .*; positions in tasks go into loss_task_index"),
        ({}, "an example has neither a column 'task' nor loss_task_index .its columns: input_ids"),
    ],
)
def test_examples_of_no_task(example, message):
    with pytest.raises(ValueError, match=message):
        TaskColumnCollator(Padding(), TASKS)([{"input_ids": [1, 2], **example}])


def test_data_sets_are_checked_before_training():
    good = Dataset.from_dict({"task": ["vqa", "ocr", "vqa"]})
    check_task_column(good, TASKS, "task", "train_dataset")
    check_task_column(Dataset.from_dict({"loss_task_index": [0, 1]}), TASKS, "task", "train_dataset")
    check_task_column(good.with_transform(lambda rows: rows), ("other",), "task", "train_dataset")
    check_task_column(good.to_iterable_dataset(), ("other",), "task", "train_dataset")
    check_task_column([1, 2], TASKS, "task", "train_dataset")
    with pytest.raises(
        ValueError, match=r"train_dataset: column 'task' has 'vqa', but tasks names \['ocr'\]"
    ):
        check_task_column(good, ("ocr",), "task", "train_dataset")
    with pytest.raises(ValueError, match="'t5' and 2 more"):
        check_task_column(Dataset.from_dict({"task": [f"t{n}" for n in range(1, 8)]}), TASKS, "task", "d")
    mixed = {"task": ["vqa", None], "loss_task_index": [0, 2]}
    check_task_column(Dataset.from_dict(mixed), TASKS, "task", "train_dataset")
    with pytest.raises(ValueError, match="column 'task' has None"):
        check_task_column(Dataset.from_dict({"task": ["vqa", None]}), TASKS, "task", "train_dataset")
    with pytest.raises(ValueError, match=r"eval_dataset\['a'\] has neither .*its columns: messages"):
        check_task_column(Dataset.from_dict({"messages": [1]}), TASKS, "task", "eval_dataset['a']")


def test_numbers_of_tokens_that_a_left_padded_row_would_shift_are_refused():
    def left_padded(examples):
        return {
            "labels": torch.tensor([[-100, 3, 4], [5, 6, 7]]),
            "attention_mask": torch.tensor([[0, 1, 1], [1, 1, 1]]),
        }

    collator = TaskColumnCollator(left_padded, TASKS)
    with pytest.raises(ValueError, match="row 0 is padded on the left"):
        collator([{"loss_task_index": [0, 1]}, {"loss_task_index": [0, 1, 2]}])
    assert collator([{"task": "vqa"}, {"task": "ocr"}])["loss_task_index"].tolist() == [1, 2]
