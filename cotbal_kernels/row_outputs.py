"""What a row pass gives for each row, allocated for a whole call and filled part by part."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cotbal_kernels.backends.base import RowTerms
from cotbal_kernels.call import (
    LinearBackwardCall,
    LinearCall,
    LogitsBackwardCall,
    LogitsCall,
    compute_dtype,
    has_penalties,
)


class RowOutputs(NamedTuple):
    """Of each row [R]; losses are the nll with its penalties.

    Attributes:
        losses: None where there are no penalties: then they are the nll.
        entropy: None where it is not wanted.
    """

    nll: Tensor
    losses: Tensor | None
    entropy: Tensor | None

    @property
    def minimised(self) -> Tensor:
        """What the loss sums up."""
        return self.nll if self.losses is None else self.losses

    def returned(self) -> tuple[Tensor, Tensor, Tensor]:
        """As an operator returns them: an empty tensor of its own for what is not there."""
        return (
            self.nll,
            self.nll.new_empty(0) if self.losses is None else self.losses,
            self.nll.new_empty(0) if self.entropy is None else self.entropy,
        )


def row_outputs(nll: Tensor, terms: RowTerms | None) -> RowOutputs:
    """From what a row pass has filled; in padding rows all of it is 0."""
    if terms is None:
        return RowOutputs(nll, None, None)
    losses: Tensor | None = None
    if terms.lse is not None:
        losses = nll * (1 - terms.label_smoothing)
        if terms.mean is not None:
            losses = losses + terms.label_smoothing * (terms.lse - terms.mean)
        if terms.lse_square_scale:
            losses = losses + terms.lse_square_scale * terms.lse.square()
    return RowOutputs(nll, losses, terms.entropy)


def forward_terms(call: LinearCall | LogitsCall, like: Tensor) -> RowTerms | None:
    """What the forward pass asks of the row pass, for all rows of the call."""
    if not has_penalties(call) and not call.wants_entropy:
        return None
    count, dtype = call.targets.shape[0], compute_dtype(like.dtype)

    def vector(wanted: bool) -> Tensor | None:
        return torch.empty(count, dtype=dtype, device=like.device) if wanted else None

    return RowTerms(
        call.label_smoothing,
        call.lse_square_scale,
        lse=vector(has_penalties(call)),
        mean=vector(call.label_smoothing != 0),
        entropy=vector(call.wants_entropy),
    )


def backward_terms(call: LinearBackwardCall | LogitsBackwardCall) -> RowTerms | None:
    """What the backward pass asks of the row pass: the penalties' gradients, and those of nll and entropy."""
    if not has_penalties(call) and call.nll_upstream is None and call.entropy_upstream is None:
        return None
    softmax_shift, entropy_scale = call.nll_upstream, None
    if call.entropy_upstream is not None and call.entropy is not None:
        # dH/dz_j = -p_j (log p_j + H)
        entropy_scale = -call.entropy_upstream
        shift = entropy_scale * call.entropy
        softmax_shift = shift if softmax_shift is None else softmax_shift + shift
    return RowTerms(
        call.label_smoothing,
        call.lse_square_scale,
        softmax_shift=softmax_shift,
        target_shift=call.nll_upstream,
        entropy_scale=entropy_scale,
    )
