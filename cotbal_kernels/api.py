"""The two losses: check what comes in, plan, run one operator, wrap what comes out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor

from cotbal_kernels import checks, linear, ops, products, statistics
from cotbal_kernels.backends.registry import AUTO, check_name, resolve
from cotbal_kernels.call import LinearCall, LinearResult, LogitsCall, LogitsResult
from cotbal_kernels.planning import IGNORE_INDEX, Plan, plan

Reduction = Literal["mean", "sum", "none"]
_REDUCTIONS: Final = ("mean", "sum", "none")
_DTYPES: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Bytes; on a GPU, this part of its memory.
_BUDGET: Final = 2**29
_SHARE: Final = 16


class LossOutput(NamedTuple):
    """A loss and the additive statistics of its tokens; only ``loss`` carries gradients.

    Attributes:
        loss: scalar, or labels-shaped for reduction "none"; f32, f64 for f64 inputs.
        task_loss_sum: sum of the unweighted nll of each task, [T], in the dtype of the loss.
        task_tokens: supervised tokens of each task, i64 [T].
        task_correct: of these, tokens whose largest logit is the label's, i64 [T].
        sample_loss_sum: sum of the unweighted nll of each sample, [B], in the dtype of the loss.
        sample_tokens: supervised tokens of each sample, i64 [B].
    """

    loss: Tensor
    task_loss_sum: Tensor
    task_tokens: Tensor
    task_correct: Tensor
    sample_loss_sum: Tensor
    sample_tokens: Tensor

    def __str__(self) -> str:
        """The loss and one line per task; reading the values waits for the device."""
        loss = self.loss.detach()
        shown = f"{loss.item():.4f}" if loss.dim() == 0 else f"of shape {tuple(loss.shape)}"
        lines = [f"loss {shown}, {self.sample_tokens.numel()} samples", "task      loss    tokens  accuracy"]
        sums = (self.task_loss_sum.tolist(), self.task_tokens.tolist(), self.task_correct.tolist())
        for task, (total, tokens, correct) in enumerate(zip(*sums, strict=True)):
            mean, share = (f"{total / tokens:.4f}", f"{correct / tokens:.1%}") if tokens else ("-", "-")
            lines.append(f"{task:>4}  {mean:>8}  {tokens:>8}  {share:>8}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        shape, tasks = tuple(self.loss.shape), self.task_tokens.numel()
        return f"LossOutput(loss: {self.loss.dtype} {shape}, {tasks} tasks, {self.sample_tokens.numel()} samples)"

    @property
    def task_loss(self) -> Tensor:
        """Mean nll of each task, [T]; NaN where a task has no token."""
        return self.task_loss_sum / self.task_tokens

    @property
    def sample_loss(self) -> Tensor:
        """Mean nll of each sample, [B]; NaN where a sample has no token."""
        return self.sample_loss_sum / self.sample_tokens


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor | None = None,
    task_ids: Tensor | None = None,
    task_weights: Tensor | Sequence[float] | None = None,
    *,
    num_tasks: int | None = None,
    sample_ids: Tensor | None = None,
    token_weights: Tensor | None = None,
    bias: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
    shift: bool = False,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    reduction: Reduction = "mean",
    normalizer: Tensor | float | None = None,
    plan: Plan | None = None,
    impl: str = AUTO,
    memory_budget: int | None = None,
) -> LossOutput:
    """Task-weighted cross-entropy of an output head, from its hidden states, on the supervised tokens alone.

    With z_t = logit_scale * (hidden_t @ weight.T + bias), then softcap * tanh(z_t / softcap) where there is a
    softcap, nll_t = logsumexp(z_t) - z_t[label_t] and w_t = task_weights[task of t] * token_weights_t:

        mean: sum of w_t nll_t / sum of w_t      (/ normalizer, where given)
        sum:  sum of w_t nll_t
        none: w_t nll_t at each hidden position, 0 where unsupervised

    All sums run over the supervised tokens; rows of hidden states without one are never read. With no
    supervised token (or no weight at all) the loss is 0, connected to the graph, and all gradients are 0.
    Logits are computed in the inputs' dtype (bf16 and f16 in f32 on CPUs without such products), the rest in
    f32; everything in f64 for f64 inputs.

    Args:
        hidden: [..., H], f16, bf16, f32 or f64. Under autocast it, ``weight`` and ``bias`` are cast as a
            linear layer's would be.
        weight: [V, H], of the dtype of ``hidden``.
        labels: [...], the shape of ``hidden`` without its last dimension; may be left out with a ``plan``.
        task_ids, task_weights, num_tasks, sample_ids, token_weights, ignore_index, shift: see :func:`plan`.
            Task weights may require gradients. With a ``plan``, negative ones that live on an accelerator make
            the loss NaN instead of raising.
        bias: [V], added to the logits.
        logit_scale: multiplies the logits.
        softcap: limit of the logits, > 0.
        reduction: as above.
        normalizer: what a "mean" is divided by instead of the sum of the weights; a scalar, taken as constant. One
            that is not finite and > 0 is refused on the CPU and makes the loss NaN on an accelerator.
        plan: made beforehand from the labels, so that nothing is read back from the device here. Without one,
            labels on an accelerator cost one synchronisation, before the first product.
        impl: "auto", or one that :func:`implementations` lists.
        memory_budget: bytes to hold at once beside inputs and results: the logits of the rows worked on, and the
            f32 sums of a 16-bit head's gradient over several chunks. None: 512 MiB on CPUs, a sixteenth of the
            card's memory on accelerators. With R supervised rows and b bytes per logit, R V b within the budget is
            one product forward and two backward, for any upstream gradient. Beyond it, rows are worked on in
            chunks: for "mean" and "sum" the gradients are made in the forward pass (three products), for "none"
            and f16 logits the logits are computed again in the backward pass (four). The least is 512 V b + 4 V H
            (512 V b for f32 heads), or R V b where that is less: a lower budget changes nothing.

    Returns:
        The loss and the statistics of every task and sample.

    Raises:
        TypeError: an argument is not a tensor of the kind accepted.
        ValueError: shapes, devices or options do not fit, or a value is out of range; the message names the
            argument, what was found and where.
        RuntimeError: the implementation named cannot run on this device and dtype.

    >>> import torch, cotbal_kernels as ck
    >>> hidden, weight = torch.zeros(2, 3, 4), torch.zeros(8, 4)
    >>> labels = torch.tensor([[-100, 5, 7], [-100, -100, 3]])
    >>> out = ck.linear_cross_entropy(hidden, weight, labels, torch.tensor([0, 1]), [1.0, 3.0], shift=True)
    >>> round(out.loss.item(), 4), out.task_tokens.tolist()
    (2.0794, [2, 1])
    >>> print(out)
    loss 2.0794, 2 samples
    task      loss    tokens  accuracy
       0    2.0794         2      0.0%
       1    2.0794         1      0.0%
    """
    _check_options(logit_scale, softcap, reduction, normalizer, impl, memory_budget)
    _check_head(hidden, weight, bias)
    hidden, weight, bias = _autocast(hidden, weight, bias)
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and value.dtype != hidden.dtype:
            raise TypeError(
                f"{name} is {value.dtype}, but hidden is {hidden.dtype}; cast one of them or use torch.autocast"
            )
    made = _planned(
        plan,
        labels,
        task_ids,
        task_weights,
        num_tasks,
        sample_ids,
        token_weights,
        shift,
        ignore_index,
        "hidden",
        hidden,
        weight.shape[0],
    )
    row_weights = _row_weights(made, task_weights, plan is None)
    _check_normalizer(normalizer, made, row_weights)
    flat = hidden.reshape(-1, hidden.shape[-1])
    logits_dtype = products.product_dtype(hidden.dtype, hidden.device)
    _check_runs(impl, hidden.device, logits_dtype)
    recording = torch.is_grad_enabled()
    wants = [recording and value is not None and value.requires_grad for value in (hidden, weight, bias)]
    wants_hidden, wants_weight, wants_bias = wants
    budget = _budget(memory_budget, hidden.device)
    mode = "value"
    if any(wants):
        memory = linear.memory_of(flat, weight, made.rows.shape[0], budget, wants_weight)
        mode = linear.choose_mode(memory, reduction, logits_dtype)
    result = ops.linear_cross_entropy(
        LinearCall(
            hidden=flat,
            weight=weight,
            bias=bias,
            rows=made.rows,
            targets=made.targets,
            tasks=made.tasks,
            samples=made.samples,
            row_weights=row_weights,
            normalizer=_scalar(normalizer, hidden.device),
            num_tasks=made.num_tasks,
            num_samples=made.num_samples if made.sample_ids is None else made.sample_ids.shape[0],
            padded=made.padded,
            logit_scale=float(logit_scale),
            softcap=None if softcap is None else float(softcap),
            reduction=reduction,
            mode=mode,
            wants_hidden=wants_hidden,
            wants_weight=wants_weight,
            wants_bias=wants_bias,
            memory_budget=budget,
            impl=impl,
        )
    )
    return _output(result, made, reduction)


def cross_entropy(
    logits: Tensor,
    labels: Tensor | None = None,
    task_ids: Tensor | None = None,
    task_weights: Tensor | Sequence[float] | None = None,
    *,
    num_tasks: int | None = None,
    sample_ids: Tensor | None = None,
    token_weights: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
    shift: bool = False,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    reduction: Reduction = "mean",
    normalizer: Tensor | float | None = None,
    plan: Plan | None = None,
    impl: str = AUTO,
) -> LossOutput:
    """Task-weighted cross-entropy of logits [..., V]; otherwise as :func:`linear_cross_entropy`.

    Logits of unsupervised positions are never read, and may hold anything. For "mean" and "sum" the gradient of f32
    and f64 logits is written in the forward pass; for "none", and for 16-bit logits, it is computed from the logits
    in the backward pass, which must not have been changed in between.

    >>> import torch, cotbal_kernels as ck
    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    >>> out = ck.cross_entropy(logits, torch.tensor([0, 0, -100]), reduction="none")
    >>> [round(each, 4) for each in out.loss.tolist()], out.task_correct.tolist()
    ([0.1269, 2.1269, 0.0], [1])
    """
    _check_options(logit_scale, softcap, reduction, normalizer, impl, None)
    checks.floating("logits", logits)
    if logits.dim() < 2 or logits.shape[-1] == 0:
        raise ValueError(f"logits has shape {tuple(logits.shape)}; accepted: (..., V) with V >= 1")
    made = _planned(
        plan,
        labels,
        task_ids,
        task_weights,
        num_tasks,
        sample_ids,
        token_weights,
        shift,
        ignore_index,
        "logits",
        logits,
        logits.shape[-1],
    )
    _check_runs(impl, logits.device, logits.dtype)
    row_weights = _row_weights(made, task_weights, plan is None)
    _check_normalizer(normalizer, made, row_weights)
    flat = logits.reshape(-1, logits.shape[-1])
    if flat.stride(-1) != 1:
        flat = flat.contiguous()
    mode = "value"
    if torch.is_grad_enabled() and logits.requires_grad:
        # 16-bit gradients are rounded once, and f16's must not vanish before a loss scale lifts them: both need the
        # upstream gradient.
        mode = "recompute" if reduction == "none" or logits.dtype.itemsize == 2 else "grads"
    result = ops.cross_entropy(
        LogitsCall(
            logits=flat,
            rows=made.rows,
            targets=made.targets,
            tasks=made.tasks,
            samples=made.samples,
            row_weights=row_weights,
            normalizer=_scalar(normalizer, logits.device),
            num_tasks=made.num_tasks,
            num_samples=made.num_samples if made.sample_ids is None else made.sample_ids.shape[0],
            logit_scale=float(logit_scale),
            softcap=None if softcap is None else float(softcap),
            reduction=reduction,
            mode=mode,
            impl=impl,
        )
    )
    return _output(result, made, reduction)


def _output(result: LinearResult | LogitsResult, made: Plan, reduction: str) -> LossOutput:
    return LossOutput(
        result.loss.reshape(made.label_shape) if reduction == "none" else result.loss,
        result.task_loss_sum,
        result.task_tokens,
        result.task_correct,
        _by_sample(result.sample_loss_sum, made),
        _by_sample(result.sample_tokens, made),
    )


def _by_sample(sums: Tensor, made: Plan) -> Tensor:
    """Sums over the samples of a plan, where their ids say, [B]."""
    if made.sample_ids is None:
        return sums
    return sums.new_zeros(made.num_samples).index_copy_(0, made.sample_ids, sums)


def _check_options(
    logit_scale: float,
    softcap: float | None,
    reduction: str,
    normalizer: Tensor | float | None,
    impl: str,
    memory_budget: int | None,
) -> None:
    check_name(impl)
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}; accepted are {', '.join(map(repr, _REDUCTIONS))}")
    # Comparisons, not math.isfinite: torch.compile traces these floats.
    if not -math.inf < logit_scale < math.inf:
        raise ValueError(f"logit_scale is {logit_scale}; a finite number is needed")
    if softcap is not None and not 0 < softcap < math.inf:
        raise ValueError(f"softcap is {softcap}; a finite number > 0 is needed, or None for no softcap")
    if memory_budget is not None and memory_budget < 0:
        raise ValueError(f"memory_budget is {memory_budget}; a number of bytes >= 0 is needed")
    if normalizer is None:
        return
    if reduction != "mean":
        raise ValueError(f"normalizer came with reduction {reduction!r}; it divides a 'mean' only")
    if isinstance(normalizer, Tensor):
        if normalizer.numel() != 1:
            raise ValueError(f"normalizer has shape {tuple(normalizer.shape)}; a scalar is needed")
        if normalizer.requires_grad:
            raise ValueError("normalizer requires gradients; it is taken as constant, so pass it detached")


def _check_head(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    checks.floating("hidden", hidden)
    checks.floating("weight", weight)
    if weight.dim() != 2 or weight.shape[0] == 0:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; accepted: (V, H) with V >= 1")
    if hidden.dim() < 2 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"hidden has shape {tuple(hidden.shape)}, but weight has shape {tuple(weight.shape)}; "
            f"accepted: (..., {weight.shape[1]})"
        )
    checks.same_device("weight", weight, "hidden", hidden)
    if bias is not None:
        checks.floating("bias", bias)
        checks.same_device("bias", bias, "hidden", hidden)
        if bias.shape != weight.shape[:1]:
            raise ValueError(f"bias has shape {tuple(bias.shape)}; accepted: ({weight.shape[0]},)")


def _autocast(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The inputs as a linear layer would take them: in the dtype of autocast, where it is on."""
    kind = hidden.device.type
    if not torch.is_autocast_enabled(kind) or hidden.dtype == torch.float64:
        return hidden, weight, bias
    dtype = torch.get_autocast_dtype(kind)
    return hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def _planned(
    given: Plan | None,
    labels: Tensor | None,
    task_ids: Tensor | None,
    task_weights: Tensor | Sequence[float] | None,
    num_tasks: int | None,
    sample_ids: Tensor | None,
    token_weights: Tensor | None,
    shift: bool,
    ignore_index: int,
    name: str,
    scores: Tensor,
    classes: int,
) -> Plan:
    """The plan given, checked against the inputs, or one made here; on their device."""
    if scores.dtype not in _DTYPES:
        raise TypeError(f"{name} has dtype {scores.dtype}; accepted are {', '.join(map(str, _DTYPES))}")
    if given is None:
        if labels is None:
            raise ValueError("labels are missing; pass labels or a plan made from them")
        checks.integer("labels", labels)
        _check_positions("labels", tuple(labels.shape), name, scores)
        made = plan(
            labels,
            task_ids,
            task_weights,
            num_tasks=num_tasks,
            sample_ids=sample_ids,
            token_weights=token_weights,
            shift=shift,
            ignore_index=ignore_index,
            vocab_size=classes,
        )
        return made.to(scores.device, non_blocking=True)
    in_the_plan = {
        "task_ids": task_ids is not None,
        "sample_ids": sample_ids is not None,
        "token_weights": token_weights is not None,
        "shift": shift,
    }
    for option, passed in in_the_plan.items():
        if passed:
            raise ValueError(f"{option} came with a plan, which holds it already; pass it to plan() instead")
    if labels is not None and tuple(labels.shape) != given.label_shape:
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}, but the plan was made for {given.label_shape}"
        )
    if labels is not None and not given.made_from(labels):
        raise ValueError(
            "labels are not those the plan was made from; pass the batch's own plan, or make it from these labels"
        )
    if num_tasks is not None and num_tasks != given.num_tasks:
        raise ValueError(f"num_tasks is {num_tasks}, but the plan was made for {given.num_tasks}")
    _check_positions("plan", given.label_shape, name, scores)
    if given.max_target >= classes:
        raise ValueError(f"plan holds the label {given.max_target}, outside [0, {classes})")
    return given.to(scores.device, non_blocking=True)


