"""Throughput of whole training steps, data loading to optimizer: ours against unweighted tuning.

The model is transformers' LLaVA with random weights, the loops are transformers' ``Trainer`` and ours on top of it,
and what is timed is what a user waits for: from the end of one optimizer step to the end of the next.
"""

from __future__ import annotations

import gc
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import cotbal
import cotbal_kernels as ck
from benchmarks.timing import peak_memory, summarise

IMAGE_TOKENS = 36
TASKS = 8


@dataclass(frozen=True)
class Size:
    """A LLaVA to train: language model width and depth, vocabulary, and the batch."""

    name: str
    hidden: int
    layers: int
    vocab: int
    batch: int
    length: int
    supervised: float = 0.1
    dtype: torch.dtype = torch.float32
    heads: int = 8
    intermediate: int | None = None

    def model(self, device: torch.device) -> LlavaForConditionalGeneration:
        torch.manual_seed(0)
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                image_size=84, patch_size=14,
            ),
            text_config=LlamaConfig(
                vocab_size=self.vocab, hidden_size=self.hidden, num_hidden_layers=self.layers,
                intermediate_size=self.intermediate or 2 * self.hidden, num_attention_heads=self.heads,
                num_key_value_heads=self.heads, max_position_embeddings=4096,
            ),
            image_token_index=self.vocab - 1,
            image_seq_length=IMAGE_TOKENS,
        )  # fmt: skip
        return LlavaForConditionalGeneration(config).to(device, self.dtype)


CPU_SIZES = (
    Size("tiny LLaVA, H=128 V=32000", hidden=128, layers=2, vocab=32_000, batch=4, length=256),
    Size("small LLaVA, H=256 V=32000", hidden=256, layers=4, vocab=32_000, batch=4, length=256),
)
GPU_SIZES = (
    Size(
        "1B LLaVA, H=2048 V=32064",
        2048,
        16,
        32_064,
        8,
        2048,
        dtype=torch.bfloat16,
        heads=16,
        intermediate=5632,
    ),
    Size(
        "7B LLaVA, H=4096 V=32064",
        4096,
        32,
        32_064,
        2,
        2048,
        dtype=torch.bfloat16,
        heads=32,
        intermediate=11008,
    ),
)


