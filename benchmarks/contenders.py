"""Who is measured: one function per contender, from inputs to a step that runs forward and backward.

A contender raises ``Unavailable`` with the reason when it cannot run here; the reason goes into the result file.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import cotbal_kernels as ck
from benchmarks.inputs import LossInputs


class Unavailable(Exception):
    """A contender cannot run on this machine or on this case."""


Build = Callable[[LossInputs], Callable[[], Tensor]]


@dataclass(frozen=True)
class Contender:
    name: str
    build: Build
    weighted: bool = False  # does it minimise the weighted loss (ours) or the plain mean (everybody else)
    compacts: bool = False  # skips unsupervised rows by itself
    widens: bool = False  # multiplies in float32 where the machine only emulates bfloat16 products
    multiple: int = 1  # of rows that it takes: compacted input is padded to it with ignored rows
    apart: str | None = (
        None  # the package that replaces parts of others on import: measured in a process of its own
    )


def _needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise Unavailable(f"the package {package} is not installed")


def _needs_gpu(inputs: LossInputs, what: str) -> None:
    if inputs.hidden.device.type != "cuda":
        raise Unavailable(f"{what} runs on GPUs only")


def _needs_head(inputs: LossInputs) -> Tensor:
    if inputs.weight is None:
        raise Unavailable("fuses the head: not for logits")
    return inputs.weight


def ours(impl: str, *, weighted: bool, planned: bool = True) -> Build:
    def build(inputs: LossInputs) -> Callable[[], Tensor]:
        for entry in ck.implementations(inputs.hidden.device, inputs.hidden.dtype):
            if entry.name == impl and not entry.available:
                raise Unavailable(str(entry.reason))
        weights = inputs.task_weights if weighted else None
        options: dict[str, Any] = {"impl": impl}
        if planned:
            options["plan"] = inputs.plan
        tasks = None if planned else inputs.task_ids

        def step() -> Tensor:
            if inputs.weight is None:
                loss = ck.cross_entropy(inputs.hidden, inputs.labels, tasks, weights, **options).loss
            else:
                loss = ck.linear_cross_entropy(
                    inputs.hidden, inputs.weight, inputs.labels, tasks, weights, **options
                ).loss
            loss.backward()
            return loss

        return step

    return build


def _logits(inputs: LossInputs) -> Tensor:
    return inputs.hidden if inputs.weight is None else F.linear(inputs.hidden, inputs.weight)


def _stock_loss(hidden: Tensor, weight: Tensor | None, labels: Tensor) -> Tensor:
    logits = hidden if weight is None else F.linear(hidden, weight)
    return F.cross_entropy(logits.float(), labels, ignore_index=-100)


def stock(inputs: LossInputs) -> Callable[[], Tensor]:
    """What transformers does: the head, logits in float32, cross_entropy."""

    def step() -> Tensor:
        loss = _stock_loss(inputs.hidden, inputs.weight, inputs.labels)
        loss.backward()
        return loss

    return step


def stock_compiled(inputs: LossInputs) -> Callable[[], Tensor]:
    """The stock loss under torch.compile, for these shapes."""
    compiled = torch.compile(_stock_loss, dynamic=False)

    def step() -> Tensor:
        loss = compiled(inputs.hidden, inputs.weight, inputs.labels)
        loss.backward()
        return loss

    return step


def torch_fused(**chosen: Any) -> Build:
    """torch.nn.functional.linear_cross_entropy, chunked, with its automatic options or those chosen."""

    def build(inputs: LossInputs) -> Callable[[], Tensor]:
        weight = _needs_head(inputs)
        if not hasattr(F, "linear_cross_entropy"):
            raise Unavailable("torch has no linear_cross_entropy before 2.13")
        options = torch.nn.LinearCrossEntropyOptions(**chosen)

        def step() -> Tensor:
            loss = F.linear_cross_entropy(
                inputs.hidden, weight, inputs.labels, ignore_index=-100, options=options
            )
            loss.backward()
            return loss

        return step

    return build


def liger(inputs: LossInputs) -> Callable[[], Tensor]:
    weight = _needs_head(inputs)
    _needs("liger_kernel")
    _needs_gpu(inputs, "Liger")
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    def step() -> Tensor:
        loss = liger_fused_linear_cross_entropy(inputs.hidden, weight, inputs.labels)
        loss.backward()
        return loss

    return step


def liger_cute(inputs: LossInputs) -> Callable[[], Tensor]:
    """Liger's kernels in the CuTe DSL, for Hopper and bfloat16 only."""
    weight = _needs_head(inputs)
    _needs("liger_kernel")
    _needs_gpu(inputs, "Liger")
    _needs("cutlass")
    if torch.cuda.get_device_capability(inputs.hidden.device) != (9, 0) or weight.dtype != torch.bfloat16:
        raise Unavailable("Liger's CuTe kernels are for compute capability 9.0 and bfloat16")
    from liger_kernel.ops.cutedsl.ops.fused_linear_cross_entropy_sm90 import (
        liger_fused_linear_cross_entropy_sm90,
    )

    def step() -> Tensor:
        loss = liger_fused_linear_cross_entropy_sm90(inputs.hidden, weight, inputs.labels)
        loss.backward()
        return loss

    return step


