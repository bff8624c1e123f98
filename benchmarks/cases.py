"""The shapes that are measured. A case is data; nothing here runs anything."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

# vocabulary and hidden size of the heads people tune
HEADS = {
    "LLaVA-1.5": (32_000, 4096),
    "Llama-3": (128_256, 4096),
    "Qwen2.5-VL": (152_064, 3584),
}


@dataclass(frozen=True)
class LossCase:
    """One call of the loss, forward and backward: ``tokens`` positions of which ``supervised`` are answers."""

    group: str
    label: str
    tokens: int
    hidden: int
    vocab: int
    supervised: float = 1.0
    tasks: int = 8
    dtype: torch.dtype = torch.float32
    logits_level: bool = False  # the loss on logits that exist already, without the head's GEMM
    cold: bool = False  # the caches are overwritten before each timed call
    contenders: tuple[str, ...] | None = None  # only these, where a call takes seconds; None: all

    @property
    def name(self) -> str:
        share = f"{self.supervised:.0%}"
        cache = ", cold cache" if self.cold else ""
        return f"{self.label} {share} {str(self.dtype).removeprefix('torch.')} {self.tasks} tasks{cache}"

    @property
    def rows(self) -> int:
        """Supervised tokens."""
        return max(1, round(self.tokens * self.supervised))

    @property
    def gemm_flops(self) -> float:
        """Flops of the three GEMMs of forward and backward over the supervised rows."""
        return 6.0 * self.rows * self.hidden * self.vocab


def cpu_cases() -> list[LossCase]:
    """What ``make bench`` measures: LLaVA-like batches that two cores can do in seconds."""
    base = LossCase("cpu-loss", "B=4 L=704 H=1024 V=32000", 4 * 704, 1024, 32_000)
    few = ("ours", "ours, torch", "stock", "stock, compiled", "torch fused, one chunk")
    # torch's automatic options take seconds a call here; they are measured on few tokens.
    all_but_automatic = (*few, "ours, unweighted", "CCE")
    cases = [
        replace(base, contenders=few),
        replace(base, supervised=0.1, contenders=all_but_automatic),
        replace(base, dtype=torch.bfloat16, contenders=("ours", "stock", "stock, compiled")),
        replace(base, supervised=0.1, dtype=torch.bfloat16),
        LossCase(
            "cpu-loss",
            "small hidden H=128 V=32000",
            4 * 704,
            128,
            32_000,
            contenders=few,
        ),
        LossCase(
            "cpu-loss",
            "small hidden H=128 V=32000",
            4 * 704,
            128,
            32_000,
            supervised=0.1,
            contenders=all_but_automatic,
        ),
        LossCase(
            "cpu-loss",
            "odd vocabulary H=128 V=32001",
            4 * 704,
            128,
            32_001,
            supervised=0.1,
            contenders=("ours", "ours, torch", "stock"),
        ),
        # few enough tokens for contenders whose bfloat16 products the machine only emulates
        LossCase("cpu-loss", "few tokens H=128 V=32000", 32, 128, 32_000, dtype=torch.bfloat16),
    ]
    logits = LossCase("cpu-logits", "logits V=32000", 704, 0, 32_000, logits_level=True)
    small = replace(logits, label="64 rows of logits V=32000", tokens=64)
    return [
        *cases,
        logits,
        replace(logits, supervised=0.1),
        replace(logits, dtype=torch.bfloat16),
        small,
        replace(small, cold=True),
    ]


def cpu_curves() -> list[LossCase]:
    """Time and memory against one quantity at a time, at a hidden size that keeps the sweep short."""
    base = LossCase("", "H=256", 1024, 256, 32_000)
    curves: list[LossCase] = []
    for share in (1.0, 0.5, 0.2, 0.1, 0.02):
        curves.append(replace(base, group="cpu-curve-supervised", supervised=share))
    for tokens in (256, 512, 1024, 2048):
        curves.append(replace(base, group="cpu-curve-tokens", label=f"{tokens} tokens", tokens=tokens))
    for vocab in (8_000, 32_000, 128_256):
        curves.append(
            replace(base, group="cpu-curve-vocabulary", label=f"V={vocab}", vocab=vocab, tokens=512)
        )
    for tasks in (1, 8, 64):
        curves.append(replace(base, group="cpu-curve-tasks", label=f"{tasks} tasks", tasks=tasks, tokens=512))
    return curves


def gpu_cases() -> list[LossCase]:
    """The fifteen cases of the published comparison: three heads, dense and at ten per cent."""
    cases = []
    for label, (vocab, hidden) in HEADS.items():
        for tokens, share in ((4096, 1.0), (8192, 1.0), (4096, 0.1), (8192, 0.1), (32_768, 0.1)):
            cases.append(
                LossCase(
                    f"gpu-{label}", f"{label} M={tokens}", tokens, hidden, vocab, share, dtype=torch.bfloat16
                )
            )
    return cases


def gpu_extra_cases() -> list[LossCase]:
    """Odd vocabularies, the logits-level kernel and the curves on a GPU."""
    bf16 = torch.bfloat16
    base = LossCase("gpu-curve-supervised", "M=8192 H=4096 V=32000", 8192, 4096, 32_000, dtype=bf16)
    cases = [replace(base, supervised=s) for s in (0.5, 0.2, 0.1, 0.02)]
    for tasks in (1, 8, 64):
        cases.append(replace(base, group="gpu-curve-tasks", supervised=0.1, tasks=tasks))
    for vocab in (32_001, 32_064, 128_256, 262_144):
        cases.append(LossCase("gpu-odd", f"M=4096 H=2048 V={vocab}", 4096, 2048, vocab, dtype=bf16))
        cases.append(
            LossCase("gpu-logits", f"logits M=4096 V={vocab}", 4096, 0, vocab, dtype=bf16, logits_level=True)
        )
    return cases
