"""BFLOAT16_PRODUCTS=real or =emulated in the environment: every test of this room with bfloat16 products so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from support.kernels.product_dtypes import bfloat16_products


@pytest.fixture(autouse=True, scope="session")
def chosen_bfloat16_products() -> Iterator[None]:
    kind: Any = os.environ.get("BFLOAT16_PRODUCTS", "")
    if not kind:
        yield
        return
    with bfloat16_products(kind):
        yield
