"""Random inputs of a case, and the float64 truth they are held to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import cotbal_kernels as ck
from benchmarks.cases import LossCase


@dataclass
class LossInputs:
    """Leaves and labels of one case. ``hidden`` is [M, H] (or logits [M, V]), ``weight`` [V, H] or None."""

    case: LossCase
    hidden: Tensor
    weight: Tensor | None
    labels: Tensor  # [M] int64, -100 where unsupervised
    task_ids: Tensor  # [M] int64, per token
    task_weights: Tensor  # [T]
    plan: ck.Plan

    def compacted(self) -> LossInputs:
        """The same supervised rows alone, as somebody would hand them to a loss that cannot skip."""
        rows = self.labels != -100
        labels, task_ids = self.labels[rows].contiguous(), self.task_ids[rows].contiguous()
        plan = ck.plan(labels.cpu(), task_ids.cpu(), num_tasks=self.case.tasks).to(labels.device)
        hidden = self.hidden.detach()[rows].contiguous().requires_grad_()
        return LossInputs(self.case, hidden, self.weight, labels, task_ids, self.task_weights, plan)

    def leaves(self) -> list[Tensor]:
        return [self.hidden] if self.weight is None else [self.hidden, self.weight]

    def clear(self) -> None:
        for leaf in self.leaves():
            leaf.grad = None


def make(case: LossCase, device: torch.device, seed: int = 0) -> LossInputs:
    """Hidden states and weights scaled so that logits have a standard deviation of about 2."""
    generator = torch.Generator().manual_seed(seed)
    width = case.vocab if case.logits_level else case.hidden
    hidden = torch.randn(case.tokens, width, generator=generator)
    weight = None
    if case.logits_level:
        hidden *= 2
    else:
        weight = torch.randn(case.vocab, case.hidden, generator=generator) * (2 / case.hidden**0.5)
        weight = weight.to(device, case.dtype).requires_grad_()
    labels = torch.full((case.tokens,), -100, dtype=torch.int64)
    chosen = torch.randperm(case.tokens, generator=generator)[: case.rows].sort().values
    labels[chosen] = torch.randint(0, case.vocab, (case.rows,), generator=generator)
    task_ids = torch.randint(0, case.tasks, (case.tokens,), generator=generator)
    task_weights = 0.5 + torch.rand(case.tasks, generator=generator)
    plan = ck.plan(labels, task_ids, num_tasks=case.tasks).to(device)
    return LossInputs(
        case,
        hidden.to(device, case.dtype).requires_grad_(),
        weight,
        labels.to(device),
        task_ids.to(device),
        task_weights.to(device),
        plan,
    )


@dataclass(frozen=True)
class Truth:
    """Loss and gradients in float64 of the weighted and of the unweighted mean, from the formula."""

    loss: float
    hidden_gradient: Tensor  # [m, H] float64, supervised rows
    weight_gradient: Tensor | None


def truth(inputs: LossInputs, weighted: bool, block: int = 512) -> Truth:
    """The formula in float64, a block of rows at a time. Written apart from every implementation."""
    rows = (inputs.labels != -100).nonzero().squeeze(1)
    row_weights = torch.ones(len(rows), dtype=torch.float64, device=rows.device)
    if weighted:
        row_weights = inputs.task_weights.double()[inputs.task_ids[rows]]
    row_weights = row_weights / row_weights.sum()
    weight = None if inputs.weight is None else inputs.weight.detach().double()
    loss = torch.zeros((), dtype=torch.float64, device=rows.device)
    weight_gradient = None if weight is None else torch.zeros_like(weight)
    pieces = []
    for part, scale in zip(rows.split(block), row_weights.split(block), strict=True):
        x = inputs.hidden.detach()[part].double()
        z = x if weight is None else x @ weight.T
        log_p = z.log_softmax(-1)
        target = inputs.labels[part]
        loss -= (scale * log_p.gather(1, target[:, None]).squeeze(1)).sum()
        dz = log_p.exp_()
        dz[torch.arange(len(part), device=part.device), target] -= 1
        dz *= scale[:, None]
        pieces.append(dz if weight is None else dz @ weight)
        if weight_gradient is not None:
            weight_gradient += dz.T @ x
    return Truth(loss.item(), torch.cat(pieces), weight_gradient)


# relative error allowed in the Frobenius norm: a few units of the storage precision of inputs and gradients
_ALLOWED = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def disagreement(inputs: LossInputs, loss: Tensor, expected: Truth) -> str | None:
    """Why ``loss`` and the gradients on the leaves of ``inputs`` are wrong, or None."""
    allowed = _ALLOWED[inputs.case.dtype]
    if abs(loss.item() - expected.loss) > allowed * abs(expected.loss):
        return f"loss {loss.item():.6g} instead of {expected.loss:.6g}"
    rows = inputs.labels != -100
    pairs = [("hidden", inputs.hidden, expected.hidden_gradient, rows)]
    if inputs.weight is not None and expected.weight_gradient is not None:
        pairs.append(("weight", inputs.weight, expected.weight_gradient, slice(None)))
    for name, leaf, right, where in pairs:
        if leaf.grad is None:
            return f"no gradient for {name}"
        error = (leaf.grad[where].double() - right).norm() / right.norm()
        if not error <= allowed:
            return f"gradient of {name} off by {error:.2e} (allowed {allowed:.0e})"
    return None
