"""Launch configurations of the Triton kernels, chosen by shape; there is no autotuning and no first-call search.

What the row kernel's tables rest on, in groups of 16 bytes (8 columns of 16-bit logits, 4 of f32), one to a lane:

- A row is read from memory once only if it stays on the chip between the online pass and the gradient pass. Eight
  tiles a lane are 32 registers of logits, which leaves room for the rest within 80; within 64, which lets two blocks
  of 512 lanes share a multiprocessor so that one loads while the other computes, six tiles fit without a spill.
- A row stays in one block, of the fewest lanes that hold it. At 512 lanes (24576 to
  32768 columns: LLaVA's 32000, 32001 and 32064) the last two tiles are read again, from L2: 4 MB on an H200.
- 1024 lanes hold the first 65536 columns and what lies past them is read again. Such blocks run one to a
  multiprocessor, so what is wanted again is at most (columns - 65536) x 2 bytes x multiprocessors: 16.6 MB for 128256
  columns and 22.8 MB for 152064 on an H200 (50 MB of L2), 50 MB for 256000. The first read asks L2 to keep it, the
  second read and the stores ask to be evicted first.
- A softcap needs registers of its own: four tiles then (two where a warp is 64 lanes).
- Without a gradient nothing is wanted again: small blocks, nothing held, many of them to a multiprocessor.

The registers, spills and access widths these numbers stand for are asserted by its tests; the
times are not: the tables were written without a GPU at hand.
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

Table = tuple[tuple[int | None, int, int, bool, int | None], ...]
# Groups a row may have, lanes of its block, tiles held, whether the rest is read again, registers a lane at most.
_HELD: Final = (
    (128, 128, 1, False, None),
    (256, 128, 2, False, None),
    (512, 128, 4, False, None),
    (1024, 128, 8, False, None),
    (1536, 256, 6, False, None),
    (2048, 256, 8, False, None),
    (3072, 512, 6, False, 64),
    (4096, 512, 6, True, 64),
    (6144, 1024, 6, False, None),
    (None, 1024, 8, True, None),
)
_CAPPED: Final = (
    (128, 128, 1, False, None),
    (256, 128, 2, False, None),
    (512, 128, 4, False, None),
    (1024, 256, 4, False, None),
    (2048, 512, 4, False, None),
    (4096, 1024, 4, False, None),
    (None, 1024, 4, True, None),
)
_CAPPED_WIDE_WARPS: Final = (
    (128, 128, 1, False, None),
    (256, 128, 2, False, None),
    (512, 256, 2, False, None),
    (1024, 512, 2, False, None),
    (2048, 1024, 2, False, None),
    (None, 1024, 2, True, None),
)
_VALUE: Final = ((256, 128, 0, True, None), (None, 256, 0, True, None))


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
    columns: int, itemsize: int, *, gradient: bool, capped: bool = False, warp_size: int = 32
) -> RowConfig:
    """The row kernel's configuration for one vocabulary.

    Args:
        columns: V.
        itemsize: bytes of a logit, 2 or 4.
        gradient: whether a gradient is wanted.
        capped: whether a softcap needs registers of its own.
        warp_size: lanes of a warp, 32 (CUDA) or 64 (CDNA).

    >>> row_config(32000, 2, gradient=True)
    RowConfig(warps=16, groups=512, held=6, streamed=True, max_registers=64)
    >>> row_config(152064, 2, gradient=True)
    RowConfig(warps=32, groups=1024, held=8, streamed=True, max_registers=None)
    """
    table: Table = _HELD
    if not gradient:
        table = _VALUE
    elif capped:
        table = _CAPPED if warp_size == 32 else _CAPPED_WIDE_WARPS
    needed = -(-columns * itemsize // ACCESS_BYTES)
    _, lanes, held, streamed, cap = next(row for row in table if row[0] is None or needed <= row[0])
    groups = lanes if gradient else 2 * lanes
    return RowConfig(lanes // warp_size, groups, held, streamed, cap if warp_size == 32 else None)


def scale_block(width: int) -> int:
    """Columns a block of the row-scaling kernel moves: the whole row where it is short.

    >>> scale_block(4096), scale_block(3584), scale_block(100)
    (2048, 2048, 128)
    """
    return min(2048, max(128, 1 << (width - 1).bit_length()))
