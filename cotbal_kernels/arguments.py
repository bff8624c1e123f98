"""What callers pass to the losses: checked, cast, planned and brought to the device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

import torch
from torch import Tensor

from cotbal_kernels import checks, statistics
from cotbal_kernels.backends.registry import AUTO, check_name, resolve
from cotbal_kernels.planning import Plan, plan
from cotbal_kernels.vocabulary import Shard

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Reduction = Literal["mean", "sum", "none"]
TokenOutput = Literal["log_probabilities", "entropy"]
TOKEN_OUTPUTS: Final = ("log_probabilities", "entropy")
_REDUCTIONS: Final = ("mean", "sum", "none")
_DTYPES: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# The default memory budget in bytes; on a GPU, this part of its memory.
BUDGET: Final = 2**29
GPU_SHARE: Final = 16


def check_options(
    logit_scale: float,
    softcap: float | None,
    reduction: str,
    normalizer: Tensor | float | None,
    impl: str,
    memory_budget: int | None,
    label_smoothing: float = 0.0,
    lse_square_scale: float = 0.0,
) -> None:
    check_name(impl)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing is {label_smoothing}; accepted: 0 to 1")
    if not 0 <= lse_square_scale < math.inf:
        raise ValueError(f"lse_square_scale is {lse_square_scale}; a finite number >= 0 is needed")
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


def check_head(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
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


def autocast(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The inputs as a linear layer would take them: in the dtype of autocast, where it is on."""
    kind = hidden.device.type
    # There is no autocast of tensors without data.
    if hidden.is_meta or not torch.is_autocast_enabled(kind) or hidden.dtype == torch.float64:
        return hidden, weight, bias
    dtype = torch.get_autocast_dtype(kind)
    return hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def planned(
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
    classes: int | None,
) -> Plan:
    """The plan given, checked against the inputs, or one made here; on their device.

    How many classes there are is None where this rank does not know it.
    """
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
    if classes is not None and given.max_target >= classes:
        raise ValueError(f"plan holds the label {given.max_target}, outside [0, {classes})")
    return given.to(scores.device, non_blocking=True)


def _check_positions(name: str, shape: tuple[int, ...], scores_name: str, scores: Tensor) -> None:
    if shape != tuple(scores.shape[:-1]):
        raise ValueError(
            f"{name} has shape {shape}, but {scores_name} has shape {tuple(scores.shape)}; "
            f"accepted: {tuple(scores.shape[:-1])}"
        )


def check_class_weights(values: Tensor | None, classes: int, label_smoothing: float, scores: Tensor) -> None:
    """Refuse class weights that do not fit, and those beside label smoothing."""
    if values is None:
        return
    checks.floating("class_weights", values)
    if values.shape != (classes,):
        raise ValueError(f"class_weights has shape {tuple(values.shape)}; accepted: ({classes},)")
    checks.same_device("class_weights", values, "the logits or hidden states", scores)
    if label_smoothing:
        raise ValueError(
            "class_weights came with label_smoothing: whether the smoothed share of a class takes its weight is "
            "read in two ways, so neither is computed; use one of the two"
        )


def shard(
    vocab_range: tuple[int, int] | None,
    group: ProcessGroup | None,
    weight: Tensor,
    label_smoothing: float,
    class_weights: Tensor | None,
    describes_tokens: bool,
) -> Shard | None:
    """This rank's part of the vocabulary; None where the head is whole."""
    if vocab_range is None:
        if group is not None:
            raise ValueError(
                "group came without vocab_range; pass the classes that weight holds on this rank"
            )
        return None
    refused = {
        "label_smoothing": label_smoothing != 0,
        "class_weights": class_weights is not None,
        "an entropy or token_gradients": describes_tokens,
        "torch.compile": torch.compiler.is_compiling(),
    }
    for name, present in refused.items():
        if present:
            raise NotImplementedError(
                f"vocab_range came with {name}; that is not supported for a sharded head"
            )
    start, stop = vocab_range
    if not 0 <= start < stop or stop - start != weight.shape[0]:
        raise ValueError(
            f"vocab_range is ({start}, {stop}), but weight has shape {tuple(weight.shape)}; "
            f"accepted: (start, start + {weight.shape[0]})"
        )
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        raise RuntimeError("vocab_range needs torch.distributed; call init_process_group first")
    return Shard(start, stop, group)


def token_outputs(names: Sequence[str], token_gradients: bool) -> bool:
    """Whether entropies are wanted; refuse names that are not outputs, and gradients of none."""
    if isinstance(names, str):
        raise ValueError(f"token_outputs is {names!r}, a string; accepted: a sequence of names, ({names!r},)")
    for name in names:
        if name not in TOKEN_OUTPUTS:
            raise ValueError(
                f"token_outputs holds {name!r}; accepted are {', '.join(map(repr, TOKEN_OUTPUTS))}"
            )
    if token_gradients and not names:
        raise ValueError("token_gradients came without token_outputs; name those whose gradients are wanted")
    return "entropy" in names


def row_weights(
    made: Plan,
    task_weights: Tensor | Sequence[float] | None,
    planned_here: bool,
    class_weights: Tensor | None = None,
) -> Tensor | None:
    """Weight of each row; ``None`` where all are 1."""
    if (
        task_weights is None
        and made.task_weights is None
        and made.token_weights is None
        and class_weights is None
    ):
        return None
    by_class = None if class_weights is None else checks.legal_weights("class_weights", class_weights)
    if task_weights is None or planned_here:
        return made.row_weights(None, by_class)
    return made.row_weights(
        checks.legal_weights("task_weights", checks.task_table(task_weights, made.num_tasks)), by_class
    )


def scalar(value: Tensor | float | None, device: torch.device) -> Tensor | None:
    if value is None:
        return None
    if isinstance(value, Tensor):
        return checks.moved(value.detach().reshape(()).to(torch.float64), device)
    return torch.full((), value, dtype=torch.float64, device=device)


def check_normalizer(value: Tensor | float | None, made: Plan, row_weights: Tensor | None) -> None:
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


def budget(given: int | None, device: torch.device) -> int:
    return _default_budget(device) if given is None else given


def _default_budget(device: torch.device) -> int:
    if device.type != "cuda":
        return BUDGET
    # Of all memory, not of what is free: a step must not work otherwise than the one before it.
    return int(torch.cuda.get_device_properties(device).total_memory) // GPU_SHARE


# torch.compile asks once, outside of the graph: `torch.compiler.assume_constant_result`, which imports Triton.
_default_budget._dynamo_marked_constant = True  # type: ignore[attr-defined]


def check_runs(impl: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raise where the implementation named cannot run; the operator would, but only later."""
    if impl != AUTO and not torch.compiler.is_compiling():
        resolve(impl, device, dtype)
