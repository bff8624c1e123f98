"""Heads that are spread over 2 and 4 gloo ranks, against the oracle over the whole head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.kernels.loss_contract import Outcome, assert_contract
from support.kernels.loss_strategies import REDUCTIONS, made_case
from support.kernels.vocabulary_ranks import run_ranks

import cotbal_kernels as ck

DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def joined(made: list[Any]) -> Outcome:
    """What the ranks have, as one process would have it; what all of them have must be the same on each."""
    for found in made:
        assert not isinstance(found, str), found
    outputs, grads = zip(*made, strict=True)
    for other in outputs[1:]:
        for name, value in outputs[0].items():
            assert torch.equal(value, other[name]), f"{name} differs from rank to rank"
    for other in grads[1:]:
        assert torch.equal(grads[0]["hidden"], other["hidden"]), (
            "the hidden gradient differs from rank to rank"
        )
    output = ck.LossOutput(**outputs[0])
    output = output._replace(loss=output.loss.requires_grad_())
    bias = None if grads[0]["bias"] is None else torch.cat([each["bias"] for each in grads])
    return Outcome(output, grads[0]["hidden"], torch.cat([each["weight"] for each in grads]), bias)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("impl", ["torch", "native"])
def test_the_ranks_have_what_one_head_has(impl: str, ranks: int, tmp_path: Path) -> None:
    """Every reduction, dtype and mode: kept and recomputed, padded, with bias, softcap, scale and z-loss."""
    cases = []
    for dtype in DTYPES:
        if impl == "native" and dtype == torch.float64:
            continue
        for seed, reduction in enumerate(REDUCTIONS):
            for budget in (None, 0):
                shared: dict[str, Any] = {"reduction": reduction, "memory_budget": budget, "classes": 37}
                cases += [
                    made_case("linear", dtype, seed, shape=(3, 6), tasks=3, shift=True, **shared),
                    made_case(
                        "linear",
                        dtype,
                        seed + 9,
                        with_bias=True,
                        softcap=5.0,
                        logit_scale=0.5,
                        lse_square_scale=0.05,
                        planned=True,
                        capacity=10,
                        **shared,
                    ),
                    made_case("linear", dtype, seed, supervised=0.0, **shared),
                    # Ties, so that it shows which class comes first.
                    made_case("linear", dtype, seed, shape=(4, 6), quantised=True, **shared),
                ]
    made = run_ranks(tmp_path, ranks, cases, impl)
    for number, case in enumerate(cases):
        assert_contract(case, joined([found[number] for found in made]))


def test_a_perfectly_predicted_token_keeps_its_digits(tmp_path: Path) -> None:
    """nll of 1e-8: log1p of what the other ranks add to a probability of 1, not a difference of two logs."""
    case = made_case("linear", torch.float32, 1, shape=(4,), tasks=1, classes=8, supervised=1.0)
    head = torch.zeros(8, 4)
    head[0] = 20.0
    case = case.with_(scores=torch.eye(4), weight=head, labels=torch.zeros(4, dtype=torch.int64))
    made = run_ranks(tmp_path, 2, [case], "torch", ranges=[(0, 1), (1, 8)])
    found = joined([each[0] for each in made])
    wanted = torch.log1p(7 * torch.exp(torch.tensor(-20.0, dtype=torch.float64)))
    assert abs(found.output.loss.item() / wanted.item() - 1) < 1e-5
    assert found.output.task_correct.tolist() == [4]


@pytest.mark.parametrize("impl", ["torch", "native"])
def test_a_rank_whose_classes_are_all_masked(impl: str, tmp_path: Path) -> None:
    """As where a vocabulary is padded to a multiple of the ranks; and a masked target is infinitely unlikely."""
    cases = []
    for budget in (None, 0):
        case = made_case("linear", torch.float32, 3, classes=8, with_bias=True, memory_budget=budget)
        assert case.bias is not None
        bias = case.bias.index_fill(0, torch.arange(6, 8), -torch.inf)
        case = case.with_(bias=bias, labels=case.labels.clamp_max(5))
        cases += [case, case.with_(labels=torch.full((2, 5), 7))]
    made = run_ranks(tmp_path, 2, cases, impl, ranges=[(0, 6), (6, 8)])
    for number, case in enumerate(cases):
        if number % 2:
            for outputs, _ in (each[number] for each in made):
                assert outputs["loss"].item() == torch.inf
                assert outputs["task_correct"].tolist() == [0, 0]
        else:
            assert_contract(case, joined([each[number] for each in made]))


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([(0, 4), (5, 9)], "together they must cover 0 to V once"),
        ([(0, 4), (3, 7)], "together they must cover 0 to V once"),
        ([(1, 4), (4, 7)], "together they must cover 0 to V once"),
        ([(0, 2), (2, 4)], "labels hold 6, but the ranks of the group have the classes 0 to 3"),
    ],
)
def test_gaps_overlaps_and_labels_outside_are_refused(
    shares: list[tuple[int, int]], message: str, tmp_path: Path
) -> None:
    case = made_case("linear", torch.float32, 1, classes=10, supervised=1.0)
    case = case.with_(labels=case.labels.clamp_max(6).index_fill(1, torch.tensor([0]), 6))
    for found in run_ranks(tmp_path, 2, [case], "torch", ranges=shares):
        assert isinstance(found[0], str)
        assert message in found[0]


def test_what_a_sharded_head_cannot_do_is_refused_by_name() -> None:
    hidden, weight, labels = torch.zeros(2, 3), torch.zeros(4, 3), torch.tensor([0, 1])
    for options, message in (
        ({"vocab_range": (0, 4), "label_smoothing": 0.1}, "label_smoothing"),
        ({"vocab_range": (0, 4), "class_weights": torch.ones(4)}, "class_weights"),
        ({"vocab_range": (0, 4), "token_outputs": ("entropy",)}, "entropy"),
    ):
        with pytest.raises(NotImplementedError, match=f"vocab_range came with .*{message}"):
            ck.linear_cross_entropy(hidden, weight, labels, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"vocab_range is \(0, 3\), but weight has shape \(4, 3\)"):
        ck.linear_cross_entropy(hidden, weight, labels, vocab_range=(0, 3))
    with pytest.raises(RuntimeError, match="init_process_group"):
        ck.linear_cross_entropy(hidden, weight, labels, vocab_range=(0, 4))
