"""One optimizer step computed plainly: float64, one process, full logits, the formula written out.

Shares no code with cotbal: the logits are the stock model's own, everything after them is torch's log_softmax.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Gradients = dict[str, Tensor]


class _StayDouble(TorchFunctionMode):
    """Float64 wherever a model asks for float32 (norms, rotary embeddings)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.float:
            func = Tensor.double
        if func is Tensor.to:
            args = tuple(torch.float64 if value is torch.float32 else value for value in args)
        if kwargs.get("dtype") is torch.float32:
            kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


def _forward_in_double(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    with _StayDouble():
        return type(self).forward(self, *args, **kwargs)


def to_double(model: nn.Module) -> nn.Module:
    """The model in float64 throughout: everything below its head, whatever its own code would cast to float32.

    Without this two ways to the same gradient differ by float32 rounding, however exact both are.
    """
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    model.double()
    # Llama 4 has its towers side by side.
    for inner in [base.model] if hasattr(base, "model") else list(base.children()):
        inner.forward = MethodType(_forward_in_double, inner)
    return model


def oracle_step(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    weights: Sequence[float] | Tensor,
    *,
    normalize: str = "weights",
) -> tuple[float, Gradients]:
    """Loss and gradients of ``sum_t w[task(t)] v_t nll_t / D`` over all tokens of all batches.

    Args:
        model: the stock model, unbalanced; not changed.
        batches: every micro-batch of every rank of the step.
        weights: [T].
        normalize: D is the weights' sum ("weights") or the number of supervised tokens ("tokens").
    """
    double = to_double(copy.deepcopy(model)).train()
    return _step(double, batches, weights, normalize, _double)


def plain_step(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    weights: Sequence[float] | Tensor,
    *,
    dtype: torch.dtype,
) -> tuple[float, Gradients]:
    """The same formula on the stock model under autocast: what rounding alone does to it."""
    twin = copy.deepcopy(model).train()
    with torch.autocast("cpu", dtype):
        return _step(twin, batches, weights, "weights", lambda value: value)


def _step(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    weights: Sequence[float] | Tensor,
    normalize: str,
    convert: Callable[[Any], Any],
) -> tuple[float, Gradients]:
    model.zero_grad(set_to_none=True)
    weights = torch.as_tensor(weights, dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    normalizer = 0.0
    for batch in batches:
        numerator, denominator = _weighted(model, batch, weights, normalize, convert)
        total = total + numerator
        normalizer += denominator
    loss = total / normalizer if normalizer > 0 else total
    loss.backward()
    return float(loss.detach()), gradients_of(model)


def _weighted(
    model: nn.Module,
    batch: Mapping[str, Any],
    weights: Tensor,
    normalize: str,
    convert: Callable[[Any], Any],
) -> tuple[Tensor, float]:
    ours = ("labels", "shift_labels", "loss_plan", "loss_task_index", "loss_token_weights")
    inputs = {name: convert(value) for name, value in batch.items() if name not in ours}
    # As the Trainer has it; with a cache, transformers would not see that a row is packed.
    logits = model(**inputs, use_cache=False).logits.double()
    labels, rows, length = batch["labels"], *batch["labels"].shape
    tasks = batch.get("loss_task_index", torch.zeros(rows, dtype=torch.int64))
    tasks = tasks[:, None].expand(rows, length) if tasks.dim() == 1 else tasks
    extra = batch.get("loss_token_weights", torch.ones(rows, length)).double()
    log_probabilities = torch.log_softmax(logits, dim=-1)
    total = 0.0 * logits.sum()
    normalizer = 0.0
    for row in range(rows):
        for place in range(1, length):
            target = int(labels[row, place])
            if target == -100:
                continue
            weight = weights[tasks[row, place]] * extra[row, place]
            total = total - weight * log_probabilities[row, place - 1, target]
            normalizer += 1.0 if normalize == "tokens" else float(weight)
    return total, normalizer


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def largest_deviation(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Largest |found - expected| of any parameter, relative to that parameter's largest expected gradient.

    A parameter whose gradient is below 1e-3 of the model's largest is measured against that floor instead: some,
    such as the key biases of attention, have a gradient that is zero but for rounding.
    """
    if set(found) != set(expected):
        missing, extra = set(expected) - set(found), set(found) - set(expected)
        # A parameter out of reach of the loss may have no gradient or zeros.
        stray = [name for name in missing if expected[name].abs().max() > 0]
        stray += [name for name in extra if found[name].abs().max() > 0]
        if stray:
            raise AssertionError(f"gradients of other parameters than expected: {sorted(stray)}")
    largest = max(float(value.abs().max()) for value in expected.values())
    worst = 0.0
    for name, value in expected.items():
        if name in found:
            difference = float((found[name].double() - value).abs().max())
            worst = max(worst, difference / max(float(value.abs().max()), 1e-3 * largest))
    return worst


def gradients_of(model: nn.Module) -> Gradients:
    """The gradients a model holds, by parameter name; sharded ones are put together, which all ranks must do."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            gradient: Any = parameter.grad.detach()
            found[name] = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient.clone()
    return found
