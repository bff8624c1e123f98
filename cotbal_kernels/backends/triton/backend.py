"""The Triton row pass for GPUs, with the kernels around it: statistics, gather, scatter and rescaling.

What to expect of the row pass. It moves every logit from memory once and its gradient to memory once, so its floor
is 4 bytes a 16-bit logit (8 an f32 one) at the device's copy bandwidth. Up to 65536 16-bit columns (32768 f32 ones)
the row stays in registers between its two passes and the floor is what the kernel is built for; a longer row's
remainder is read a second time, from L2 as long as the remainders in flight fit there (see `configs`), from
memory (up to 6 bytes a logit) where they do not. Without a gradient it is 2 bytes.

Everything is asynchronous and without a synchronisation, runs on the device and current stream of its tensors,
and can be captured in a CUDA graph once it has run outside of one (Triton compiles at the first call of a kind).
Triton is imported when the first question is asked, not with this module. With ``TRITON_INTERPRET=1`` set before
that, the same kernels run under Triton's interpreter on CPU tensors, where `impl="triton"` names them: slowly, but
with a GPU's roundings (see `interpreter`). It needs NumPy.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from types import ModuleType
from typing import Any, Final

import torch
from torch import Tensor

from cotbal_kernels.backends.base import WRITTEN, Backend, RowTerms
from cotbal_kernels.backends.triton import checks, configs, row_terms
from cotbal_kernels.backends.triton.configs import RowConfig
from cotbal_kernels.statistics import RowStatistics

_LEAST_CAPABILITY: Final = (8, 0)


class TritonBackend(Backend):
    """The Triton kernels on GPUs (and interpreted on CPU tensors, where asked for by name)."""

    name = "triton"

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        if dtype not in checks.DTYPES:
            return f"the Triton kernels take bfloat16, float16 and float32, not {dtype}"
        try:
            import triton
        except ImportError as error:
            return f"Triton is not installed ({error}); install cotbal[gpu]"
        if device.type == "cpu":
            if not triton.knobs.runtime.interpret:
                return "the Triton kernels run on GPUs, not on cpu"
            from cotbal_kernels.backends.triton import interpreter

            interpreter.mend()
            return None
        if device.type != "cuda":
            return f"the Triton kernels run on cuda devices, not on {device.type}"
        if not torch.cuda.is_available():
            return "torch finds no GPU here"
        if torch.version.hip is None and torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
            major, minor = torch.cuda.get_device_capability(device)
            return f"the Triton kernels need compute capability 8.0, {device} has {major}.{minor}"
        return None

    def automatic(self, device: torch.device) -> bool:
        """Never for the interpreter on a CPU."""
        return device.type == "cuda"

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
        config: RowConfig | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `Backend.row_pass`; one launch.

        Args:
            config: how to launch; None: what `configs.row_config` says.

        Raises:
            ValueError: a shape, stride, dtype or device that the kernel would misread; or an **earlier** call on
                this device met a target of V or more (or below -1). Such a row gets nll NaN and gradient 0 and
                nothing is written out of bounds; the kernel notes it in host memory, and the next row pass
                raises, or `raise_label_errors`.
        """
        checks.row_pass(logits, targets, rows, gradient, row_scale)
        device = logits.device
        raise_label_errors(device)
        count, columns = targets.shape[0], logits.shape[1]
        nll = torch.empty(count, dtype=torch.float32, device=device)
        hits = torch.empty(count, dtype=torch.bool, device=device)
        if count == 0:
            return nll, hits
        capped = softcap is not None
        if config is None:
            config = configs.row_config(
                columns,
                logits.element_size(),
                gradient=gradient is not None,
                capped=capped,
                warp_size=_warp_size(),
            )
        written = logits if gradient is None else gradient
        congruent = checks.congruent(logits, written)
        options: dict[str, Any] = {"num_warps": config.warps}
        if config.max_registers is not None and torch.version.hip is None:
            options["maxnreg"] = config.max_registers
        with _on(device):
            _row_kernel()[(count,)](
                logits,
                gradient,
                targets.contiguous(),
                None if rows is None else rows.contiguous(),
                None if row_scale is None else row_scale.to(torch.float32).contiguous(),
                nll,
                hits,
                _label_error(device),
                columns,
                logits.stride(0),
                written.stride(0),
                float(logit_scale),
                1.0 if softcap is None else float(softcap),
                0,
                *row_terms.arguments(terms),
                EDGES=not checks.aligned(logits),
                CONGRUENT=congruent,
                PACKED=congruent and _warp_size() == 64,
                SCALED=logit_scale != 1.0,
                CAPPED=capped,
                TERMS=terms is not None,
                HELD=config.held,
                STREAMED=config.streamed,
                GROUPS=config.groups,
                **options,
            )
        return nll, hits

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
        """See `Backend.full_row_pass`; the zeros are written in the same launch."""
        positions = logits.shape[0]
        everywhere = targets.new_full((positions,), -1).index_copy_(0, rows, targets)
        scale = None if row_scale is None else row_scale.new_zeros(positions).index_copy_(0, rows, row_scale)
        everything = None if terms is None else row_terms.spread(terms, rows, positions)
        nll, hits = self.row_pass(
            logits,
            everywhere,
            gradient=gradient,
            row_scale=scale,
            logit_scale=logit_scale,
            softcap=softcap,
            terms=everything,
        )
        if terms is not None and everything is not None:
            found = everything.vectors()
            for name, vector in terms.vectors().items():
                if name in WRITTEN:
                    torch.index_select(found[name], 0, rows, out=vector)
        return nll.index_select(0, rows), hits.index_select(0, rows)

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
        """See `Backend.row_statistics`; one launch, in float64 and the same bits on every run."""
        device = nll.device
        bins = num_tasks + num_samples
        loss = torch.empty((), dtype=torch.float32, device=device)
        normalizer = torch.empty((), dtype=torch.float64, device=device)
        loss_sum = torch.empty(bins, dtype=torch.float32, device=device)
        tokens, correct = torch.empty((2, bins), dtype=torch.int64, device=device).unbind(0)
        with _on(device):
            _kernels().statistics_kernel[(bins + 1,)](
                nll,
                losses,
                hits,
                targets,
                tasks,
                samples,
                None if row_weights is None else row_weights.contiguous(),
                given,
                loss,
                normalizer,
                loss_sum,
                tokens,
                correct,
                nll.shape[0],
                num_tasks,
                num_samples,
                MEAN=reduction == "mean",
                BLOCK=configs.STATISTICS_BLOCK,
                num_warps=configs.STATISTICS_WARPS,
            )
        return RowStatistics(
            loss,
            normalizer,
            loss_sum[:num_tasks],
            tokens[:num_tasks],
            correct[:num_tasks],
            loss_sum[num_tasks:],
            tokens[num_tasks:],
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
        """See `Backend.row_scale`; one launch, but for an upstream gradient per token."""
        count = rows.shape[0]
        if reduction == "none" or count == 0:
            return super().row_scale(upstream, rows, row_weights, normalizer, reduction, dtype)
        scale = torch.empty(count, dtype=torch.float32, device=rows.device)
        with _on(rows.device):
            _kernels().row_scale_kernel[(-(-count // configs.STATISTICS_BLOCK),)](
                upstream,
                normalizer,
                None if row_weights is None else row_weights.contiguous(),
                scale,
                count,
                BLOCK=configs.STATISTICS_BLOCK,
                num_warps=configs.STATISTICS_WARPS,
            )
        return scale

    def gather_rows(
        self,
        source: Tensor,
        rows: Tensor,
        targets: Tensor,
        row_scale: Tensor | None,
        dtype: torch.dtype,
        padded: bool,
    ) -> Tensor:
        """See `Backend.gather_rows`; rounded once."""
        del padded  # the kernel asks the targets
        out = torch.empty((rows.shape[0], source.shape[1]), dtype=dtype, device=source.device)
        _scale_rows(_rows_contiguous(source), rows, out, None, row_scale, targets)
        return out

    def scatter_rows(
        self,
        source: Tensor,
        rows: Tensor,
        targets: Tensor,
        row_scale: Tensor | None,
        positions: int,
        dtype: torch.dtype,
    ) -> Tensor:
        """See `Backend.scatter_rows`."""
        out = source.new_zeros((positions, source.shape[1]), dtype=dtype)
        _scale_rows(_rows_contiguous(source), None, out, rows, row_scale, targets)
        return out

    def rescale_(self, values: Tensor, factor: Tensor) -> Tensor:
        """See `Backend.rescale_`; rounded once. A factor of 1, wherever it is, costs a launch and no pass.

        Args:
            values: contiguous, any shape.
        """
        if not values.is_contiguous():
            raise ValueError(
                f"values has strides {values.stride()} for shape {tuple(values.shape)}; it must be contiguous"
            )
        size = values.numel()
        if size:
            with _on(values.device):
                _kernels().rescale_kernel[(-(-size // configs.RESCALE_BLOCK),)](
                    values,
                    factor,
                    size,
                    BLOCK=configs.RESCALE_BLOCK,
                    TILE=configs.RESCALE_TILE,
                    num_warps=configs.RESCALE_WARPS,
                )
        return values


BACKEND: Final = TritonBackend()


def raise_label_errors(device: torch.device) -> None:
    """Raise if a row pass that has finished on `device` met a target outside the vocabulary; no synchronisation.

    Call `torch.cuda.synchronize` before to be sure of everything launched so far.

    Raises:
        ValueError: naming the row and the target; once for each time it is noticed.
    """
    noted = _label_error(device)
    word = int(noted)
    if word == 0:
        return
    noted.zero_()
    slot, target = (word >> 32) - 1, word & 0xFFFFFFFF
    target -= (target >> 31) << 32
    raise ValueError(
        f"targets[{slot}] was {target} in an earlier loss on {device}, outside the vocabulary; its row got "
        "nll NaN and gradient 0. Make the plan from the labels of the very batch, where vocab_size= checks them"
    )


def _scale_rows(
    source: Tensor,
    source_rows: Tensor | None,
    out: Tensor,
    out_rows: Tensor | None,
    row_scale: Tensor | None,
    targets: Tensor,
) -> None:
    count, width = targets.shape[0], source.shape[1]
    if count == 0 or width == 0:
        return
    block = configs.scale_block(width)
    with _on(source.device):
        _kernels().scale_rows_kernel[(count, -(-width // block))](
            source,
            source_rows,
            out,
            out_rows,
            None if row_scale is None else row_scale.contiguous(),
            targets,
            width,
            source.stride(0),
            out.stride(0),
            BLOCK=block,
            num_warps=configs.SCALE_WARPS,
        )


def _rows_contiguous(matrix: Tensor) -> Tensor:
    return matrix if matrix.shape[1] < 2 or matrix.stride(1) == 1 else matrix.contiguous()


def _on(device: torch.device) -> AbstractContextManager[None]:
    """Triton launches on the current device, which need not be the tensors' own."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@lru_cache(maxsize=1)
def _kernels() -> ModuleType:
    from cotbal_kernels.backends.triton import kernels

    return kernels


@lru_cache(maxsize=1)
def _row_kernel() -> Any:
    from cotbal_kernels.backends.triton import row_kernel

    return row_kernel.row_kernel


@lru_cache(maxsize=1)
def _warp_size() -> int:
    if not torch.cuda.is_available():
        return 32
    return int(torch.cuda.get_device_properties(0).warp_size)


@lru_cache(maxsize=64)
def _label_error(device: torch.device) -> Tensor:
    """Where the kernels note a target outside the vocabulary: page-locked host memory that the GPU can write.

    One for each device and for as long as the process lives: a captured graph keeps writing to it.
    """
    return torch.zeros((), dtype=torch.int64, pin_memory=device.type == "cuda")
