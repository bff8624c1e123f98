"""What `print` and `repr` show of the public values, to the letter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cotbal
import cotbal_kernels as ck
from cotbal.method.undefined import UndefinedContributionsWarning

TABLE = cotbal.ScoreTable.from_samples(
    {
        "mini": {"caption": [2.0, 4.0], "vqa": [0.0, 1.0, 0.0, 1.0]},
        "plus_caption": {"caption": [1.0, 3.0]},
        "plus_vqa": {"vqa": [1.0, 1.0, 1.0, 0.0], "caption": [3.0, 3.0]},
    },
    higher_is_better={"caption": False, "vqa": True},
)


def test_score_table():
    assert str(TABLE) == (
        "model         caption     vqa\n"
        "mini            3.000   0.500\n"
        "plus_caption    2.000       -\n"
        "plus_vqa        3.000   0.750\n"
        "samples             2       4\n"
        "better          lower  higher"
    )
    assert repr(TABLE) == "ScoreTable(3 models, tasks: caption, vqa)"


def test_measurement():
    table = cotbal.ScoreTable.from_means([0.5, 0.2], [[0.7, 0.3], [0.6, 0.2]], tasks=["caption", "vqa"])
    with pytest.warns(UndefinedContributionsWarning):
        found = cotbal.measure(table)
    assert str(found) == (
        "from     to caption  to vqa  outward  inward  difficulty\n"
        "caption           -       -        -   0.500       0.286\n"
        "vqa           0.500       -    0.500       -       0.000\n"
        "contributions to vqa are undefined: its own full training did not improve it"
    )
    assert repr(found) == "Measurement(caption, vqa, 1 undefined; 0 replicates)"


def test_task_weights():
    weights = cotbal.task_weights([0.2, 0.1], [0.1, 0.1], [0.5, 0.1], tasks=["caption", "vqa"])
    assert str(weights.with_explicit({"text": 2})) == (
        "task     weight  outward  inward  difficulty\n"
        "caption   1.215    1.100   1.000       1.380\n"
        "vqa       0.785    0.900   1.000       0.620\n"
        "text      2.000        -       -           -"
    )
    assert repr(weights) == "TaskWeights(caption=1.215, vqa=0.785)"


def test_task_weights_with_intervals():
    draw = np.random.default_rng(0)
    models = {
        model: {"a": draw.random(50) + gain, "b": draw.random(50) + 2 * gain}
        for model, gain in (("mini", 0), ("plus_a", 1), ("plus_b", 2))
    }
    weights = cotbal.weigh(cotbal.measure(cotbal.ScoreTable.from_samples(models), replicates=100))
    heading, first, _ = str(weights).splitlines()
    assert heading.split() == ["task", "weight", "interval", "outward", "inward", "difficulty"]
    low, high = weights.intervals[0]
    assert f"[{low:.3f}, {high:.3f}]" in first


def test_loss_output():
    hidden, weight = torch.zeros(2, 3, 4, requires_grad=True), torch.zeros(8, 4)
    labels = torch.tensor([[-100, 5, 7], [-100, -100, -100]])
    out = ck.linear_cross_entropy(hidden, weight, labels, torch.tensor([0, 1]), [1.0, 3.0])
    assert str(out) == (
        "loss 2.0794, 2 samples\n"
        "task      loss    tokens  accuracy\n"
        "   0    2.0794         2      0.0%\n"
        "   1         -         0         -"
    )
    assert repr(out) == "LossOutput(loss: torch.float32 (), 2 tasks, 2 samples)"
    each = ck.linear_cross_entropy(hidden, weight, labels, reduction="none")
    assert str(each).startswith("loss of shape (2, 3), 2 samples\n")
