"""Prove on your own model, batch and launcher that the task weights act, and that they act by the formula."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cotbal.tune.counts import StepCounts, batch_plan, plan_counts, reduce_over_ranks, step_counts
from cotbal.tune.gradients import (
    adapter_gradient_norms,
    adapter_parameters,
    forget_zero3_gradients,
    local_gradient,
    norm_deviation,
)
from cotbal.tune.state import BalanceState
from cotbal.tune.step import begin_step
from cotbal.tune.transform import LogitTransform

_SEED = 20240304


@dataclass(frozen=True)
class Verification:
    """The result of `verify`.

    Attributes:
        task: index of the task whose weight was doubled.
        normalizers: the step's normalizer, as each rank sees it.
        expected_normalizer: the same, added up from each rank's own counts.
        task_share: size of the doubled task's part of the gradient, relative to the whole.
        gradient_deviation: distance of the gradient from the one that the formula gives, relative to its size.
        loss: this rank's mean loss with all weights 1, from the fused head.
        stock_loss: the same from the stock model; None if not requested.
        transform: what the model does to its logits.
        tolerance: largest relative deviation that passes.
        adapter_deviation: the largest relative change of an adapted layer's gradient norm (of the stock loss) from
            before the other passes, those without gradients among them, to after; None without adapters.
    """

    task: int
    normalizers: tuple[float, ...]
    expected_normalizer: float
    task_share: float
    gradient_deviation: float
    loss: float
    stock_loss: float | None
    transform: LogitTransform | None
    tolerance: float
    adapter_deviation: float | None = None

    @property
    def loss_deviation(self) -> float:
        """The relative difference of loss and stock_loss; 0 if the stock loss was not computed."""
        if self.stock_loss is None:
            return 0.0
        return abs(self.loss - self.stock_loss) / max(abs(self.stock_loss), 1e-12)

    @property
    def normalizer_deviation(self) -> float:
        """The largest relative distance of a rank's normalizer from the expected one."""
        return max(abs(d - self.expected_normalizer) for d in self.normalizers) / self.expected_normalizer

    @property
    def passed(self) -> bool:
        """Whether the weights act as they should."""
        # Stock losses are computed in float32 at best.
        same_loss = self.loss_deviation <= max(self.tolerance, 1e-6)
        moved = self.gradient_deviation <= self.tolerance and self.task_share > 0
        adapters_kept = self.adapter_deviation is None or self.adapter_deviation <= self.tolerance
        return same_loss and moved and adapters_kept and self.normalizer_deviation <= 1e-6

    def __str__(self) -> str:
        stock = "not computed" if self.stock_loss is None else f"{self.stock_loss:.6g}"
        adapters = (
            []
            if self.adapter_deviation is None
            else [
                "  gradients of the adapters, before and after passes without gradients: differ by "
                f"{self.adapter_deviation:.1e}"
            ]
        )
        ranks = ", ".join(f"rank {rank}: {value:.6g}" for rank, value in enumerate(self.normalizers))
        return "\n".join(
            [
                f"task weights {'act by the formula' if self.passed else 'DO NOT ACT as they should'}",
                f"  loss with all weights 1: {self.loss:.6g}; stock loss: {stock} "
                f"(relative deviation {self.loss_deviation:.1e})",
                f"  normalizer of this step: {ranks}; from the counts of all ranks: {self.expected_normalizer:.6g}",
                f"  doubling the weight of task {self.task} ({self.task_share:.0%} of the gradient): gradient off "
                f"the formula by {self.gradient_deviation:.1e}",
                *adapters,
                f"  largest deviation accepted: {self.tolerance:.0e}; logits: {self.transform}",
            ]
        )


