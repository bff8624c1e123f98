"""Throughput is measured on what it says: the same batches and models for ours and for the stock trainer."""

from __future__ import annotations

import sys
import tempfile

import pytest
import torch

from benchmarks import workloads
from benchmarks.memory_limit import largest_batch
from benchmarks.tuning import OURS, STOCK, Stopwatch, patches_undone, run_workload, trainer_of
from benchmarks.workloads import Demo, Synthetic, unweighted

CPU = torch.device("cpu")
TINY = Synthetic("tiny", hidden=16, layers=1, vocab=120, batch=2, length=64, heads=2)


def test_every_kind_is_timed_and_compared() -> None:
    entry = run_workload(TINY, CPU, rounds=1, steps=6)
    assert set(entry["contenders"]) == {OURS, "ours, no logs", STOCK, "stock, no logs"}
    assert entry["tokens"] == 2 * 64
    assert entry["supervised"] == pytest.approx(6 / 64)
    for timing in entry["contenders"].values():
        assert timing["runs"] == 3  # six steps, of which three warm up
        assert timing["tokens_per_second"] == pytest.approx(128 / timing["median"])
    assert entry["contenders"][STOCK]["ratio_to_stock"] == 1
    assert "GPU" in entry["absent"]["Liger"]


def test_what_a_rival_patches_is_put_back() -> None:
    from transformers.models.llama import modeling_llama

    stock = modeling_llama.LlamaRMSNorm
    with patches_undone():
        modeling_llama.LlamaRMSNorm = torch.nn.Identity
    assert modeling_llama.LlamaRMSNorm is stock


@pytest.mark.parametrize("workload", [TINY, Demo(batch=6)], ids=["synthetic", "demo"])
def test_both_trainers_minimise_the_same_loss_where_weights_are_equal(workload: Synthetic | Demo) -> None:
    samples = workload.samples(workload.batch)
    picked = [samples[number] for number in range(workload.batch)]
    batch = workload.collate(picked)
    assert not any(name.startswith("loss_") for name in unweighted(workload.collate)(picked))
    assert sorted(set(batch["loss_task_index"].tolist())) == list(
        range(min(len(workload.tasks), workload.batch))
    )
    losses = {}
    for kind in (OURS, STOCK):
        with tempfile.TemporaryDirectory() as folder:
            trainer = trainer_of(kind, workload, CPU, 1, folder, Stopwatch(CPU))
            if kind == OURS:
                trainer.strategy.weights = torch.ones(len(workload.tasks), dtype=torch.float64)
            trainer.train()
            losses[kind] = trainer.state.log_history[0]["loss"]
    assert losses[OURS] == pytest.approx(losses[STOCK], rel=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit of address space is Linux's")
def test_ours_trains_larger_batches_where_memory_is_limited() -> None:
    """Real allocations are refused: 256 MiB hold the model, its optimizer, and stock logits of a sample."""
    found = {kind: largest_batch(workloads.CPU[0].name, kind, 2**28) for kind in (OURS, STOCK)}
    assert found[OURS] >= 2 * found[STOCK]