def cut_cross_entropy(inputs: LossInputs) -> Callable[[], Tensor]:
    weight = _needs_head(inputs)
    _needs("cut_cross_entropy")
    from cut_cross_entropy import linear_cross_entropy

    impl = "cce" if inputs.hidden.device.type == "cuda" else "torch_compile"

    def step() -> Tensor:
        loss = linear_cross_entropy(inputs.hidden, weight, inputs.labels, impl=impl)
        loss.backward()
        return loss

    return step


def quack(inputs: LossInputs) -> Callable[[], Tensor]:
    weight = _needs_head(inputs)
    _needs("quack")
    _needs_gpu(inputs, "QuACK")
    from quack.linear_cross_entropy import chunked_linear_cross_entropy

    def step() -> Tensor:
        loss = chunked_linear_cross_entropy(inputs.hidden, weight, inputs.labels)
        loss.backward()
        return loss

    return step


def unsloth(inputs: LossInputs) -> Callable[[], Tensor]:
    weight = _needs_head(inputs)
    _needs("unsloth_zoo")
    _needs_gpu(inputs, "unsloth")
    from unsloth_zoo.fused_losses.cross_entropy_loss import unsloth_fused_ce_loss

    def step() -> Tensor:
        loss = unsloth_fused_ce_loss(
            None, inputs.hidden[None], weight, None, inputs.labels[None], shift_labels=False
        )
        loss.backward()
        return loss

    return step


CONTENDERS = (
    Contender("ours", ours("auto", weighted=True), weighted=True, compacts=True, widens=True),
    Contender("ours, unweighted", ours("auto", weighted=False), compacts=True, widens=True),
    # The plan is made in the call: on a GPU, one wait for the number of supervised tokens.
    Contender("ours, labels on the device", ours("auto", weighted=True, planned=False), True, True, True),
    Contender("ours, torch", ours("torch", weighted=True), weighted=True, compacts=True, widens=True),
    Contender("stock", stock),
    Contender("stock, compiled", stock_compiled),
    Contender("torch fused", torch_fused()),
    # one chunk: the fastest on CPUs of nine sets of options (none; automatic; one chunk with each policy; two sizes
    # of chunks; aspect ratios 1 and 2), since every chunk is a product that reads the whole head
    Contender("torch fused, one chunk", torch_fused(chunking_method=None, acc_policy="accurate")),
    Contender("Liger", liger),
    Contender("Liger, CuTe", liger_cute, multiple=128),
    Contender("CCE", cut_cross_entropy, compacts=True),
    Contender("QuACK", quack, multiple=8),
    Contender("unsloth", unsloth, apart="unsloth_zoo"),
)


def bare_gemms(
    inputs: LossInputs, rows: int | None = None, dtype: torch.dtype | None = None
) -> Callable[[], Tensor]:
    """The floor: the three GEMMs over the supervised rows (or over ``rows``) and nothing else."""
    weight = _needs_head(inputs)
    rows = inputs.case.rows if rows is None else rows
    x = inputs.hidden.detach()[:rows].to(dtype or inputs.case.dtype).contiguous()
    w = weight.detach().to(x.dtype)
    dz = torch.empty(rows, inputs.case.vocab, dtype=x.dtype, device=x.device).normal_()
    logits = torch.empty_like(dz)
    dx, dw = torch.empty_like(x), torch.empty_like(w)

    def step() -> Tensor:
        torch.mm(x, w.T, out=logits)
        torch.mm(dz, w, out=dx)
        torch.mm(dz.T, x, out=dw)
        return dx

    return step


def copy(inputs: LossInputs) -> Callable[[], Tensor]:
    """The floor of the logits-level loss: read every supervised logit once, write its gradient once."""
    source = inputs.hidden.detach()[: inputs.case.rows].contiguous()
    target = torch.empty_like(source)

    def step() -> Tensor:
        return target.copy_(source)

    return step