def verify(
    handle: BalanceState,
    batch: Mapping[str, Any],
    *,
    model: nn.Module | None = None,
    backward: Callable[[Tensor], object] | None = None,
    task: int | None = None,
    compare_stock: bool = True,
    tolerance: float | None = None,
    group: dist.ProcessGroup | None = None,
) -> Verification:
    """Double one task's weight on one batch per rank, and check that the gradient changes by the formula.

    Let g be the gradient at the handle's weights, D its normalizer, and G_k the gradient of task k's summed losses.
    Doubling w_k must give g' with `D' g' - D g - w_k G_k = 0`, where `D' = D + w_k n_k`. Three backward passes add
    this up in the parameters' own gradients. Afterwards the model's parameters, gradients, training mode, weights and
    statistics are as before; only DeepSpeed's ZeRO-3 forgets what it has accumulated, so verify between its steps.
    Every rank must call, with its own batch. Dropout draws the same masks each time.

    Args:
        handle: the balanced model's handle.
        batch: one training batch of this rank, on its device.
        model: what the training loop calls: the DDP, FSDP or accelerate-prepared wrapper, or DeepSpeed's engine
            (default: the bare model).
        backward: how the loop runs backward, such as `accelerator.backward` or DeepSpeed's `engine.backward`.
        task: index of the task to double (default: the one with most tokens among those with a weight).
        compare_stock: also compute the stock loss, which needs the batch's full logits in memory; with adapters its
            gradients too, before and after everything else.
        tolerance: largest relative deviation (default: 1e-8 in float64, 1e-4 in float32, 0.05 in lower precision or
            under autocast).
        group: the ranks of the step (default: all).

    Raises:
        ValueError: no task of the batch has both tokens and a weight above 0, or the parameters have no gradient
            (DeepSpeed's ZeRO stages below 3 keep gradients to themselves).
    """
    run = handle.model if model is None else model
    step_backward = Tensor.backward if backward is None else backward
    counts = step_counts([batch], handle.num_tasks, device=handle.device, group=group)
    with _restored(handle):
        watched = compare_stock and bool(adapter_parameters(handle.model))
        norms = _adapter_norms(handle, run, batch, step_backward, group) if watched else {}
        weights = handle.weights.clone()
        chosen = _chosen_task(counts, weights, task)
        normalizers, expected = _normalizers(handle, batch, group)
        doubled = weights.clone()
        doubled[chosen] *= 2
        single = torch.zeros_like(weights)
        single[chosen] = 1.0

        def add_gradient(task_weights: Tensor, normalizer: float, factor: float) -> float:
            """Add `factor` times the gradient of the weighted sum; returns the size of what has been added up."""
            handle.weights = task_weights
            handle.normalizer = torch.tensor(normalizer, dtype=weights.dtype)
            torch.manual_seed(_SEED)
            outputs = run(**batch)
            if getattr(outputs, "aux_loss", None) is not None:
                raise ValueError(
                    f"{type(handle.model).__name__} adds a router's loss to every micro-batch, which is not part of "
                    "the formula; verify with output_router_logits=False"
                )
            step_backward(outputs.loss * (factor * normalizer))
            return _gradient_size(handle.model, group)

        parts = float(weights[chosen])
        part = add_gradient(single, 1.0, -parts)
        whole = add_gradient(doubled, float(counts.normalizer(doubled)), 1.0)
        left = add_gradient(weights, float(counts.normalizer(weights)), -1.0)
        if whole == 0.0:
            raise ValueError(
                "no gradient was found on the model's parameters after a backward pass: the engine keeps them to "
                "itself (DeepSpeed's ZeRO stages below 3 do). Verify under DDP, FSDP or ZeRO-3, or in one process"
            )
        loss, stock_loss = _plain_losses(handle, run, batch, compare_stock)
        if tolerance is None:
            tolerance = _tolerance(handle)
        changed = None
        if watched:
            changed = norm_deviation(norms, _adapter_norms(handle, run, batch, step_backward, group))
    return Verification(
        task=chosen,
        normalizers=normalizers,
        expected_normalizer=expected,
        task_share=part / whole,
        gradient_deviation=left / max(part, whole),
        loss=loss,
        stock_loss=stock_loss,
        transform=handle.transform,
        tolerance=tolerance,
        adapter_deviation=changed,
    )


