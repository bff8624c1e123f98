"""What the loss should take on a GPU, from arithmetic alone: products, bytes, launches. Nothing here is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# NVIDIA's figures for one H100 SXM: dense bf16 products, and memory.
FLOPS: Final = 989e12
BANDWIDTH: Final = 3.35e12
# Launches beside the three products (counted by a test), and what one costs the device where it is not hidden.
LAUNCHES: Final = 10
LAUNCH_SECONDS: Final = 3e-6
ITEMSIZE: Final = 2


@dataclass(frozen=True)
class Prediction:
    """One call, forward and backward, in bf16: `rows` supervised of `tokens` positions.

    Attributes:
        share: supervised tokens, of all.
    """

    tokens: int
    hidden: int
    vocab: int
    share: float

    @property
    def rows(self) -> int:
        return round(self.tokens * self.share)

    @property
    def flops(self) -> int:
        """Of the three products: 2 R H V each."""
        return 6 * self.rows * self.hidden * self.vocab

    @property
    def product_seconds(self) -> float:
        return self.flops / FLOPS

    @property
    def row_bytes(self) -> int:
        """Of the row pass: each logit is read once, and its gradient written in its place."""
        return 2 * ITEMSIZE * self.rows * self.vocab

    @property
    def row_seconds(self) -> float:
        return self.row_bytes / BANDWIDTH

    @property
    def moved_bytes(self) -> int:
        """Of the hidden states: gathered twice, R H read and written; their gradient read and scattered into M H."""
        return ITEMSIZE * self.hidden * (4 * self.rows + self.rows + self.tokens)

    @property
    def other_seconds(self) -> float:
        return self.moved_bytes / BANDWIDTH + LAUNCHES * LAUNCH_SECONDS

    @property
    def seconds(self) -> float:
        return self.product_seconds + self.row_seconds + self.other_seconds

    @property
    def ratio(self) -> float:
        """To the bare products."""
        return self.seconds / self.product_seconds


CASES: Final = tuple(
    Prediction(tokens, 4096, vocab, share)
    for vocab in (128_256, 32_000)
    for tokens, share in ((4096, 1.0), (4096, 0.1), (8192, 0.1))
)


def section() -> list[str]:
    """The part of docs/benchmarks.md that tells them."""
    lines = [
        "## Predicted, not measured: one H100",
        "",
        "No figure in this section was measured. It is arithmetic with NVIDIA's peaks for an H100 SXM",
        f"({FLOPS / 1e12:.0f} TFLOP/s of dense bf16 products, {BANDWIDTH / 1e12:.2f} TB/s): three products of",
        "2 R H V flops over the R supervised rows; a row pass that reads and writes each 16-bit logit once; the",
        f"hidden states gathered twice and their gradient scattered; {LAUNCHES} launches beside the products, taken",
        f"as {LAUNCH_SECONDS * 1e6:.0f} µs each. Real products are slower, so the ratio is nearer to 1.",
        "",
        "| M, H, V | supervised | flops | products | row pass | rest | whole | x products |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in CASES:
        times = (case.product_seconds, case.row_seconds, case.other_seconds, case.seconds)
        shown = " | ".join(f"{each * 1e3:.3f} ms" for each in times)
        lines.append(
            f"| {case.tokens}, {case.hidden}, {case.vocab} | {case.share:.0%} | {case.flops / 1e12:.2f} T | {shown} "
            f"| {case.ratio:.2f} |"
        )
    return lines
