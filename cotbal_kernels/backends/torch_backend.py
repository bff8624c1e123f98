"""The row pass in plain PyTorch: runs everywhere, and is the ground the compiled ones are held to."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from cotbal_kernels.backends.base import Backend, RowTerms

_DTYPES: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Logits in one block: 4 MiB of f32 stays in a CPU's last-level cache; a GPU wants larger launches.
_BLOCK: Final = {"cpu": 2**20}
_DEVICE_BLOCK: Final = 2**26


class TorchBackend(Backend):
    """Plain PyTorch on any device; see `Backend` for what each method owes."""

    name = "torch"

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        return None if dtype in _DTYPES else f"it takes {', '.join(map(str, _DTYPES))}"

    def row_pass(
        self,
        logits: Tensor,
        targets: Tensor,
        *,
        rows: Tensor | None = None,
        gradient: Tensor | None = None,
        row_scale: Tensor | None = None,
        logit_scale: float = 1.0,
        softcap: float | None = None,
        terms: RowTerms | None = None,
    ) -> tuple[Tensor, Tensor]:
        compute = torch.float64 if logits.dtype == torch.float64 else torch.float32
        count, classes = targets.shape[0], logits.shape[1]
        nll = torch.empty(count, dtype=compute, device=logits.device)
        hits = torch.empty(count, dtype=torch.bool, device=logits.device)
        block = max(1, _BLOCK.get(logits.device.type, _DEVICE_BLOCK) // max(1, classes))
        in_place = (
            rows is None and logits.dtype == compute and gradient is not None and _same(gradient, logits)
        )
        scale = None if row_scale is None else row_scale.to(compute)
        if logit_scale != 1.0 and terms is None:
            scale = logit_scale * (torch.ones_like(nll) if scale is None else scale)
        for start in range(0, count, block):
            part = slice(start, min(start + block, count))
            picked: slice | Tensor = part if rows is None else rows[part]
            work = logits[picked] if in_place else logits[picked].to(compute, copy=rows is None)
            slope = _transform_(work, logit_scale, softcap, gradient is not None)
            wanted = None if terms is None else terms.at(part)
            largest, total, nll[part], hits[part] = _exponentials_(work, targets[part], wanted)
            if gradient is not None:
                part_scale = torch.ones_like(total) if scale is None else scale[part]
                if wanted is None:
                    _gradient_(work, total, targets[part], part_scale)
                else:
                    _gradient_with_terms_(work, largest, total, targets[part], part_scale, wanted)
                if slope is not None:
                    work.mul_(slope)
                if logit_scale != 1.0 and terms is not None:
                    work.mul_(logit_scale)
                _clear_padding_(work, targets[part])
                if not in_place:
                    gradient[picked] = work.to(gradient.dtype)
        return nll, hits


BACKEND: Final = TorchBackend()


def _same(one: Tensor, other: Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and one.stride() == other.stride() and one.dtype == other.dtype


def _transform_(
    logits: Tensor, logit_scale: float, softcap: float | None, wants_slope: bool
) -> Tensor | None:
    """Apply scale and softcap in place; return the softcap's derivative where it is wanted."""
    if logit_scale != 1.0:
        logits.mul_(logit_scale)
    if softcap is None:
        return None
    tanh = logits.div_(softcap).tanh_()
    slope = 1 - tanh.square() if wants_slope else None
    tanh.mul_(softcap)
    return slope


def _exponentials_(
    logits: Tensor, targets: Tensor, terms: RowTerms | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Turn logits into exp(logit - largest) in place; return each row's largest, the sum of them, nll and hit.

    Fills what `terms` wants to know.
    """
    real = targets >= 0
    chosen = logits.gather(1, targets.clamp_min(0).unsqueeze(1))
    largest = logits.amax(1, keepdim=True)
    hits = _first_among_equals(logits, (chosen == largest).squeeze(1) & real, targets)
    if terms is not None and terms.mean is not None:
        terms.mean.copy_(torch.where(real, logits.mean(1), 0))
    total = logits.sub_(largest).exp_().sum(1)
    nll = (largest - chosen).squeeze(1) + total.log()
    if terms is not None:
        _describe(logits, largest.squeeze(1), total, real, terms)
    return largest.squeeze(1), total, torch.where(real, nll, 0), hits


def _describe(exponentials: Tensor, largest: Tensor, total: Tensor, real: Tensor, terms: RowTerms) -> None:
    """Fill logsumexp, entropy and the largest logit of each row."""
    if terms.lse is not None:
        terms.lse.copy_(torch.where(real, largest + total.log(), 0))
    if terms.peak is not None:
        terms.peak.copy_(torch.where(real, largest, 0))
    if terms.entropy is not None:
        # log S - (sum of e log e) / S; xlogy makes 0 log 0 = 0.
        moment = torch.special.xlogy(exponentials, exponentials).sum(1)
        terms.entropy.copy_(torch.where(real, total.log() - moment / total, 0))


def _first_among_equals(logits: Tensor, candidates: Tensor, targets: Tensor) -> Tensor:
    """Of the rows whose target has the largest logit, those where no earlier class has it too."""
    if logits.device.type != "cpu":
        return candidates & (logits.argmax(1) == targets)
    # An argmax costs as much as the exponentials, so only the candidates get one.
    which = candidates.nonzero().squeeze(1)
    if which.numel():
        candidates[which] = logits[which].argmax(1) == targets[which]
    return candidates


def _gradient_(exponentials: Tensor, total: Tensor, targets: Tensor, scale: Tensor) -> None:
    """Turn exponentials into scale * (softmax - onehot) in place."""
    exponentials.mul_((scale / total).unsqueeze(1))
    exponentials.scatter_add_(1, targets.clamp_min(0).unsqueeze(1), -scale.unsqueeze(1))


def _gradient_with_terms_(
    exponentials: Tensor, largest: Tensor, total: Tensor, targets: Tensor, scale: Tensor, terms: RowTerms
) -> None:
    """Turn exponentials into the gradient of z in place; see `RowTerms`."""
    softmax_scale, target_scale = scale, scale * (1 - terms.label_smoothing)
    if terms.lse_square_scale:
        softmax_scale = scale * (1 + 2 * terms.lse_square_scale * (largest + total.log()))
    if terms.softmax_shift is not None:
        softmax_scale = softmax_scale + terms.softmax_shift
    if terms.target_shift is not None:
        target_scale = target_scale + terms.target_shift
    exponentials.div_(total.unsqueeze(1))
    surprise = None if terms.entropy_scale is None else torch.special.xlogy(exponentials, exponentials)
    exponentials.mul_(softmax_scale.unsqueeze(1))
    if surprise is not None and terms.entropy_scale is not None:
        exponentials.addcmul_(surprise, terms.entropy_scale.unsqueeze(1))
    if terms.label_smoothing:
        exponentials.sub_((scale * (terms.label_smoothing / exponentials.shape[1])).unsqueeze(1))
    exponentials.scatter_add_(1, targets.clamp_min(0).unsqueeze(1), -target_scale.unsqueeze(1))


def _clear_padding_(gradient: Tensor, targets: Tensor) -> None:
    real = targets >= 0
    if gradient.device.type != "cpu" or not bool(real.all()):
        gradient.masked_fill_(~real.unsqueeze(1), 0)
