"""Launch configurations of the Triton kernels, chosen by shape; there is no autotuning and no first-call search.

What the row kernel's table rests on, for 16-bit logits (f32 rows hold half as many columns in the same space):

- A lane moves 16 bytes at a time, and a row is read from memory once only if it stays on the chip between the
  online pass and the gradient pass. Eight 16-byte pieces a lane (32 registers) leave room for everything else under
  64 registers, so two blocks of 512 lanes share a multiprocessor and one loads while the other computes.
- Up to 65536 columns (131 KB) a row fits that way into one block, of the fewest warps that hold it: 32000 and
  32064 columns into 16 warps, 50257 into 32.
- Past that, 32 warps hold the first 65536 columns and the rest is read again. Blocks of 1024 lanes at 64 registers
  run one to a multiprocessor, so what is wanted again is at most (columns - 65536) x 2 bytes x multiprocessors:
  16.6 MB for 128256 columns and 22.8 MB for 152064 on an H200 (50 MB of L2), 49 MB for 256000. The first read asks
  L2 to keep it, the stores ask to be evicted first.
- A bias or a softcap needs registers of its own: half as many tiles are held then.
- Without a gradient nothing is wanted again: small blocks, no held words, many of them to a multiprocessor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Lanes of the statistics kernel's tile: one pass over 4096 rows takes about as long as a launch.
STATISTICS_BLOCK: Final = 1024
STATISTICS_WARPS: Final = 4
SCALE_WARPS: Final = 4
# Elements a program of the rescaling kernel owns, and moves at a time.
RESCALE_BLOCK: Final = 16384
RESCALE_TILE: Final = 2048
RESCALE_WARPS: Final = 8
ACCESS_BYTES: Final = 16
_HELD: Final = 8
_HELD_TRANSFORMED: Final = 4
_BLOCK_LANES: Final = (128, 256, 512, 1024)


@dataclass(frozen=True)
class RowConfig:
    """How one row is spread over a block.

    Attributes:
        warps: warps of a block.
        groups: 16-byte groups in a tile; a power of two.
        held: tiles kept in registers between the two passes.
        streamed: whether columns may lie beyond the held tiles.
        max_registers: cap of registers a lane, to fit two blocks on a multiprocessor; None: none.
    """

    warps: int
    groups: int
    held: int
    streamed: bool
    max_registers: int | None = None


def row_config(
    columns: int, itemsize: int, *, gradient: bool, transformed: bool = False, warp_size: int = 32
) -> RowConfig:
    """The row kernel's configuration for one vocabulary.

    Args:
        columns: V.
        itemsize: bytes of a logit, 2 or 4.
        gradient: whether a gradient is wanted.
        transformed: whether a bias or softcap needs registers of its own.
        warp_size: lanes of a warp, 32 (CUDA) or 64 (CDNA).

    >>> row_config(32000, 2, gradient=True)
    RowConfig(warps=16, groups=512, held=8, streamed=False, max_registers=64)
    >>> row_config(152064, 2, gradient=True)
    RowConfig(warps=32, groups=1024, held=8, streamed=True, max_registers=None)
    """
    width = ACCESS_BYTES // itemsize
    if not gradient:
        lanes = 256 if columns > 256 * width else 128
        return RowConfig(lanes // warp_size, 2 * lanes, 0, True)
    most = _HELD_TRANSFORMED if transformed else _HELD
    for lanes in _BLOCK_LANES:
        held = -(-columns // (lanes * width))
        if held <= most:
            cap = 64 if lanes == 512 and warp_size == 32 and not transformed else None
            return RowConfig(lanes // warp_size, lanes, max(held, 1), False, cap)
    return RowConfig(_BLOCK_LANES[-1] // warp_size, _BLOCK_LANES[-1], most, True)


def scale_block(width: int) -> int:
    """Columns a block of the row-scaling kernel moves: the whole row where it is short.

    >>> scale_block(4096), scale_block(3584), scale_block(100)
    (2048, 2048, 128)
    """
    return min(2048, max(128, 1 << (width - 1).bit_length()))
