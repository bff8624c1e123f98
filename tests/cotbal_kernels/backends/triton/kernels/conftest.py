"""These tests run twice: on CPU tensors under Triton's interpreter (in the child that `test_interpreter` starts),
and unchanged on a GPU (marked gpu)."""

from collections.abc import Iterator

import pytest
import torch
import triton

from cotbal_kernels.backends.triton import interpreter

INTERPRETED = bool(triton.knobs.runtime.interpret)
if INTERPRETED:
    # Users' calls come by the backend, which does it; these tests launch kernels themselves.
    interpreter.mend()


def pytest_itemcollected(item: pytest.Item) -> None:
    if not INTERPRETED:
        item.add_marker("gpu")


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cpu" if INTERPRETED else "cuda")


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Every `torch.empty` holds NaN or an absurd integer, so that an output slot nobody writes shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    fills = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.utils.deterministic.fill_uninitialized_memory = fills
    torch.use_deterministic_algorithms(False)
