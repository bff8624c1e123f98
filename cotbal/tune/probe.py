"""Find out with one forward what a model does to its logits between the head and the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cotbal.tune.effective_weight import head_product
from cotbal.tune.override import BYPASSES, held_still, kept_random_state, replaced_head_and_loss
from cotbal.tune.transform import LogitTransform, check_loss_convention, identify_transform, probe_logits


def find_transform(
    model: Any, forward: Callable[..., Any], inputs: Mapping[str, Any], head_name: str | None = None
) -> LogitTransform:
    """Run one more forward on the first batch, with known logits at the head.

    It runs without gradients or dropout, yet in training mode; see `held_still`.

    Every rank does this at its first training forward, so sharding engines gather as usual.
    """
    family = type(model).__name__
    stock_loss = model.loss_function
    device = next(model.parameters()).device
    raw: list[Tensor] = []
    seen: list[Tensor] = []

    def probe(head: nn.Module, hidden: Tensor) -> Tensor:
        vocabulary = head_product(head, hidden).weight.shape[0]
        raw.append(probe_logits(vocabulary, hidden.device))
        return raw[-1].clone()

    def capture(*args: Any, **kwargs: Any) -> Tensor:
        seen.append(kwargs["logits"] if "logits" in kwargs else args[0])
        return torch.zeros((), device=seen[-1].device)

    with torch.no_grad(), held_still(model), kept_random_state(device):
        try:
            with replaced_head_and_loss(model, probe, capture, head_name):
                forward(**inputs)
        except Exception as error:
            if not raw or seen:
                raise
            raise ValueError(_no_loss_function(family)) from error
        if not raw:
            raise ValueError(
                f"the forward of {family} did not call its output head; the task weights cannot act. "
                f"Something bypasses it: {BYPASSES}"
            )
        if not seen:
            raise ValueError(_no_loss_function(family))
        found = identify_transform(raw[0], seen[0], family)
        check_loss_convention(stock_loss, raw[0].shape[-1], raw[0].device, family)
    return found


def _no_loss_function(family: str) -> str:
    return (
        f"{family} does not compute its loss from the head's logits with model.loss_function; the task-weighted "
        f"loss cannot take its place. A newer transformers may do so. Otherwise something bypasses it: {BYPASSES}"
    )