def _chosen_task(counts: StepCounts, weights: Tensor, task: int | None) -> int:
    usable = (counts.token_weights.cpu() > 0) & (weights.cpu() > 0)
    if task is None:
        task = int(torch.where(usable, counts.tokens.cpu(), -1).argmax())
    if not 0 <= task < len(weights) or not usable[task]:
        raise ValueError(
            f"task {task} has {counts.tokens.tolist()[task] if 0 <= task < len(weights) else 'no'} supervised "
            f"tokens in the batch and weights are {weights.tolist()}; a task with tokens and a weight above 0 is "
            "needed"
        )
    return task


def _normalizers(
    handle: BalanceState, batch: Mapping[str, Any], group: dist.ProcessGroup | None
) -> tuple[tuple[float, ...], float]:
    """Return the normalizer that `begin_step` gives each rank, and the expected one from each rank's own counts."""
    begin_step(handle, [batch], averaged_over=1, group=group)
    ranks = dist.get_world_size(group) if dist.is_initialized() else 1
    rank = dist.get_rank(group) if ranks > 1 else 0
    own = plan_counts(batch_plan(batch, handle.num_tasks))
    table = torch.zeros(2, ranks, dtype=own.token_weights.dtype, device=handle.device)
    if handle.normalizer is not None:
        table[0, rank] = handle.normalizer
    table[1, rank] = own.normalizer(handle.weights, handle.normalize)
    reduce_over_ranks(table, group)
    return tuple(table[0].tolist()), float(table[1].sum())


def _plain_losses(
    handle: BalanceState, run: nn.Module, batch: Mapping[str, Any], compare_stock: bool
) -> tuple[float, float | None]:
    """Return this rank's mean loss over its tokens from the fused head and the stock model, with equal dropout."""
    handle.weights = torch.ones_like(handle.weights)
    plain = {name: value for name, value in batch.items() if name != "loss_token_weights"}
    if plain.get("loss_plan") is not None:
        plain["loss_plan"] = dataclasses.replace(plain["loss_plan"], token_weights=None)
    tokens = plan_counts(batch_plan(plain, handle.num_tasks)).tokens.sum()
    handle.normalizer = tokens
    with torch.no_grad():
        torch.manual_seed(_SEED)
        loss = float(run(**plain).loss)
        if not compare_stock:
            return loss, None
        torch.manual_seed(_SEED)
        with handle.stock():
            stock = float(run(**plain).loss)
    return loss, stock if int(tokens) else loss


def _adapter_norms(
    handle: BalanceState,
    run: nn.Module,
    batch: Mapping[str, Any],
    backward: Callable[[Tensor], object],
    group: dist.ProcessGroup | None,
) -> dict[str, float]:
    """Return the gradient norms of the adapted layers under the stock loss, with equal dropout; none stays."""
    _forget_gradients(handle.model)
    torch.manual_seed(_SEED)
    with handle.stock():
        backward(run(**batch).loss)
    norms = adapter_gradient_norms(handle.model, group)
    _forget_gradients(handle.model)
    return norms


def _forget_gradients(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = None
    forget_zero3_gradients(model)


def _gradient_size(model: nn.Module, group: dist.ProcessGroup | None) -> float:
    """Return the Euclidean norm of all gradients over all ranks; under DDP every rank's copy counts, every time."""
    total = torch.zeros((), dtype=torch.float64)
    for parameter in model.parameters():
        local = local_gradient(parameter)
        if local is not None:
            size = torch.linalg.vector_norm(local.detach().float() if local.dtype != torch.float64 else local)
            total = total.to(size.device) + size.double() ** 2
    total = total.to(next(model.parameters()).device)
    reduce_over_ranks(total, group)
    return float(total.sqrt())


def _tolerance(handle: BalanceState) -> float:
    if handle._head_dtype in (torch.float16, torch.bfloat16):
        return 0.05
    return 1e-8 if handle._head_dtype == torch.float64 else 1e-4


@contextmanager
def _restored(handle: BalanceState) -> Iterator[None]:
    """Restore gradients, modes, random state and the handle's own state afterwards."""
    model = handle.model
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    state = dict(handle.__dict__)
    devices = [handle.device] if handle.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            _forget_gradients(model)
            model.train()
            yield
    finally:
        forget_zero3_gradients(model)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, training in modes:
            module.training = training
        state["transform"] = handle.transform
        handle.__dict__.update(state)
