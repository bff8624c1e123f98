"""The set-ups in which a step's weighted loss must be the formula's, as data.

A `SetUp` says how people train: model, engine, ranks, accumulation, data, adapters, precision. `run_setups.py` runs
them and compares each with the oracle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from support.models.tiny_families import FAMILIES

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
        sharding: "none", "ddp", "fsdp2" (by accelerate's plan under its loop and the Trainer), "fsdp2, head apart"
            or "zero3 stand-in".
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

    @property
    def launcher(self) -> str:
        """What starts the ranks: "accelerate launch" for accelerate's loop, torchrun for the others."""
        return "accelerate launch" if self.engine == "accelerate" else "torchrun"


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
        SetUp("gradient checkpointing", title, precision="float32", checkpointing=True),
    ]
    title = "Precision"
    for precision in ("float32", "bf16"):
        made += [SetUp(f"{model}, {precision}", title, model, precision) for model in ("llava", "qwen2_5_vl")]
    made += [
        SetUp("accelerate's loop, bf16", title, precision="bf16", engine="accelerate"),
        SetUp("a bare loop under autocast, bf16", title, precision="bf16", engine="torch"),
    ]
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
    four = {**two, "ranks": 4}
    blank = "text and a blank image"
    made += [
        SetUp("DDP, 2 ranks", title, accumulation=1, micro_batches=2, **two),
        SetUp("DDP, 2 ranks, accumulation 4", title, **two),
        SetUp("DDP, 2 ranks, accumulation 8", title, accumulation=8, micro_batches=11, **two),
        SetUp("DDP, 2 ranks, Qwen2.5-VL, accumulation 4", title, "qwen2_5_vl", **two),
        SetUp("DDP, 4 ranks, accumulation 4", title, **four),
        SetUp("DDP, 2 ranks, one without a supervised token", title, data="an empty rank", **two),
        SetUp("DDP, 4 ranks, two without a supervised token", title, data="an empty rank", **four),
        SetUp("DDP, 2 ranks, one with text only", title, data="a text-only rank", **two),
        SetUp("DDP, 4 ranks, two with text only", title, data="a text-only rank", **four),
        SetUp(
            "DDP, 2 ranks, one with text only, checkpointing",
            title,
            precision="float32",
            data="a text-only rank",
            checkpointing=True,
            **two,
        ),
        SetUp(f"DDP, 2 ranks, one with {blank}", title, "qwen2_5_vl", data="a blank image", **two),
        SetUp(
            f"DDP, 2 ranks, one with {blank}, checkpointing",
            title,
            "qwen2_5_vl",
            "float32",
            data="a blank image",
            checkpointing=True,
            **two,
        ),
        SetUp("DDP, 2 ranks, packed rows", title, "llama", data="packed", **two),
        SetUp("DDP, 2 ranks, bf16", title, precision="bf16", **two),
        SetUp("DDP, 2 ranks, LoRA on body and head", title, adapter="LoRA on body and head", **two),
        SetUp("DDP, 2 ranks, DoRA on body and head", title, adapter="DoRA on body and head", **two),
        SetUp("DDP, 2 ranks, tied embeddings", title, "llama", change="tied embeddings", **two),
        SetUp("DDP, 2 ranks, a bare loop", title, engine="torch", **two),
        SetUp("DDP, 4 ranks, a bare loop", title, engine="torch", **four),
        SetUp("DDP, 2 ranks, accelerate's loop", title, engine="accelerate", **two),
        SetUp("DDP, 4 ranks, accelerate's loop", title, engine="accelerate", data="an empty rank", **four),
    ]
    title = "Sharded (FSDP2, gloo)"
    two = {"ranks": 2, "sharding": "fsdp2", "engine": "torch"}
    four = {**two, "ranks": 4}
    apart = {**two, "sharding": "fsdp2, head apart"}
    made += [
        SetUp("FSDP2, 2 ranks", title, accumulation=1, micro_batches=2, **two),
        SetUp("FSDP2, 2 ranks, accumulation 4", title, **two),
        SetUp("FSDP2, 4 ranks, accumulation 4", title, **four),
        SetUp("FSDP2, 2 ranks, head apart", title, **apart),
        SetUp("FSDP2, 4 ranks, head apart, Qwen2.5-VL", title, "qwen2_5_vl", **{**apart, "ranks": 4}),
        SetUp("FSDP2, 2 ranks, one without a supervised token", title, data="an empty rank", **two),
        SetUp("FSDP2, 4 ranks, two without a supervised token", title, data="an empty rank", **four),
        SetUp(f"FSDP2, 2 ranks, one with {blank}", title, data="a blank image", **two),
        SetUp(f"FSDP2, 4 ranks, two with {blank}", title, data="a blank image", **four),
        SetUp(
            f"FSDP2, 2 ranks, one with {blank}, checkpointing",
            title,
            precision="float32",
            data="a blank image",
            checkpointing=True,
            **two,
        ),
        SetUp("FSDP2, 2 ranks, Gemma 2", title, "gemma2", **two),
        SetUp("FSDP2, 2 ranks, bf16 parameters", title, precision="bf16", **two),
        SetUp("FSDP2, 2 ranks, LoRA on body and head", title, adapter="LoRA on body and head", **two),
        SetUp("FSDP2, 2 ranks, DoRA on a head apart", title, adapter="DoRA on body and head", **apart),
        SetUp("FSDP2, 2 ranks, modules_to_save", title, adapter="modules_to_save", **two),
        SetUp("FSDP2, 2 ranks, tied embeddings", title, "llama", change="tied embeddings", **two),
        SetUp("FSDP2, 2 ranks, the Trainer", title, **{**two, "engine": "trainer"}),
        SetUp("FSDP2, 4 ranks, the Trainer", title, data="an empty rank", **{**four, "engine": "trainer"}),
        SetUp("FSDP2, 2 ranks, accelerate's loop", title, **{**two, "engine": "accelerate"}),
        SetUp(
            "FSDP2, 2 ranks, accelerate's loop, tied embeddings",
            title,
            "llama",
            change="tied embeddings",
            **{**two, "engine": "accelerate"},
        ),
        SetUp(
            "FSDP2, 4 ranks, accelerate's loop, Qwen2.5-VL",
            title,
            "qwen2_5_vl",
            **{**four, "engine": "accelerate"},
        ),
    ]
    title = "ZeRO-3 (stand-in)"
    emptied: dict[str, Any] = {"engine": "torch", "sharding": "zero3 stand-in"}
    made += [
        SetUp("ZeRO-3 stand-in", title, **emptied),
        SetUp("ZeRO-3 stand-in, Qwen2.5-VL, accumulation 8", title, "qwen2_5_vl", accumulation=8, **emptied),
        SetUp("ZeRO-3 stand-in, Gemma 2", title, "gemma2", **emptied),
        SetUp("ZeRO-3 stand-in, LoRA on the body", title, adapter="LoRA on the body", **emptied),
        SetUp("ZeRO-3 stand-in, modules_to_save", title, adapter="modules_to_save", **emptied),
        SetUp("ZeRO-3 stand-in, tied embeddings", title, "llama", change="tied embeddings", **emptied),
        SetUp("ZeRO-3 stand-in, frozen head", title, change="frozen head", **emptied),
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
# Ranks and launcher of the jobs in which the set-ups with several ranks run.
JOBS = sorted({(setup.ranks, setup.launcher) for setup in SETUPS if setup.ranks > 1})
# Those run with the lowest supported versions too.
CORE = (
    "llava, accumulation 4",
    "qwen2_5_vl, accumulation 4",
    "llama, accumulation 8",
    "accelerate's loop",
    "gradient checkpointing",
    "llava, bf16",
    "packed rows, task of each token",
    "LoRA on body and head, added before balance",
    "LoRA on body and head, added after balance",
    "DoRA on body and head, added after balance",
    "modules_to_save, added before balance",
    "tied embeddings",
    *FAMILIES,
    "DDP, 2 ranks, accumulation 4",
    "DDP, 2 ranks, one without a supervised token",
    "FSDP2, 2 ranks, accumulation 4",
)
