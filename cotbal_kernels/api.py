"""The two losses: check what comes in, plan, run one operator, wrap what comes out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cotbal_kernels import arguments, checks, linear, ops, products, small, vocabulary
from cotbal_kernels.arguments import Reduction, TokenOutput
from cotbal_kernels.backends.registry import AUTO
from cotbal_kernels.call import LinearCall, LinearResult, LogitsCall, LogitsResult
from cotbal_kernels.output import LossOutput
from cotbal_kernels.planning import IGNORE_INDEX, Plan

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


# Defaults of floats are spelled 0 and 1: torch.compile with dynamic shapes takes those for constants, and would trace
# a call twice for 0.0.
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
    logit_scale: float = 1,
    softcap: float | None = None,
    reduction: Reduction = "mean",
    normalizer: Tensor | float | None = None,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0,
    lse_square_scale: float = 0,
    token_outputs: Sequence[TokenOutput] = (),
    token_gradients: bool = False,
    plan: Plan | None = None,
    impl: str = AUTO,
    memory_budget: int | None = None,
    vocab_range: tuple[int, int] | None = None,
    group: ProcessGroup | None = None,
) -> LossOutput:
    """Task-weighted cross-entropy of an output head, from its hidden states, on the supervised tokens alone.

    With z_t = logit_scale * (hidden_t @ weight.T + bias), then softcap * tanh(z_t / softcap) where there is a
    softcap, nll_t = logsumexp(z_t) - z_t[label_t] and w_t = task_weights[task of t] * token_weights_t *
    class_weights[label_t]:

        mean: sum of w_t l_t / sum of w_t      (/ normalizer, where given)
        sum:  sum of w_t l_t
        none: w_t l_t at each hidden position, 0 where unsupervised

    where l_t, the loss of a token, is its nll unless penalties are asked for:

        l_t = (1 - label_smoothing) nll_t + label_smoothing (logsumexp(z_t) - mean of z_t)
              + lse_square_scale logsumexp(z_t)^2

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
        class_weights: weight of each class, finite and not negative, [V]; not beside ``label_smoothing``.
        label_smoothing: as above, 0 to 1. A class that a logit of -inf masks makes the loss infinite.
        lse_square_scale: as above, >= 0 (the z-loss of PaLM is 1e-4).
        token_outputs: what the result shall hold of each token: "log_probabilities", "entropy". Statistics and
            these are of the nll alone, whatever the weights and penalties.
        token_gradients: whether ``token_outputs`` carry gradients, too: then the logits are computed again in the
            backward pass (four products).
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
        vocab_range: the classes ``weight`` and ``bias`` hold, first and one past the last, where the head's classes
            are spread over the ranks of ``group`` (tensor parallelism). All other arguments are whole and the same
            on every rank, labels count all classes, and every rank must call. One all-gather of three values per
            row joins the ranks; the gradient of ``hidden`` is summed over them in the backward pass (do not sum it
            again), those of ``weight`` and ``bias`` stay with their classes. Not with ``label_smoothing``,
            ``class_weights``, an entropy, ``token_gradients``, or under torch.compile.
        group: as above; None: all ranks.

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
    if (
        plan is not None
        and not torch.compiler.is_compiling()
        and labels is None
        and task_ids is None
        and sample_ids is None
        and token_weights is None
        and not shift
        and class_weights is None
        and label_smoothing == 0
        and lse_square_scale == 0
        and not token_outputs
        and not token_gradients
        and vocab_range is None
        and group is None
    ):
        quick = small.linear_cross_entropy(
            hidden,
            weight,
            bias,
            plan,
            task_weights,
            num_tasks,
            normalizer,
            reduction,
            logit_scale,
            softcap,
            impl,
            memory_budget,
        )
        if quick is not None:
            return quick
    arguments.check_options(
        logit_scale,
        softcap,
        reduction,
        normalizer,
        impl,
        memory_budget,
        label_smoothing,
        lse_square_scale,
    )
    wants_entropy = arguments.token_outputs(token_outputs, token_gradients)
    arguments.check_head(hidden, weight, bias)
    hidden, weight, bias = arguments.autocast(hidden, weight, bias)
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and value.dtype != hidden.dtype:
            raise TypeError(
                f"{name} is {value.dtype}, but hidden is {hidden.dtype}; cast one of them or use torch.autocast"
            )
    shard = arguments.shard(
        vocab_range, group, weight, label_smoothing, class_weights, wants_entropy or token_gradients
    )
    made = arguments.planned(
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
        weight.shape[0] if shard is None else None,
    )
    arguments.check_class_weights(class_weights, weight.shape[0], label_smoothing, hidden)
    row_weights = arguments.row_weights(made, task_weights, plan is None, class_weights)
    arguments.check_normalizer(normalizer, made, row_weights)
    flat = hidden.reshape(-1, hidden.shape[-1])
    logits_dtype = products.product_dtype(hidden.dtype, hidden.device)
    arguments.check_runs(impl, hidden.device, logits_dtype)
    recording = torch.is_grad_enabled()
    wants = [recording and value is not None and value.requires_grad for value in (hidden, weight, bias)]
    wants_hidden, wants_weight, wants_bias = wants
    budget = arguments.budget(memory_budget, hidden.device)
    mode = "value"
    if any(wants):
        # In a traced graph that makes its own plan, the number of rows is not known yet.
        traced = plan is None and torch.compiler.is_compiling()
        memory = None if traced else linear.memory_of(flat, weight, made.rows.shape[0], budget, wants_weight)
        mode = linear.choose_mode(memory, reduction, logits_dtype, token_gradients)
        if shard is not None and mode == "grads":
            # The rows' scales are known, but not yet what the other ranks add to each row.
            mode = "recompute"
    call = LinearCall(
        hidden=flat,
        weight=weight,
        bias=bias,
        rows=made.rows,
        targets=made.targets,
        tasks=made.tasks,
        samples=made.samples,
        row_weights=row_weights,
        normalizer=arguments.scalar(normalizer, hidden.device),
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
        label_smoothing=float(label_smoothing),
        lse_square_scale=float(lse_square_scale),
        wants_entropy=wants_entropy,
        token_gradients=token_gradients,
    )
    result = ops.linear_cross_entropy(call) if shard is None else vocabulary.linear_cross_entropy(call, shard)
    return _output(result, made, reduction, token_outputs)


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
    logit_scale: float = 1,
    softcap: float | None = None,
    reduction: Reduction = "mean",
    normalizer: Tensor | float | None = None,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0,
    lse_square_scale: float = 0,
    token_outputs: Sequence[TokenOutput] = (),
    token_gradients: bool = False,
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
    if (
        plan is not None
        and not torch.compiler.is_compiling()
        and labels is None
        and task_ids is None
        and sample_ids is None
        and token_weights is None
        and not shift
        and class_weights is None
        and label_smoothing == 0
        and lse_square_scale == 0
        and not token_outputs
        and not token_gradients
    ):
        quick = small.cross_entropy(
            logits, plan, task_weights, num_tasks, normalizer, reduction, logit_scale, softcap, impl
        )
        if quick is not None:
            return quick
    arguments.check_options(
        logit_scale, softcap, reduction, normalizer, impl, None, label_smoothing, lse_square_scale
    )
    wants_entropy = arguments.token_outputs(token_outputs, token_gradients)
    checks.floating("logits", logits)
    if logits.dim() < 2 or logits.shape[-1] == 0:
        raise ValueError(f"logits has shape {tuple(logits.shape)}; accepted: (..., V) with V >= 1")
    made = arguments.planned(
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
    arguments.check_runs(impl, logits.device, logits.dtype)
    arguments.check_class_weights(class_weights, logits.shape[-1], label_smoothing, logits)
    row_weights = arguments.row_weights(made, task_weights, plan is None, class_weights)
    arguments.check_normalizer(normalizer, made, row_weights)
    flat = logits.reshape(-1, logits.shape[-1])
    if flat.stride(-1) != 1:
        flat = flat.contiguous()
    mode = "value"
    if torch.is_grad_enabled() and logits.requires_grad:
        # 16-bit gradients are rounded once, and f16's must not vanish before a loss scale lifts them: both need the
        # upstream gradient.
        late = reduction == "none" or logits.dtype.itemsize == 2 or token_gradients
        mode = "recompute" if late else "grads"
    result = ops.cross_entropy(
        LogitsCall(
            logits=flat,
            rows=made.rows,
            targets=made.targets,
            tasks=made.tasks,
            samples=made.samples,
            row_weights=row_weights,
            normalizer=arguments.scalar(normalizer, logits.device),
            num_tasks=made.num_tasks,
            num_samples=made.num_samples if made.sample_ids is None else made.sample_ids.shape[0],
            logit_scale=float(logit_scale),
            softcap=None if softcap is None else float(softcap),
            reduction=reduction,
            mode=mode,
            impl=impl,
            label_smoothing=float(label_smoothing),
            lse_square_scale=float(lse_square_scale),
            wants_entropy=wants_entropy,
            token_gradients=token_gradients,
        )
    )
    return _output(result, made, reduction, token_outputs)


def _output(
    result: LinearResult | LogitsResult, made: Plan, reduction: str, token_outputs: Sequence[str]
) -> LossOutput:
    def per_token(rows: Tensor) -> Tensor:
        flat = rows.new_zeros(math.prod(made.label_shape)).index_copy(0, made.rows, rows)
        return flat.reshape(made.label_shape)

    return LossOutput(
        result.loss.reshape(made.label_shape) if reduction == "none" else result.loss,
        result.task_loss_sum,
        result.task_tokens,
        result.task_correct,
        _by_sample(result.sample_loss_sum, made),
        _by_sample(result.sample_tokens, made),
        per_token(-result.nll) if "log_probabilities" in token_outputs else None,
        per_token(result.entropy) if "entropy" in token_outputs else None,
    )


def _by_sample(sums: Tensor, made: Plan) -> Tensor:
    """Sums over the samples of a plan, where their ids say, [B]."""
    if made.sample_ids is None:
        return sums
    return sums.new_zeros(made.num_samples).index_copy_(0, made.sample_ids, sums)
