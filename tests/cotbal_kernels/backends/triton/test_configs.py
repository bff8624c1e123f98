"""The launch tables: every row fits the block it is given."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotbal_kernels.backends.triton import configs as triton_configs
from cotbal_kernels.backends.triton.configs import ACCESS_BYTES, row_config, scale_block

shapes = st.tuples(st.integers(1, 2**20), st.sampled_from([2, 4]), st.sampled_from([32, 64]))


@given(shapes, st.booleans())
def test_a_row_is_held_or_streamed(shape: tuple[int, int, int], capped: bool) -> None:
    columns, itemsize, warp_size = shape
    config = row_config(columns, itemsize, gradient=True, capped=capped, warp_size=warp_size)
    held = config.held * config.groups * ACCESS_BYTES // itemsize
    assert held >= columns or config.streamed
    # Masked tiles cost time: never more of them than of real ones.
    needed = -(-columns * itemsize // ACCESS_BYTES)
    assert config.held * config.groups <= 2 * needed + config.groups
    # One group a lane, a power of two of them, in a block that exists.
    assert config.groups == config.warps * warp_size
    assert config.groups & (config.groups - 1) == 0
    assert config.groups <= 1024
    assert config.max_registers is None or config.groups * config.max_registers * 2 <= 65536


@given(shapes)
def test_nothing_is_held_without_a_gradient(shape: tuple[int, int, int]) -> None:
    columns, itemsize, warp_size = shape
    config = row_config(columns, itemsize, gradient=False, warp_size=warp_size)
    assert (config.held, config.streamed) == (0, True)


@given(st.integers(1, 100_000))
def test_few_kernels(columns: int) -> None:
    # What the first call of a vocabulary compiles is one of these, whatever the vocabulary.
    tables = (triton_configs._HELD, triton_configs._CAPPED)
    kinds = {row[1:] for table in tables for row in table}
    for capped in (False, True):
        config = row_config(columns, 2, gradient=True, capped=capped)
        assert (config.groups, config.held, config.streamed, config.max_registers) in kinds


@pytest.mark.parametrize("width", [1, 127, 128, 129, 3584, 4096, 5120])
def test_scale_block_is_a_power_of_two(width: int) -> None:
    block = scale_block(width)
    assert block & (block - 1) == 0
    assert 128 <= block <= 2048
