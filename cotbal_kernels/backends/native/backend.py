"""The row pass in C++ for CPUs: it reads each row for loss and hit, and again to write its gradient.

The kernel is built for several instruction sets, and the best one this processor supports is chosen when it runs.
The environment variable `COTBAL_CPU_ISA` (`portable`, `avx2` or `avx512`) forces a choice.
"""

from __future__ import annotations

import os
from importlib import resources
from typing import Any, Final

import torch
from torch import Tensor

from cotbal_kernels.backends.base import WRITTEN, Backend, RowTerms

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
        logit_scale: float = 1.0,
        softcap: float | None = None,
        terms: RowTerms | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `Backend.row_pass`; sums over more than 1024 columns are made in float64.

        Threads follow `torch.get_num_threads()`; the interpreter lock is released meanwhile.

        Raises:
            ValueError: a shape, stride or dtype that the kernel cannot index, or an index out of range, before
                anything is written; also an impossible `COTBAL_CPU_ISA`.
            ImportError: the extension is not in this installation.
        """
        from cotbal_kernels.backends.native import _native

        nll = torch.empty(targets.shape, dtype=torch.float32, device="cpu")
        hits = torch.empty(targets.shape, dtype=torch.bool, device="cpu")
        _native.row_pass(
            logits.detach(),
            targets,
            rows,
            None if gradient is None else gradient.detach(),
            None if row_scale is None else row_scale.detach().to(torch.float32).contiguous(),
            float(logit_scale),
            0.0 if softcap is None else float(softcap),
            nll,
            hits,
            torch.get_num_threads(),
            instruction_set(),
            **({} if terms is None else _terms(terms)),
        )
        return nll, hits


BACKEND: Final = NativeBackend()


def _terms(terms: RowTerms) -> dict[str, Any]:
    """The terms as the binding takes them: vectors that are read are f32 and contiguous."""
    return {
        "label_smoothing": terms.label_smoothing,
        "lse_square_scale": terms.lse_square_scale,
        **{
            name: value if name in WRITTEN else value.detach().to(torch.float32).contiguous()
            for name, value in terms.vectors().items()
        },
    }


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
