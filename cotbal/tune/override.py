"""Changes to a model that last for one forward and are always undone afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from cotbal.tune.effective_weight import check_untouched, leaf_head

BYPASSES = (
    "Liger's patches (use_liger_kernel), TRL's loss_type='chunked_nll', or another patch of the model's "
    "forward"
)


def output_head(model: Any, name: str | None) -> Any:
    """The output head of a model: the module of that name, else the one that its family names; None if neither."""
    if name is not None:
        return model.get_submodule(name)
    return getattr(model, "get_output_embeddings", lambda: None)()


@contextmanager
def replaced_head_and_loss(
    model: Any,
    on_head: Callable[[nn.Module, Tensor], Tensor],
    on_loss: Callable[..., Any],
    head_name: str | None = None,
) -> Iterator[list[Tensor]]:
    """Replace the head's forward by `on_head` and the loss function by `on_loss`, for one forward.

    The head is looked up at every call, because peft may have wrapped or copied it since the last one.

    Yields:
        What the head's calls returned, after all of its hooks. DeepSpeed's hook wraps the output in a function whose
        backward gathers the head again, so the loss must be taken from there.
    """
    head = leaf_head(output_head(model, head_name))
    check_untouched(head)
    earlier = head.__dict__.get("forward")
    returned: list[Tensor] = []
    head.forward = MethodType(on_head, head)
    hook = head.register_forward_hook(lambda module, inputs, output: returned.append(output))
    try:
        with replaced_loss(model, on_loss):
            yield returned
    finally:
        hook.remove()
        del head.forward
        if earlier is not None:
            head.forward = earlier


@contextmanager
def replaced_loss(model: Any, on_loss: Callable[..., Any]) -> Iterator[None]:
    earlier = model.__dict__.get("_loss_function")
    model._loss_function = on_loss
    try:
        yield
    finally:
        del model._loss_function
        if earlier is not None:
            model._loss_function = earlier


@contextmanager
def local_precision(hidden: Tensor) -> Iterator[torch.dtype]:
    """Yield the dtype in which autocast would compute the head; autocast itself is off inside."""
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    with torch.autocast(kind, enabled=False):
        yield dtype


@contextmanager
def held_still(model: nn.Module) -> Iterator[None]:
    """In the block no forward changes the model: dropout and normalisation over the batch are off.

    The rest stays in training mode. In evaluation mode, a forward without gradients is taken for inference:
    bitsandbytes then repacks its 4-bit layers on CPUs for good, and their gradients are wrong from there on.
    """
    kinds = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
    still = [module for module in model.modules() if module.training and isinstance(module, kinds)]
    for module in still:
        module.training = False
    try:
        yield
    finally:
        for module in still:
            module.training = True


@contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """In the block the model is in evaluation mode, in which attention drops nothing either."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def kept_random_state(device: torch.device) -> Iterator[None]:
    """Restore the random state: a resumed training finds the transform again, and must then draw the same dropout."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
