"""The native C++ kernels for CPUs: the row pass, and matrix products of their own.

The row pass reads each row once for loss and hit and writes it once for its gradient. The products replace
torch's where those are slow: MKL, which torch multiplies with on x86, is made for Intel's processors, and
products of bfloat16 are emulated where the processor has no instruction for them.

The kernels are built for several instruction sets and the best one this processor supports is chosen when
they run. Two environment variables force a choice: `COTBAL_CPU_ISA` (``portable``, ``avx2`` or ``avx512``) and
``COTBAL_CPU_PRODUCTS`` (``own`` or ``torch``).
"""

from __future__ import annotations

import math
import os
from importlib import resources
from typing import Final

import torch
from torch import Tensor

from cotbal_kernels.backends.base import Backend
from cotbal_kernels.products import Product, product_dtype

_DTYPES = (torch.float32, torch.bfloat16)


class NativeBackend(Backend):
    """The C++ row pass on CPUs, in float32 and bfloat16."""

    name = "native"

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """See `Backend.unavailable`.

        Raises:
            ValueError: `COTBAL_CPU_ISA` asks for an instruction set that cannot run here. That is no reason to
                pass the native kernels over: whoever set it wants exactly these kernels.
        """
        if device.type != "cpu":
            return f"the native kernels run on cpu, not on {device.type}"
        if dtype not in _DTYPES:
            return f"the native kernels take float32 and bfloat16, not {dtype}"
        reason = missing()
        if reason is None:
            instruction_set()
        return reason

    def row_pass(
        self,
        logits: Tensor,
        targets: Tensor,
        *,
        rows: Tensor | None = None,
        gradient: Tensor | None = None,
        row_scale: Tensor | None = None,
        bias: Tensor | None = None,
        logit_scale: float = 1.0,
        softcap: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `Backend.row_pass`; sums over more than 1024 columns are made in float64.

        Threads follow `torch.get_num_threads()`; the interpreter lock is released meanwhile.

        Raises:
            ValueError: a shape, stride or dtype that the kernel cannot index, or an index out of range, before
                anything is written; also an impossible `COTBAL_CPU_ISA`.
            ImportError: the extension is not in this installation.
        """
        from cotbal_kernels.backends.native import _native

        nll = torch.empty(targets.shape, dtype=torch.float32)
        hits = torch.empty(targets.shape, dtype=torch.bool)
        _native.row_pass(
            logits.detach(),
            targets,
            rows,
            None if gradient is None else gradient.detach(),
            None if row_scale is None else row_scale.detach().to(torch.float32).contiguous(),
            None if bias is None else bias.detach().to(torch.float32).contiguous(),
            float(logit_scale),
            0.0 if softcap is None else float(softcap),
            nll,
            hits,
            torch.get_num_threads(),
            instruction_set(),
        )
        return nll, hits


BACKEND: Final = NativeBackend()


def missing() -> str | None:
    """Why the extension is not in this installation; None when it is."""
    try:
        from cotbal_kernels.backends.native import _native  # noqa: F401
    except ImportError as error:
        note = resources.files("cotbal_kernels.backends.native").joinpath("_native_missing.txt")
        reason = note.read_text(encoding="utf-8").strip() if note.is_file() else str(error)
        return (
            f"the native extension is not in this installation ({reason}); "
            "install again where a C++20 compiler is at hand"
        )
    return None


def instruction_set() -> str:
    """The instruction set the kernels use here: what `COTBAL_CPU_ISA` names, else the best supported.

    Raises:
        ImportError: the extension is not in this installation.
        ValueError: `COTBAL_CPU_ISA` names one that this build lacks or this processor does not support.
    """
    from cotbal_kernels.backends.native import _native

    forced = os.environ.get("COTBAL_CPU_ISA", "")
    try:
        return _native.resolve(forced)
    except ValueError as error:
        raise ValueError(f"COTBAL_CPU_ISA={forced!r}: {error}") from None


def instruction_sets() -> dict[str, bool]:
    """The instruction sets of this build, least first, and whether this processor supports each.

    Raises:
        ImportError: the extension is not in this installation.
    """
    from cotbal_kernels.backends.native import _native

    return _native.instruction_sets()


def described(device: torch.device, dtype: torch.dtype) -> str:
    """What runs here for inputs of `dtype`, in a few words: the instruction set, and who multiplies matrices.

    Raises:
        ImportError: the extension is not in this installation.
        ValueError: an impossible `COTBAL_CPU_ISA` or ``COTBAL_CPU_PRODUCTS``.
    """
    own = own_product(product_dtype(dtype, device)) is not None
    return f"{instruction_set()}, matrix products {'of its own' if own else 'by torch'}"


# Below these, packing the panels takes longer than torch's product.
_LEAST_DIMENSION = 8
_LEAST_MULTIPLICATIONS = 2**25


def own_product(dtype: torch.dtype, shape: tuple[int, int, int] | None = None) -> Product | None:
    """`product_` where it makes products of this size, with logits of `dtype`, faster than torch; None elsewhere.

    That is in float32 (bfloat16 inputs, too, have float32 logits on processors that cannot multiply bfloat16), with
    AVX2 or AVX-512, on processors that are not Intel's, from 8 rows and 2^25 multiplications on.
    ``COTBAL_CPU_PRODUCTS`` overrides all but the dtype.

    Args:
        dtype: of the logits.
        shape: rows, classes and hidden size; None: large.

    Raises:
        ValueError: ``COTBAL_CPU_PRODUCTS`` is none of ``own``, ``torch`` and empty; or an impossible
            `COTBAL_CPU_ISA`.
        ImportError: the extension is not in this installation.
    """
    from cotbal_kernels.backends.native import _native

    choice = os.environ.get("COTBAL_CPU_PRODUCTS", "")
    if choice not in ("", "own", "torch"):
        raise ValueError(f"COTBAL_CPU_PRODUCTS={choice!r}: accepted are 'own', 'torch' and nothing")
    if choice == "torch" or dtype != torch.float32:
        return None
    if choice == "own":
        return product_
    large = shape is None or (min(shape) >= _LEAST_DIMENSION and math.prod(shape) >= _LEAST_MULTIPLICATIONS)
    return product_ if large and instruction_set() != "portable" and not _native.is_intel() else None


def product_(left: Tensor, right: Tensor, out: Tensor, *, accumulate: bool = False) -> None:
    """``out (+)= left @ right.T``, summed in float32 and rounded once when it is stored.

    The sum over K runs in blocks of at most 512. The result's bits depend on the shape and on whether the instruction
    set has a fused multiply-add, not on the number of threads. Threads follow ``torch.get_num_threads()``; the
    interpreter lock is released meanwhile. Profilers see an event ``cotbal_kernels::product[M, N, K]`` for each call.
    The working memory is 4 MiB, or 2 KiB x min(M, N) where that is more, and some hundred KiB for each thread; with a
    bfloat16 `out` it is 4 x K x min(M, N) bytes, and 0.6 KiB x min(M, N) for each thread beside.

    Args:
        left: [M, K] float32 or bfloat16, unit stride along one dimension.
        right: [N, K], likewise; the dtypes may differ.
        out: [M, N] float32 or bfloat16, unit column stride; must not share memory with the others.
        accumulate: add to what `out` holds; float32 only.

    Raises:
        ValueError: a shape, stride or dtype that is none of these, before anything is written; also an impossible
            `COTBAL_CPU_ISA`.
        ImportError: the extension is not in this installation.
    """
    from cotbal_kernels.backends.native import _native

    if 0 in (*left.shape, *right.shape):
        if not accumulate:
            out.zero_()
        return
    threads, isa = torch.get_num_threads(), instruction_set()
    left, right, out = left.detach(), right.detach(), out.detach()
    shape = f"{left.shape[0]}, {right.shape[0]}, {left.shape[1]}"
    with torch.profiler.record_function(f"cotbal_kernels::product[{shape}]"):
        size = _native.product_workspace(left, right, out, threads, isa)
        workspace = torch.empty(size, dtype=torch.float32)
        _native.product(left, right, out, accumulate, workspace, threads, isa)
