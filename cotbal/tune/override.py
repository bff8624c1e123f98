"""What is changed on a model for the length of one forward, and put back after it whatever happens."""

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


@contextmanager
def replaced_head_and_loss(
    model: Any, on_head: Callable[[nn.Module, Tensor], Tensor], on_loss: Callable[..., Any]
) -> Iterator[list[Tensor]]:
    """`on_head` in place of the head's forward and `on_loss` in place of the loss function, for one forward.

    The head is looked up at every call: peft may have wrapped or copied it since the last one.

    Yields:
        What the head's calls returned, after all hooks on it: DeepSpeed's put a function around the output whose
        backward gathers the head again, so the loss must be taken from there.
    """
    head = leaf_head(model.get_output_embeddings())
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
    """The dtype that autocast would compute the head in; autocast itself is off inside."""
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    with torch.autocast(kind, enabled=False):
        yield dtype


@contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def kept_random_state(device: torch.device) -> Iterator[None]:
    """A resumed training looks at the transform again, and must draw the same dropout afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
