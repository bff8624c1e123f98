"""The switch between real and emulated bfloat16 products on CPUs, whatever this one can do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal
from unittest import mock

from cotbal_kernels import products

Bfloat16Products = Literal["real", "emulated"]
BFLOAT16_PRODUCTS: Final[tuple[Bfloat16Products, ...]] = ("real", "emulated")


@contextmanager
def bfloat16_products(kind: Bfloat16Products) -> Iterator[None]:
    """Logits of bfloat16 inputs are bfloat16 ("real") or float32 ("emulated") inside, on CPUs.

    torch multiplies bfloat16 matrices everywhere; without instructions for it, slowly.
    """
    with mock.patch.object(products, "_cpu_multiplies_bf16", return_value=kind == "real"):
        yield
