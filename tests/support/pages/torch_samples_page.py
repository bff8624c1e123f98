"""The page docs/torch-samples.md: which of torch's own samples our losses take, and why not the others."""

from __future__ import annotations

import torch
from support.kernels.torch_samples import FUNCTIONS, applicability

TORCH = torch.__version__.partition("+")[0]


def page() -> str:
    lines = [
        "# Torch's own samples",
        "",
        "torch ships samples for `F.cross_entropy` and `F.linear_cross_entropy` with its test machinery (OpInfo).",
        "The tests give each one that is a call of ours to every backend that runs on the machine, and compare loss",
        "and gradients with torch's in float64. This page counts them, and says why the others are no calls of ours.",
        "Class weights are taken without their sign, since ours refuse negative ones.",
        f"`make docs` writes it; these are the samples of torch {TORCH}.",
        "",
        "| function | sample | number |",
        "|---|---|---|",
    ]
    for function in FUNCTIONS:
        found = applicability(function, torch.float64)
        lines.append(f"| `F.{function}` | compared | {found.pop(None, 0)} |")
        lines += [f"| | not applicable: {reason} | {number} |" for reason, number in sorted(found.items())]
    return "\n".join(lines) + "\n"