class Samples(Dataset[dict[str, torch.Tensor]]):
    """Random samples in LLaVA's layout: image tokens, a question, an answer at the end; the answer is supervised."""

    def __init__(self, size: Size, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.size = size
        self.ids = torch.randint(3, size.vocab - 2, (count, size.length), generator=generator)
        self.ids[:, 1 : 1 + IMAGE_TOKENS] = size.vocab - 1
        self.pixels = torch.randn(count, 3, 84, 84, generator=generator).to(size.dtype)
        self.answer = max(1, round(size.length * size.supervised))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        labels = torch.full_like(self.ids[index], -100)
        labels[-self.answer :] = self.ids[index, -self.answer :]
        return {
            "input_ids": self.ids[index],
            "labels": labels,
            "pixel_values": self.pixels[index],
            "loss_task_index": torch.tensor(index % TASKS),
        }


def collate_stock(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    batch = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    del batch["loss_task_index"]
    return batch


def collate_tasks(samples: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
    batch: dict[str, Any] = collate_stock(samples)
    batch["loss_task_index"] = torch.stack([sample["loss_task_index"] for sample in samples])
    batch["loss_plan"] = ck.plan(batch["labels"], batch["loss_task_index"], num_tasks=TASKS, shift=True)
    return batch


class Stopwatch(TrainerCallback):  # type: ignore[misc]
    """Seconds between the ends of successive optimizer steps; the first steps are warm-up."""

    def __init__(self, device: torch.device, warm_up: int = 2) -> None:
        self.device, self.warm_up = device, warm_up
        self.seconds: list[float] = []
        self.last: float | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self.last is not None and state.global_step > self.warm_up:
            self.seconds.append(now - self.last)
        self.last = now


def arguments(size: Size, steps: int, folder: str, *, logs: bool, liger: bool = False) -> TrainingArguments:
    return TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=size.batch,
        max_steps=steps,
        learning_rate=1e-4,
        logging_strategy="steps" if logs else "no",
        logging_steps=1 if logs else 500,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        use_liger_kernel=liger,
        use_cpu=not torch.cuda.is_available(),
        bf16=size.dtype is torch.bfloat16,
    )


def _trainer(kind: str, model: Any, size: Size, steps: int, folder: str, watch: Stopwatch) -> Trainer:
    data = Samples(size, steps * size.batch)
    logs = "no logs" not in kind
    if kind.startswith("ours"):
        weights = [0.5 + i / (TASKS - 1) for i in range(TASKS)]
        trainer: Trainer = cotbal.TaskBalancedTrainer(
            model,
            arguments(size, steps, folder, logs=logs),
            train_dataset=data,
            data_collator=collate_tasks,
            tasks=[f"task{i}" for i in range(TASKS)],
            task_weights=weights,
            callbacks=[watch],
        )
        return trainer
    return Trainer(
        model,
        arguments(size, steps, folder, logs=logs, liger=kind == "Liger"),
        train_dataset=data,
        data_collator=collate_stock,
        callbacks=[watch],
    )


def run_size(size: Size, device: torch.device, *, rounds: int = 4, steps: int = 8) -> dict[str, Any]:
    """Train each kind in turn, ``rounds`` times over, on models of its own; step times pooled per kind."""
    kinds = ["ours", "ours, no logs", "stock", "stock, no logs"]
    absent: dict[str, str] = {}
    if device.type != "cuda":
        absent["Liger"] = "Liger runs on GPUs only"
    elif importlib.util.find_spec("liger_kernel") is None:
        absent["Liger"] = "the package liger_kernel is not installed"
    else:
        kinds.append("Liger")
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    peaks: dict[str, int | None] = {}
    for turn in range(rounds):
        for kind in kinds[turn % len(kinds) :] + kinds[: turn % len(kinds)]:
            model = size.model(device)
            with tempfile.TemporaryDirectory() as folder:
                watch = Stopwatch(device)
                trainer = _trainer(kind, model, size, steps, folder, watch)
                if turn == 0:
                    peaks[kind] = peak_memory(trainer.train, device)
                    watch.seconds.clear()
                    watch.last = None
                trainer.train()
            seconds[kind] += watch.seconds
            del model, trainer
            gc.collect()
    tokens = size.batch * size.length
    return {
        "name": f"{size.name}, {size.supervised:.0%} supervised",
        "tokens": tokens,
        "supervised": size.supervised,
        "batch": size.batch,
        "contenders": {
            kind: {
                **summarise(seconds[kind], peaks[kind]).as_dict(),
                "tokens_per_second": tokens / statistics.median(seconds[kind]),
            }
            for kind in kinds
        },
        "absent": absent,
    }


def largest_batch(size: Size, kind: str, device: torch.device, start: int = 1) -> int:
    """The largest power of two of samples one step of ``kind`` trains on before memory runs out (GPU only)."""
    batch = start
    while True:
        larger = Size(**{**size.__dict__, "batch": batch})
        try:
            with tempfile.TemporaryDirectory() as folder:
                _trainer(kind, larger.model(device), larger, 2, folder, Stopwatch(device)).train()
        except torch.cuda.OutOfMemoryError:
            return batch // 2
        finally:
            gc.collect()
            torch.cuda.empty_cache()
        batch *= 2


def run(
    sizes: tuple[Size, ...], device: torch.device, announce: Callable[[str], object]
) -> list[dict[str, Any]]:
    entries = []
    for size in sizes:
        announce(size.name)
        entry = run_size(size, device)
        if device.type == "cuda":
            entry["largest_batch"] = {
                kind: largest_batch(size, kind, device) for kind in ("ours, no logs", "stock, no logs")
            }
        entries.append(entry)
    return entries