def _check_positions(name: str, shape: tuple[int, ...], scores_name: str, scores: Tensor) -> None:
    if shape != tuple(scores.shape[:-1]):
        raise ValueError(
            f"{name} has shape {shape}, but {scores_name} has shape {tuple(scores.shape)}; "
            f"accepted: {tuple(scores.shape[:-1])}"
        )


def _row_weights(
    made: Plan, task_weights: Tensor | Sequence[float] | None, planned_here: bool
) -> Tensor | None:
    """Weight of each row; ``None`` where all are 1."""
    if task_weights is None and made.task_weights is None and made.token_weights is None:
        return None
    if task_weights is None or planned_here:
        return made.row_weights()
    return made.row_weights(
        checks.legal_weights("task_weights", checks.task_table(task_weights, made.num_tasks))
    )


def _scalar(value: Tensor | float | None, device: torch.device) -> Tensor | None:
    if value is None:
        return None
    if isinstance(value, Tensor):
        return checks.moved(value.detach().reshape(()).to(torch.float64), device)
    return torch.full((), value, dtype=torch.float64, device=device)


def _check_normalizer(value: Tensor | float | None, made: Plan, row_weights: Tensor | None) -> None:
    """Refuse what no sum of weights can be; on a device, where looking would wait, the loss becomes NaN instead."""
    if value is None or torch.compiler.is_compiling():
        return
    if isinstance(value, Tensor) and value.device.type != "cpu":
        return
    found = float(value)
    if found > 0 and found < math.inf:
        return
    if found == 0 and made.rows.device.type != "cpu":
        return
    if found == 0 and float(statistics.weight_sum(made.targets, row_weights)) == 0:
        return
    raise ValueError(
        f"normalizer is {found}; a finite number > 0 is needed (0 where no supervised token has a weight)"
    )


def _budget(given: int | None, device: torch.device) -> int:
    return _default_budget(device) if given is None else given


# torch.compile asks once, outside of the graph.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _default_budget(device: torch.device) -> int:
    if device.type != "cuda":
        return _BUDGET
    # Of all memory, not of what is free: a step must not work otherwise than the one before it.
    return int(torch.cuda.get_device_properties(device).total_memory) // _SHARE


def _check_runs(impl: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raise where the implementation named cannot run; the operator would, but only later."""
    if impl != AUTO and not torch.compiler.is_compiling():
        resolve(impl, device, dtype)
