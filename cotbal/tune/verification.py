"""Prove on a user's own model, batch and launcher that the task weights act, and act by the formula."""

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
from cotbal.tune.state import BalanceState
from cotbal.tune.step import begin_step
from cotbal.tune.transform import LogitTransform

_SEED = 20240304


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        task: index of the task whose weight was doubled.
        normalizers: what the losses of one step are divided by, as each rank sees it.
        expected_normalizer: the same, added up here from each rank's own counts.
        task_share: size of the doubled task's part of the gradient, relative to the whole.
        gradient_deviation: how far the gradient moved from where the formula puts it, relative to its size.
        loss: this rank's mean loss with all weights 1, from the fused head.
        stock_loss: the same from the stock model; None if it was not asked for.
        transform: what the model does to its logits.
        tolerance: largest relative deviation that passes.
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

    @property
    def loss_deviation(self) -> float:
        """|loss - stock_loss|, relative; 0 where the stock loss was not computed."""
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
        return same_loss and moved and self.normalizer_deviation <= 1e-6

    def __str__(self) -> str:
        stock = "not computed" if self.stock_loss is None else f"{self.stock_loss:.6g}"
        ranks = ", ".join(f"rank {rank}: {value:.6g}" for rank, value in enumerate(self.normalizers))
        return "\n".join(
            [
                f"task weights {'act by the formula' if self.passed else 'DO NOT ACT as they should'}",
                f"  loss with all weights 1: {self.loss:.6g}; stock loss: {stock} "
                f"(relative deviation {self.loss_deviation:.1e})",
                f"  normalizer of this step: {ranks}; from the counts of all ranks: {self.expected_normalizer:.6g}",
                f"  doubling the weight of task {self.task} ({self.task_share:.0%} of the gradient): gradient off "
                f"the formula by {self.gradient_deviation:.1e}",
                f"  largest deviation accepted: {self.tolerance:.0e}; logits: {self.transform}",
            ]
        )


def verify(
    handle: BalanceState,
    batch: Mapping[str, Any],
    *,
    model: nn.Module | None = None,
    backward: Callable[[Tensor], Any] | None = None,
    task: int | None = None,
    compare_stock: bool = True,
    tolerance: float | None = None,
    group: dist.ProcessGroup | None = None,
) -> Verification:
    """Double one task's weight on one batch per rank, and check that the gradient moves by the formula.

    With g the gradient at the handle's weights, D its normalizer, and G_k that of task k's added losses, doubling
    w_k must give g' with ``D' g' - D g - w_k G_k = 0``, where ``D' = D + w_k n_k``: three backward passes, added up
    in the parameters' own gradients. The model's parameters, gradients, training mode, weights and statistics are
    afterwards what they were; only DeepSpeed's ZeRO-3 forgets what it has accumulated: verify between its steps.
    Every rank must call, with its own batch. Dropout draws the same masks each time.

    Args:
        handle: of the balanced model.
        batch: one training batch of this rank, on its device.
        model: what the training loop calls (the DDP, FSDP or accelerate-prepared wrapper, DeepSpeed's engine); the
            bare model by default.
        backward: how the loop runs backward, `accelerator.backward` or DeepSpeed's `engine.backward` say.
        task: index of the task to double; by default the one with most tokens among those with a weight.
        compare_stock: also compute the stock loss, which needs the batch's full logits in memory.
        tolerance: largest relative deviation; by default 1e-8 in float64, 1e-4 in float32, 0.05 in less or under
            autocast.
        group: the ranks of the step; all by default.

    Raises:
        ValueError: no task of the batch has both tokens and a weight above 0, or no gradient was found
            (DeepSpeed's ZeRO stages below 3 keep them to themselves).
    """
    run = handle.model if model is None else model
    step_backward = Tensor.backward if backward is None else backward
    counts = step_counts([batch], handle.num_tasks, device=handle.device, group=group)
    with _restored(handle):
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
    """The normalizer that `begin_step` gives each rank, and their common value from each rank's own counts."""
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
    """This rank's mean loss over its tokens, from the fused head and from the stock model, dropout alike."""
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


def _gradient_size(model: nn.Module, group: dist.ProcessGroup | None) -> float:
    """Euclidean norm of all gradients over all ranks; under DDP every rank's copy counts, alike each time."""
    total = torch.zeros((), dtype=torch.float64)
    for parameter in model.parameters():
        local = _local_gradient(parameter)
        if local is not None:
            size = torch.linalg.vector_norm(local.detach().float() if local.dtype != torch.float64 else local)
            total = total.to(size.device) + size.double() ** 2
    total = total.to(next(model.parameters()).device)
    reduce_over_ranks(total, group)
    return float(total.sqrt())


def _local_gradient(parameter: nn.Parameter) -> Tensor | None:
    """This rank's part of a gradient; DeepSpeed's ZeRO-3 keeps it in buffers of its own."""
    gradient: Any = parameter.grad
    if gradient is None:
        if _of_zero3(parameter) and parameter.requires_grad:
            from deepspeed.utils import safe_get_local_grad

            kept: Tensor | None = safe_get_local_grad(parameter)
            return kept
        return None
    local: Tensor = gradient.to_local() if hasattr(gradient, "to_local") else gradient
    return local


def _of_zero3(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "ds_id") and hasattr(parameter, "_z3_optimizer")


def _forget_zero3_gradients(model: nn.Module) -> None:
    """The next backward pass starts DeepSpeed's sums anew."""
    for optimizer in {p._z3_optimizer for p in model.parameters() if _of_zero3(p)}:  # type: ignore[attr-defined]
        optimizer.zero_grad()


def _tolerance(handle: BalanceState) -> float:
    if handle._head_dtype in (torch.float16, torch.bfloat16):
        return 0.05
    return 1e-8 if handle._head_dtype == torch.float64 else 1e-4


@contextmanager
def _restored(handle: BalanceState) -> Iterator[None]:
    """Gradients, modes, random state and the handle's own state, put back afterwards."""
    model = handle.model
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    state = dict(handle.__dict__)
    devices = [handle.device] if handle.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            for parameter, _ in gradients:
                parameter.grad = None
            _forget_zero3_gradients(model)
            model.train()
            yield
    finally:
        _forget_zero3_gradients(model)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, training in modes:
            module.training = training
        state["transform"] = handle.transform
        handle.__dict__.update(state)
