"""`square`: the loss of real batches is the mean that its definition says, over micro-batches too."""

import math
from pathlib import Path

import pytest
import torch
from support.models.tiny_models import tiny_llama

from cotbal.data import Record, TaskCollator, Turn
from cotbal.strategies import SquareAveraging
from cotbal.tune import balance
from cotbal.tune.step import begin_step

TASKS = ("a", "b")
ANSWERS = ("seven", "abc abc abc abc seven", "abc seven abc", "abc")


def _records() -> list[Record]:
    turns = [(Turn("user", "seven?"), Turn("assistant", answer)) for answer in ANSWERS]
    return [
        Record("x", TASKS[k % 2], (), pair, (pair[1].text,), Path("data.json"), k)
        for k, pair in enumerate(turns)
    ]


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_the_loss_is_the_defined_mean_over_the_whole_step(exponent: float) -> None:
    model, processor = tiny_llama()
    model = model.eval()
    collate = TaskCollator(processor, TASKS, length_exponent=exponent)
    records = _records()
    batches = [collate(records[:1]), collate(records[1:])]
    total, weight = 0.0, 0.0
    for batch in batches:
        with torch.no_grad():
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        nll = torch.nn.functional.cross_entropy(
            logits[:, :-1].double().flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="none"
        ).view(len(batch["labels"]), -1)
        for row, labels in zip(nll, batch["labels"][:, 1:], strict=True):
            length = int((labels != -100).sum())
            total += float(row.sum()) / length**exponent
            weight += length / length**exponent
    handle = balance(model.train(), [1.0, 1.0])
    begin_step(handle, batches, strategy=SquareAveraging(2, exponent))
    found = sum(model(**batch).loss.item() for batch in batches)
    assert math.isclose(found, total / weight, rel_tol=1e-5)
    handle.remove()


def test_batches_without_the_weights_are_refused() -> None:
    model, processor = tiny_llama()
    handle = balance(model, [1.0, 1.0])
    batch = TaskCollator(processor, TASKS)(_records())
    with pytest.raises(ValueError, match=r"'square' weights tokens by the length .* length_exponent=0.5"):
        begin_step(handle, [batch], strategy=SquareAveraging(2))
