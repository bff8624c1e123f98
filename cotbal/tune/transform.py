"""Find out from a forward pass what a model does to its logits between the output head and the loss.

The same config field means different things in different model families and versions (Granite divides by
`logits_scaling`, Cohere multiplies by `logit_scale`, PaliGemma 2 caps in some versions and not in others), so the
config is not consulted. Instead the head gives known numbers to the model's own code, and what reaches the loss
shows which function was applied.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import cotbal_kernels as ck

# So small that a cap is almost linear there, and so large that any cap saturates; both are powers of two.
_SMALL, _LARGE = 2.0**-13, 2.0**20
_LEVELS = (_SMALL, 0.0, -0.5, 3.0, -20.0, 45.0, -300.0, _LARGE)


@dataclass(frozen=True)
class LogitTransform:
    """`z = logit_scale * logits`, then `softcap * tanh(z / softcap)` if there is a cap.

    >>> LogitTransform(0.5).apply(torch.tensor([4.0]))
    tensor([2.])
    """

    logit_scale: float = 1.0
    softcap: float | None = None

    def apply(self, logits: Tensor) -> Tensor:
        """Return the transformed logits, of the same shape and dtype."""
        scaled = logits * self.logit_scale
        return scaled if self.softcap is None else self.softcap * torch.tanh(scaled / self.softcap)

    def slope(self, logits: Tensor) -> Tensor | float:
        """Return the derivative of `apply`, of the same shape and dtype, or one number for all.

        >>> LogitTransform(0.5).slope(torch.tensor([4.0]))
        0.5
        """
        if self.softcap is None:
            return self.logit_scale
        return self.logit_scale * (1 - torch.tanh(logits * self.logit_scale / self.softcap) ** 2)


def probe_logits(vocabulary: int, device: torch.device) -> Tensor:
    """Return known logits of widely different size, [1, 8, V]; every column has every level once."""
    dtype = torch.float32 if device.type == "mps" else torch.float64
    levels = torch.tensor(_LEVELS, dtype=dtype, device=device)
    count = len(_LEVELS)
    order = torch.arange(count, device=device)[:, None] + torch.arange(vocabulary, device=device)[None, :]
    return levels[order % count].unsqueeze(0)


def identify_transform(raw: Tensor, seen: Tensor, family: str) -> LogitTransform:
    """Return the transform that turns `raw`, the head's output, into `seen`, the loss's input.

    Args:
        raw: the logits of `probe_logits`.
        seen: the model's transformed version of them.
        family: a name for the error message.

    Raises:
        ValueError: `seen` is not `raw` with a scale and then a softcap.

    >>> raw = probe_logits(16, torch.device("cpu"))
    >>> identify_transform(raw, 30 * torch.tanh(raw / 30), "Gemma")
    LogitTransform(logit_scale=1.0, softcap=30.0)
    """
    if seen.shape != raw.shape:
        raise ValueError(
            f"{family} changes the shape of its logits from {tuple(raw.shape)} to {tuple(seen.shape)} before the "
            "loss; the fused loss cannot reproduce that. Train this model with its stock loss"
        )
    seen = seen.detach().to(raw.dtype)
    slope = float((seen[raw == _SMALL] / _SMALL).median())
    top = float(seen[raw == _LARGE].median())
    softcap = _tidy(top) if 0 < top < 0.5 * slope * _LARGE else None
    if softcap is not None and slope * _SMALL < softcap:
        slope = softcap * math.atanh(slope * _SMALL / softcap) / _SMALL
    scale = _tidy(slope)
    found = LogitTransform(scale, softcap)
    expected = found.apply(raw)
    deviation = (seen - expected).abs() / expected.abs().clamp_min(_SMALL)
    worst = float(deviation.nan_to_num(nan=torch.inf).max())
    if not (scale > 0 and worst <= 1e-5):
        raise ValueError(
            f"{family} changes its logits between the head and the loss in an unknown way (closest: scale {scale:g}, "
            f"softcap {softcap}, relative deviation {worst:.1e}); a positive scale and a softcap are supported. "
            "Train this model with its stock loss"
        )
    return found


def check_loss_convention(
    stock_loss: Callable[..., Tensor], vocabulary: int, device: torch.device, family: str
) -> None:
    """Confirm that the model's loss function is the mean next-token cross-entropy over labels that are not -100.

    Raises:
        ValueError: it gives another number for six made-up positions.
    """
    steps = torch.arange(6 * vocabulary, dtype=torch.float32, device=device).view(1, 6, vocabulary)
    logits = 3.0 * torch.sin(steps * 1.7)
    labels = torch.tensor([[1, 0, -100, vocabulary - 1, 1, -100]], device=device)
    stock = float(stock_loss(logits=logits, labels=labels, vocab_size=vocabulary))
    ours = float(ck.cross_entropy(logits, labels, shift=True).loss)
    if not abs(stock - ours) <= 1e-5 * abs(ours):
        raise ValueError(
            f"the loss function of {family} is not the mean next-token cross-entropy (it gives {stock:.7g} instead "
            f"of {ours:.7g}); the task-weighted loss would train something else. Reset model.loss_function"
        )


def _tidy(value: float) -> float:
    """Return `value` without the last digits that float64 rounding adds, so that 1 is exactly 1."""
    short = float(f"{value:.9g}")
    return short if abs(short - value) <= 1e-14 * abs(value) else value
