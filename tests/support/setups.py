"""The set-ups in which a step's weighted loss must be the formula's, as data, and how each is run.

A `SetUp` says how people train: model, engine, ranks, accumulation, data, adapters, precision. `run(setup)` trains
its steps and measures the largest deviation of loss and gradients from `step_oracle`, which computes every step in
one process, in float64, from full logits. Those with several ranks run inside `setup_worker.py`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import engines
import torch
import torch.distributed as dist
from setup_data import make_batch
from step_oracle import Gradients, largest_deviation, oracle_step, plain_step, to_double
from tiny_families import FAMILIES, tiny_family
from tiny_models import tiny_llama, tiny_llava, tiny_qwen2_5_vl

WEIGHTS = (0.5, 2.0, 0.1)
LIMITS = {"float64": 1e-10, "float32": 1e-5}
MODELS: dict[str, Callable[..., Any]] = {
    "llava": lambda **options: tiny_llava(**options)[0],
    "qwen2_5_vl": lambda **options: tiny_qwen2_5_vl(**options)[0],
    "llama": lambda **options: tiny_llama(**options)[0],
    **{name: (lambda name=name: tiny_family(name)) for name in FAMILIES},
}
ADAPTERS: dict[str, dict[str, Any]] = {
    "LoRA on the body": {"target_modules": ["q_proj", "up_proj"]},
    "LoRA on body and head": {"target_modules": ["q_proj", "lm_head"]},
    "DoRA on the body": {"target_modules": ["q_proj", "up_proj"], "use_dora": True},
    "DoRA on body and head": {"target_modules": ["q_proj", "lm_head"], "use_dora": True},
    "modules_to_save": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
}


@dataclass(frozen=True)
class SetUp:
    """One way to train.

    Attributes:
        name: unique; the row's title in the docs.
        group: heading under which the docs show it.
        model: key of `MODELS`.
        precision: "float64", "float32", or "bf16" (autocast, or FSDP2's parameters, over float32).
        ranks: gloo processes.
        engine: "trainer", "trl" (TRL's SFTTrainer), "accelerate" or "torch": whose loop.
        sharding: "none", "ddp", "fsdp2", "fsdp2, head apart" or "zero3 stand-in".
        accumulation: micro-batches of a step, on each rank.
        micro_batches: on each rank in all; the last step is ragged where they do not divide.
        data: see `setup_data.make_batch`.
        adapter: key of `ADAPTERS`, or "".
        balanced_first: whether `balance` came before the adapter.
        change: "", "frozen head" or "tied embeddings".
        checkpointing: gradient checkpointing.
        normalize: of `balance`.
    """

    name: str
    group: str
    model: str = "llava"
    precision: str = "float64"
    ranks: int = 1
    engine: str = "trainer"
    sharding: str = "none"
    accumulation: int = 4
    micro_batches: int = 6
    data: str = "one task a micro-batch"
    adapter: str = ""
    balanced_first: bool = False
    change: str = ""
    checkpointing: bool = False
    normalize: str = "weights"


@dataclass(frozen=True)
class Outcome:
    """Largest relative deviations from the oracle over the steps of a set-up, and what is accepted."""

    name: str
    loss: float
    gradient: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.loss <= self.limit and self.gradient <= self.limit


def _listed() -> list[SetUp]:
    made: list[SetUp] = []
    title = "Gradient accumulation"
    for model in ("llava", "qwen2_5_vl", "llama"):
        for count in (1, 4, 8):
            total = {1: 2, 4: 6, 8: 11}[count]
            made.append(
                SetUp(f"{model}, accumulation {count}", title, model, accumulation=count, micro_batches=total)
            )
    made += [
        SetUp("a micro-batch without a supervised token", title, data="an empty rank"),
        SetUp("divided by tokens", title, normalize="tokens"),
        SetUp("token weights", title, data="token weights"),
        SetUp("accelerate's loop", title, engine="accelerate"),
        SetUp("a bare loop", title, engine="torch"),
    ]
    title = "Precision"
    for precision in ("float32", "bf16"):
        made += [SetUp(f"{model}, {precision}", title, model, precision) for model in ("llava", "qwen2_5_vl")]
    title = "Packing"
    made += [
        SetUp("packed rows, task of each token", title, "llama", data="packed"),
        SetUp("padding-free rows, plan from sample ids", title, "llama", data="padding-free"),
    ]
    title = "Adapters and heads"
    for adapter in ADAPTERS:
        for first in (False, True):
            when = "after balance" if first else "before balance"
            made.append(SetUp(f"{adapter}, added {when}", title, adapter=adapter, balanced_first=first))
    made += [
        SetUp("LoRA on body and head, bf16", title, precision="bf16", adapter="LoRA on body and head"),
        SetUp("frozen head", title, change="frozen head"),
        SetUp("tied embeddings", title, "llama", change="tied embeddings"),
    ]
    title = "Families that transform their logits"
    made += [SetUp(family, title, family) for family in FAMILIES]
    title = "Data parallel (DDP, gloo)"
    two: dict[str, Any] = {"ranks": 2, "sharding": "ddp"}
    made += [
        SetUp("DDP, 2 ranks", title, accumulation=1, micro_batches=2, **two),
        SetUp("DDP, 2 ranks, accumulation 4", title, **two),
        SetUp("DDP, 2 ranks, Qwen2.5-VL, accumulation 4", title, "qwen2_5_vl", **two),
        SetUp("DDP, 4 ranks, accumulation 4", title, **{**two, "ranks": 4}),
        SetUp("DDP, 2 ranks, one without a supervised token", title, data="an empty rank", **two),
        SetUp("DDP, 2 ranks, one with text only", title, data="a text-only rank", **two),
        SetUp(
            "DDP, 2 ranks, one with text and a blank image, checkpointing",
            title,
            "qwen2_5_vl",
            "float32",
            data="a blank image",
            checkpointing=True,
            **two,
        ),
        SetUp("DDP, 2 ranks, bf16", title, precision="bf16", **two),
        SetUp("DDP, 2 ranks, LoRA on body and head", title, adapter="LoRA on body and head", **two),
        SetUp("DDP, 2 ranks, accelerate's loop", title, engine="accelerate", **two),
        SetUp(
            "DDP, 4 ranks, accelerate's loop, an empty rank",
            title,
            engine="accelerate",
            data="an empty rank",
            **{**two, "ranks": 4},
        ),
        SetUp("DDP, 2 ranks, a bare loop", title, engine="torch", **two),
    ]
    title = "Sharded (FSDP2, gloo; ZeRO-3 stand-in)"
    two = {"ranks": 2, "sharding": "fsdp2", "engine": "torch"}
    apart = {**two, "sharding": "fsdp2, head apart"}
    made += [
        SetUp("FSDP2, 2 ranks", title, accumulation=1, micro_batches=2, **two),
        SetUp("FSDP2, 2 ranks, accumulation 4", title, **two),
        SetUp("FSDP2, 2 ranks, head apart", title, **apart),
        SetUp("FSDP2, 4 ranks, head apart, Qwen2.5-VL", title, "qwen2_5_vl", **{**apart, "ranks": 4}),
        SetUp("FSDP2, 2 ranks, one without a supervised token", title, data="an empty rank", **two),
        SetUp("FSDP2, 2 ranks, one with text and a blank image", title, data="a blank image", **two),
        SetUp(
            "FSDP2, 2 ranks, one with text and a blank image, checkpointing",
            title,
            precision="float32",
            data="a blank image",
            checkpointing=True,
            **two,
        ),
        SetUp("FSDP2, 4 ranks, an empty rank", title, data="an empty rank", **{**two, "ranks": 4}),
        SetUp("FSDP2, 2 ranks, bf16 parameters", title, precision="bf16", **two),
        SetUp("FSDP2, 2 ranks, LoRA on body and head", title, adapter="LoRA on body and head", **two),
        SetUp("FSDP2, 2 ranks, tied embeddings", title, "llama", change="tied embeddings", **two),
        SetUp("ZeRO-3 stand-in", title, engine="torch", sharding="zero3 stand-in"),
    ]
    title = "TRL (TaskBalancedSFTTrainer)"
    models = ("llava", "qwen2_5_vl", "llama")
    made += [SetUp(f"TRL, {model}, accumulation 4", title, model, engine="trl") for model in models]
    made += [
        SetUp("TRL, a micro-batch without a supervised token", title, data="an empty rank", engine="trl"),
        SetUp("TRL, packed rows", title, "llama", data="packed", engine="trl"),
        SetUp("TRL, bf16", title, precision="bf16", engine="trl"),
    ]
    for first in (False, True):
        when = "after balance" if first else "before balance"
        lora = {"adapter": "LoRA on the body", "balanced_first": first}
        made.append(SetUp(f"TRL, LoRA on the body, added {when}", title, engine="trl", **lora))
    two = {"ranks": 2, "sharding": "ddp", "engine": "trl"}
    made += [
        SetUp("TRL, DDP, 2 ranks", title, **two),
        SetUp("TRL, DDP, 2 ranks, one without a supervised token", title, data="an empty rank", **two),
    ]
    return made


SETUPS: tuple[SetUp, ...] = tuple(_listed())


def build(setup: SetUp, *, balance: Callable[[Any], Any] = lambda model: None) -> Any:
    """The model of a set-up, alike on every call; `balance` is applied where its order among the adapters is."""
    options = {"tie_word_embeddings": True} if setup.change == "tied embeddings" else {}
    model = MODELS[setup.model](**options)
    if setup.precision == "float64":
        to_double(model)
    if setup.change == "frozen head":
        model.get_output_embeddings().requires_grad_(False)
    if setup.balanced_first:
        balance(model)
    if setup.adapter:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(4)
        # Random B as well: with the usual zeros the adapter would add nothing.
        config = LoraConfig(r=3, lora_alpha=5, init_lora_weights=False, **ADAPTERS[setup.adapter])
        model = get_peft_model(model, config, autocast_adapter_dtype=False)
        if setup.precision == "float64":
            model.double()
    if not setup.balanced_first:
        balance(model)
    if setup.checkpointing:
        enable = (
            getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        )
        enable({"use_reentrant": False})
    return model.train()


def run(setup: SetUp, folder: Path) -> Outcome | None:
    """Train the steps of a set-up and compare each with the oracle; None on ranks other than 0."""
    # Without checkpointing: it computes again outside the part of the model that `to_double` keeps double.
    stock = build(dataclasses.replace(setup, checkpointing=False))
    batches = [
        [make_batch(stock, setup.data, rank, number) for number in range(setup.micro_batches)]
        for rank in range(setup.ranks)
    ]
    rank = dist.get_rank() if setup.ranks > 1 else 0
    steps = engines.ENGINES[setup.engine](setup, build, batches[rank], WEIGHTS, folder)
    if rank > 0:
        return None
    worst = Outcome(setup.name, 0.0, 0.0, LIMITS.get(setup.precision, 0.0))
    for number, (loss, gradients) in enumerate(steps):
        first = number * setup.accumulation
        together = [batch for own in batches for batch in own[first : first + setup.accumulation]]
        expected = oracle_step(stock, together, WEIGHTS, normalize=setup.normalize)
        found = _deviation(loss, gradients, *expected)
        limit = worst.limit
        if setup.precision == "bf16":
            plain = plain_step(stock, together, WEIGHTS, dtype=torch.bfloat16)
            limit = max(limit, 2 * max(_deviation(*plain, *expected)) + 2.0**-8)
        worst = dataclasses.replace(
            worst, loss=max(worst.loss, found[0]), gradient=max(worst.gradient, found[1]), limit=limit
        )
    return worst


def _deviation(loss: float, gradients: Gradients, true_loss: float, true: Gradients) -> tuple[float, float]:
    return abs(loss - true_loss) / abs(true_loss), largest_deviation(gradients, true)


def run_on_ranks(names: Sequence[str], ranks: int, *, timeout: float = 900) -> list[Outcome]:
    """Run set-ups, and checks of `rank_checks`, in one torchrun job of `ranks` processes, one after the other."""
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        wanted, found = Path(folder, "wanted.json"), Path(folder, "found.json")
        wanted.write_text(json.dumps(list(names)))
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        job = [sys.executable, *launcher, str(here / "setup_worker.py"), str(wanted), str(found)]
        settings = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        paths = os.pathsep.join([str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            job,
            env={**os.environ, **settings, "PYTHONPATH": paths},
            timeout=timeout,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{ranks} ranks failed with {done.returncode}:\n{done.stderr[-8000:]}")
        return [Outcome(**entry) for entry in json.loads(found.read_text())]
