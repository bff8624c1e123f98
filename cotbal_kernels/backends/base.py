"""The contract of a backend: the row pass that each must have, and what it may do better than plain PyTorch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from cotbal_kernels import reduction as reduction_module
from cotbal_kernels import statistics
from cotbal_kernels.statistics import RowStatistics


@dataclass(frozen=True, eq=False)
class RowTerms:
    """What a row pass computes beyond the nll, where a call asks for it: penalties, and numbers about each row.

    With s the row's scale, p the softmax of z and lse its logsumexp, the gradient of z is

        p_j (A + E log p_j) - B onehot_j - C        A = s (1 + 2 lse_square_scale lse) + softmax_shift
                                                    B = s (1 - label_smoothing) + target_shift
                                                    C = s label_smoothing / V        E = entropy_scale

    that is, s times the gradient of (1 - label_smoothing) nll + label_smoothing (lse - mean z) + lse_square_scale
    lse^2; and with shifts and entropy scale those of the nll, the entropy and whatever else is a function of both.

    Attributes:
        label_smoothing, lse_square_scale: as above.
        softmax_shift, target_shift, entropy_scale: [n], in the dtype of the nll; None: zeros.
        lse, mean, entropy, peak: [n], in the dtype of the nll, to be filled: logsumexp, mean and entropy
            (-sum p log p) of z, and its largest value; 0 in padding rows. None: not wanted.
    """

    label_smoothing: float = 0.0
    lse_square_scale: float = 0.0
    softmax_shift: Tensor | None = None
    target_shift: Tensor | None = None
    entropy_scale: Tensor | None = None
    lse: Tensor | None = None
    mean: Tensor | None = None
    entropy: Tensor | None = None
    peak: Tensor | None = None

    def at(self, part: slice) -> RowTerms:
        """Those of some rows; what is to be filled is filled in place."""
        vectors: dict[str, Any] = {name: value[part] for name, value in self.vectors().items()}
        return replace(self, **vectors)

    def vectors(self) -> dict[str, Tensor]:
        """What has one entry per row, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}


WRITTEN: Final = ("lse", "mean", "entropy", "peak")


class Backend(ABC):
    """What computes the rows of a loss on the devices and dtypes it knows; `registry` chooses one per call.

    A backend supplies `unavailable` and `row_pass`. The other methods have defaults in plain PyTorch that are right
    everywhere; a backend overrides those that it does faster, with the same results.

    Attributes:
        name: what to pass as `impl=`.
    """

    name: ClassVar[str]

    @abstractmethod
    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why the backend cannot run on a device with logits of a dtype; None when it can."""

    def automatic(self, device: torch.device) -> bool:
        """Whether `impl="auto"` may choose the backend where it can run."""
        del device
        return True

    @abstractmethod
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
        """Loss of each row, whether its largest logit is the target's, and the gradient of the raw logits.

        With z = logit_scale * logits, then z = softcap * tanh(z / softcap) where there is a softcap:

            nll = logsumexp(z) - z[target]
            hit = (argmax(z) == target)                      (the first of equal maxima counts)
            gradient = row_scale * logit_scale * (1 - (z / softcap)^2) * (softmax(z) - onehot(target))

        All of it is computed in f32 (f64 for f64 logits) and rounded once when it is stored.

        Args:
            logits: raw logits [M, V], any row stride, unit column stride; -inf masks a class.
            targets: i64 [n]; -1 marks a padding row: not read, nll 0, no hit, gradient 0.
            rows: i64 [n], the row of `logits` of each target (no row twice, padding apart); None: the first n.
            gradient: indexed and typed like `logits` (and may be `logits`); only the visited rows are written.
            row_scale: [n]; None: ones.
            terms: what else is in the gradient or wanted; None: nothing, at no cost.

        Returns:
            nll [n] in f32 (f64 for f64 logits), and hits, bool [n].
        """

    def full_row_pass(
        self,
        logits: Tensor,
        rows: Tensor,
        targets: Tensor,
        gradient: Tensor,
        *,
        row_scale: Tensor | None = None,
        logit_scale: float = 1.0,
        softcap: float | None = None,
        terms: RowTerms | None = None,
    ) -> tuple[Tensor, Tensor]:
        """A row pass that writes **every** row of the gradient [M, V], with zeros where no target is.

        Args:
            rows: i64 [R], ascending; padding rows point at rows without a target.
            targets: i64 [R].

        Returns:
            nll [R] and hits [R], as `row_pass`.
        """
        return self.row_pass(
            logits,
            targets,
            rows=rows,
            gradient=gradient.zero_(),
            row_scale=row_scale,
            logit_scale=logit_scale,
            softcap=softcap,
            terms=terms,
        )

    def gather_rows(
        self,
        source: Tensor,
        rows: Tensor,
        targets: Tensor,
        row_scale: Tensor | None,
        dtype: torch.dtype,
        padded: bool,
    ) -> Tensor:
        """`row_scale * source[rows]` [R, H] in `dtype`; zeros in padding rows (target -1)."""
        found = source.index_select(0, rows)
        if padded:
            # Padding points at some unsupervised position; an infinity there must not reach the products.
            found.masked_fill_((targets < 0).unsqueeze(1), 0)
        found = found.to(dtype)
        return found if row_scale is None else found.mul_(row_scale.unsqueeze(1))

    def scatter_rows(
        self,
        source: Tensor,
        rows: Tensor,
        targets: Tensor,
        row_scale: Tensor | None,
        positions: int,
        dtype: torch.dtype,
    ) -> Tensor:
        """Zeros [positions, H] in `dtype` with `row_scale * source` at `rows`, rounded once.

        Padding rows (target -1) all point at one unsupervised position, and their `source` is 0.
        """
        del targets
        scaled = source if row_scale is None else source * row_scale.unsqueeze(1)
        out = source.new_zeros((positions, source.shape[1]), dtype=dtype)
        return out.index_copy_(0, rows, scaled.to(dtype))

    def row_statistics(
        self,
        nll: Tensor,
        hits: Tensor,
        targets: Tensor,
        tasks: Tensor,
        samples: Tensor,
        row_weights: Tensor | None,
        given: Tensor | None,
        num_tasks: int,
        num_samples: int,
        reduction: str,
        losses: Tensor | None = None,
    ) -> RowStatistics:
        """All sums of one call; see `cotbal_kernels.statistics.row_statistics`."""
        return statistics.row_statistics(
            nll, hits, targets, tasks, samples, row_weights, given, num_tasks, num_samples, reduction, losses
        )

    def row_scale(
        self,
        upstream: Tensor | None,
        rows: Tensor,
        row_weights: Tensor | None,
        normalizer: Tensor,
        reduction: str,
        dtype: torch.dtype,
    ) -> Tensor:
        """Each row's factor of its gradient; see `cotbal_kernels.reduction.row_scale`."""
        return reduction_module.row_scale(upstream, rows, row_weights, normalizer, reduction, dtype)

    def rescale_(self, values: Tensor, factor: Tensor) -> Tensor:
        """`values *= factor` in place, factor being one number on the same device."""
        return values.mul_(factor)
