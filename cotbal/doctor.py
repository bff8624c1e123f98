"""What is installed here, which loss kernels can run, and why the others cannot."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

import cotbal
import cotbal_kernels as ck
from cotbal import __version__
from cotbal_kernels.backends.native import backend as native_backend

__all__ = ["Package", "devices", "examine", "packages"]

_NEEDED = ("torch", "numpy", "pydantic")
_OPTIONAL = {
    "transformers": "training and scoring, cotbal[train]",
    "accelerate": "training and scoring, cotbal[train]",
    "pillow": "training and scoring, cotbal[train]",
    "matplotlib": "reports, cotbal[report]",
    "triton": "kernels on GPUs",
    "torchvision": "the image processors of some models",
    "scikit-learn": "`cotbal demo`",
    "peft": "LoRA",
    "trl": "training with TRL",
    "tensorboard": "`report_to: tensorboard`",
}
_DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Package:
    """A package, its version (None if it is not installed) and its purpose."""

    name: str
    version: str | None
    purpose: str


def packages() -> tuple[Package, ...]:
    """List the packages that cotbal needs or can use."""
    own = Package("cotbal", __version__, f"at {Path(cotbal.__file__).parent}")
    needed = [Package(name, _version(name), "needed") for name in _NEEDED]
    return (own, *needed, *(Package(name, _version(name), f"for {what}") for name, what in _OPTIONAL.items()))


def devices() -> tuple[torch.device, ...]:
    """List the CPU and every GPU that torch sees."""
    gpus = (torch.device("cuda", index) for index in range(torch.cuda.device_count()))
    return (torch.device("cpu"), *gpus)


def examine() -> RenderableType:
    """Build the whole report for a terminal."""
    return Group(
        _machine(),
        Text("\nPackages", style="bold"),
        _package_table(),
        Text("\nLoss kernels, in the order impl='auto' prefers them", style="bold"),
        *(_kernel_table(device, dtype) for device in devices() for dtype in _DTYPES),
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _machine() -> RenderableType:
    lines = [
        f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} CPUs, torch uses {torch.get_num_threads()} threads"
    ]
    for device in devices()[1:]:
        properties = torch.cuda.get_device_properties(device)
        lines.append(f"{device}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    if len(lines) == 1:
        lines.append("no GPU that torch can use")
    return Text("\n".join(lines))


def _package_table() -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2))
    for package in packages():
        found = package.version or (
            "[red]missing[/red]" if package.purpose == "needed" else "[dim]not installed[/dim]"
        )
        table.add_row(package.name, found, package.purpose)
    return table


def _kernel_table(device: torch.device, dtype: torch.dtype) -> Table:
    name = str(dtype).removeprefix("torch.")
    table = Table(
        box=None, show_header=False, padding=(0, 2), title=f"{device}, {name}", title_justify="left"
    )
    chosen = False
    for found in ck.implementations(device, dtype):
        if found.available:
            verdict = "runs" if chosen else "[green]runs, used by default[/green]"
            chosen = True
            if found.name == "native":
                verdict += f" ({native_backend.instruction_set()})"
        else:
            verdict = f"[yellow]cannot run:[/yellow] {escape(str(found.reason))}"
        table.add_row(found.name, verdict)
    return table
