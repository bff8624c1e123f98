"""What Triton's interpreter needs to agree with hardware, for `TRITON_INTERPRET=1`.

Importing this file imports Triton and NumPy, so nothing may import it at its own import time.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt


@lru_cache(maxsize=1)
def mend() -> None:
    """Mend the interpreter: it truncates f32 to bf16, rounds fma twice, and NumPy 2.4 refuses its ranges."""
    import triton.language as tl
    from triton.runtime import interpreter

    convert, patch_tensor = interpreter._convert_float, interpreter._patch_lang_tensor

    def convert_float(data: Any, source: Any, target: Any, rounding: Any) -> Any:
        if source == tl.float32 and target == tl.bfloat16:
            return rounded_to_bfloat16(data)
        return convert(data, source, target, rounding)

    def patch_lang_tensor(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def create_fma(_: Any, x: Any, y: Any, z: Any) -> Any:
        with np.errstate(all="ignore"):
            exact = x.data.astype(np.float64) * y.data + z.data
            return interpreter.TensorHandle(exact.astype(x.data.dtype), z.dtype.scalar)

    interpreter._convert_float = convert_float
    interpreter.InterpreterBuilder.create_fma = create_fma
    interpreter._patch_lang_tensor = patch_lang_tensor


def rounded_to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """f32 to the bits of bf16, to nearest even as every GPU does."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)
