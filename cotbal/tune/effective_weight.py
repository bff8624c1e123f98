"""Write what an output head really computes, adapters included, as one product for the fused loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor


@dataclass(frozen=True)
class HeadProduct:
    """The product `logits = hidden @ weight.T + bias`, differentiable in every trainable part of the head.

    Attributes:
        hidden: [..., K]; K is the model's hidden size, plus the ranks of the head's adapters.
        weight: [V, K].
        bias: [V] or None.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None


def leaf_head(head: nn.Module) -> nn.Module:
    """Return the module that multiplies: `head`, or the copy that PEFT's `modules_to_save` trains instead."""
    if type(head).__name__ != "ModulesToSaveWrapper":
        return head
    wrapper: Any = head
    active = wrapper.active_adapters
    if wrapper.disable_adapters or not active or active[0] not in wrapper.modules_to_save:
        return leaf_head(wrapper.original_module)
    return leaf_head(wrapper.modules_to_save[active[0]])


def check_untouched(head: nn.Module) -> None:
    """Raise a ValueError if the head instance's forward was replaced, which the fused loss would bypass."""
    # accelerate's device hooks only move the input, which the caller does too.
    if "forward" in head.__dict__ and not hasattr(head, "_hf_hook"):
        raise ValueError(
            f"the forward of the output head ({_name(head)}) was replaced on the instance by "
            f"{head.__dict__['forward']!r}; the fused loss would bypass it. Undo that patch"
        )
    if _is_lora(head):
        check_untouched(head.base_layer)  # type: ignore[arg-type]


def head_product(head: nn.Module, hidden: Tensor) -> HeadProduct:
    """Write the output of `head` on `hidden` as one product that the fused loss can compute.

    A plain linear layer is `x W' + b`. LoRA adds `s B A drop(x)` and is folded in by widening both factors,
    `[x, drop(x) A'] @ [W, s B]'`, so adapter dropout stays exact. DoRA scales the rows of both by
    `m / |W + s B A|` (arXiv 2402.09353, section 4.3; the norm is detached, as PEFT does).

    Args:
        head: the leaf head, see `leaf_head`.
        hidden: [..., H].

    Raises:
        ValueError: the head is quantised, sharded by tensor parallelism, offloaded or of another class, or has an
            adapter other than LoRA and DoRA.
    """
    if isinstance(head, nn.Linear) and type(head).forward is nn.Linear.forward:
        return HeadProduct(hidden, _dense(head.weight), head.bias)
    if _is_lora(head):
        return _lora_product(head, hidden)
    raise ValueError(
        f"the output head is a {_name(head)}, whose logits cannot be computed inside the fused loss; accepted: "
        "torch.nn.Linear, alone or with LoRA, DoRA or modules_to_save of peft. Leave the head out of "
        "target_modules, or load it unquantised (llm_int8_skip_modules=['lm_head'] for bitsandbytes)"
    )


def _lora_product(layer: Any, hidden: Tensor) -> HeadProduct:
    base = head_product(layer.base_layer, hidden)
    if layer.disable_adapters or layer.merged:
        if layer.disable_adapters and layer.merged:
            layer.unmerge()
            base = head_product(layer.base_layer, hidden)
        return base
    adapters = [name for name in layer.active_adapters if name in layer.lora_A]
    variants = {name: layer.lora_variant[name] for name in adapters if name in layer.lora_variant}
    if variants:
        kinds = sorted({_variant_name(variant) for variant in variants.values()})
        if kinds != ["DoraLinearVariant"]:
            raise ValueError(
                f"the output head carries the LoRA variant {', '.join(kinds)}; accepted on the head: LoRA and "
                "DoRA. Leave the head out of target_modules"
            )
        if len(adapters) > 1:
            raise ValueError(
                f"the output head has {len(adapters)} active adapters ({', '.join(adapters)}), one of them DoRA; "
                "DoRA on the head is accepted alone. Activate one adapter with set_adapter"
            )
        return _dora_product(layer, adapters[0], base)
    columns, inputs, bias = [base.weight], [base.hidden], base.bias
    for name in adapters:
        down, up, scaling = layer.lora_A[name], layer.lora_B[name], layer.scaling[name]
        dropped = layer.lora_dropout[name](hidden)
        inputs.append(down(dropped.to(down.weight.dtype)).to(hidden.dtype))
        columns.append((up.weight * scaling).to(base.weight.dtype))
        if up.bias is not None:
            extra = up.bias * scaling
            bias = extra if bias is None else bias + extra
    return HeadProduct(torch.cat(inputs, dim=-1), torch.cat(columns, dim=-1), bias)


def _dora_product(layer: Any, name: str, base: HeadProduct) -> HeadProduct:
    down, up, scaling = layer.lora_A[name], layer.lora_B[name], layer.scaling[name]
    magnitude = layer.lora_magnitude_vector[name]
    product = (up.weight @ down.weight).detach().to(base.weight.dtype)
    norm = magnitude.get_weight_norm(base.weight, product, scaling).detach()
    rows = (magnitude.weight / norm).view(-1, 1).to(base.weight.dtype)
    dropped = layer.lora_dropout[name](base.hidden)
    low = down(dropped.to(down.weight.dtype)).to(base.hidden.dtype)
    up_rows = rows * (up.weight * scaling).to(base.weight.dtype)
    if dropped is base.hidden:
        return HeadProduct(
            torch.cat([base.hidden, low], dim=-1),
            torch.cat([rows * base.weight, up_rows], dim=-1),
            base.bias,
        )
    # With adapter dropout, only the correction (rows - 1) W sees the dropped input.
    return HeadProduct(
        torch.cat([base.hidden, dropped, low], dim=-1),
        torch.cat([base.weight, (rows - 1) * base.weight, up_rows], dim=-1),
        base.bias,
    )


def _is_lora(head: nn.Module) -> bool:
    kind = next((base for base in type(head).__mro__ if base.__module__ == "peft.tuners.lora.layer"), None)
    return kind is not None and kind.__name__ == "Linear"


def _variant_name(variant: Any) -> str:
    return variant.__name__ if isinstance(variant, type) else type(variant).__name__


def _dense(weight: Tensor) -> Tensor:
    # Tensors without data stand in for plain ones where memory is estimated.
    if type(weight) not in (Tensor, nn.Parameter, FakeTensor) or not weight.is_floating_point():
        kind = type(weight).__name__
        hint = (
            "tensor parallelism on the head is not supported" if kind == "DTensor" else "load it unquantised"
        )
        raise ValueError(
            f"the output head's weight is a {kind} of {weight.dtype}; a plain floating-point tensor is needed: {hint}"
        )
    if weight.device.type == "meta" or weight.dim() != 2:
        raise ValueError(
            f"the output head's weight has shape {tuple(weight.shape)} on device {weight.device}; a [V, H] tensor "
            "in memory is needed: do not offload the head, and let the sharding engine gather it around its forward"
        )
    return weight


def _name(module: nn.Module) -> str:
    kind = type(module)
    return f"{kind.__module__}.{kind.__qualname__}"
