"""Random inputs of a case, and the float64 truth they are held to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
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

    def compacted(self, multiple: int = 1) -> LossInputs:
        """The same supervised rows alone, as somebody would hand them to a loss that cannot skip.

        Where a loss takes numbers of rows that are multiples of some number only, ignored rows of zeros come last.
        """
        rows = self.labels != -100
        labels, task_ids, hidden = self.labels[rows], self.task_ids[rows], self.hidden.detach()[rows]
        padding = -len(labels) % multiple
        labels = F.pad(labels, (0, padding), value=-100)
        task_ids = F.pad(task_ids, (0, padding))
        plan = ck.plan(labels.cpu(), task_ids.cpu(), num_tasks=self.case.tasks).to(labels.device)
        hidden = F.pad(hidden, (0, 0, 0, padding)).contiguous().requires_grad_()
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
    """Loss and gradients in float64, from the formula; gradients at some rows and classes, spread over all."""

    loss: float
    rows: Tensor  # int64, positions in ``hidden``
    hidden_gradient: Tensor  # [len(rows), H] float64
    classes: Tensor  # int64
    weight_gradient: Tensor | None  # [len(classes), H]


def truths(
    inputs: LossInputs, *, most_rows: int = 512, most_classes: int = 2048, block: int = 512
) -> dict[bool, Truth]:
    """The weighted mean's (True) and the plain mean's (False), written apart from every implementation.

    The loss is that of all supervised rows. Gradients are worked out at ``most_rows`` rows and ``most_classes``
    classes, evenly spread, the first and last among them: all of them would take longer than everything measured.
    """
    device = inputs.hidden.device
    rows = (inputs.labels != -100).nonzero().squeeze(1)
    tasks = inputs.task_weights.double()[inputs.task_ids[rows]]
    scales = {True: tasks / tasks.sum(), False: torch.full_like(tasks, 1 / len(rows))}
    chosen = _spread(len(rows), most_rows, device)
    classes = _spread(inputs.case.vocab, most_classes, device)
    weight = None if inputs.weight is None else inputs.weight.detach().double()
    loss = dict.fromkeys(scales, 0.0)
    dz_classes: list[Tensor] = []
    for part in rows.split(block):
        log_p = _log_p(inputs, weight, part)
        nll = -log_p.gather(1, inputs.labels[part][:, None]).squeeze(1)
        for weighted, scale in scales.items():
            loss[weighted] += float(nll @ scale[len(dz_classes) * block :][: len(part)])
        dz_classes.append(
            log_p[:, classes].exp_() - (classes[None, :] == inputs.labels[part][:, None]).double()
        )
    dz_rows = _log_p(inputs, weight, rows[chosen]).exp_()
    dz_rows[torch.arange(len(chosen), device=device), inputs.labels[rows[chosen]]] -= 1
    hidden_gradient = dz_rows if weight is None else dz_rows @ weight
    every_x = None if weight is None else inputs.hidden.detach()[rows].double()
    found = {}
    for weighted, scale in scales.items():
        weight_gradient = None if every_x is None else (torch.cat(dz_classes) * scale[:, None]).T @ every_x
        found[weighted] = Truth(
            loss[weighted], rows[chosen], hidden_gradient * scale[chosen, None], classes, weight_gradient
        )
    return found


def _log_p(inputs: LossInputs, weight: Tensor | None, rows: Tensor) -> Tensor:
    x = inputs.hidden.detach()[rows].double()
    return (x if weight is None else x @ weight.T).log_softmax(-1)


def _spread(count: int, most: int, device: torch.device) -> Tensor:
    return torch.linspace(0, count - 1, min(count, most), device=device, dtype=torch.float64).round().long()


# relative error allowed in the Frobenius norm: a few units of the storage precision of inputs and gradients
_ALLOWED = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def disagreement(inputs: LossInputs, loss: Tensor, expected: Truth) -> str | None:
    """Why ``loss`` and the gradients on the leaves of ``inputs`` are wrong, or None."""
    allowed = _ALLOWED[inputs.case.dtype]
    if abs(loss.item() - expected.loss) > allowed * abs(expected.loss):
        return f"loss {loss.item():.6g} instead of {expected.loss:.6g}"
    pairs = [("hidden", inputs.hidden, expected.hidden_gradient, expected.rows)]
    if inputs.weight is not None and expected.weight_gradient is not None:
        pairs.append(("weight", inputs.weight, expected.weight_gradient, expected.classes))
    for name, leaf, right, where in pairs:
        if leaf.grad is None:
            return f"no gradient for {name}"
        error = (leaf.grad[where].double() - right).norm() / right.norm()
        if not error <= allowed:
            return f"gradient of {name} off by {error:.2e} (allowed {allowed:.0e})"
    if inputs.hidden.grad is not None and inputs.hidden.grad[inputs.labels == -100].any():
        return "gradient of hidden is not 0 where nothing is supervised"
    return None
