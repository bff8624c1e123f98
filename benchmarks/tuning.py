"""Throughput of whole training steps, data loading to optimizer: ours against unweighted tuning.

The models are transformers' LLaVA with random weights, the loops are transformers' ``Trainer`` and ours on top of
it, and what is timed is what a user waits for: from the end of one optimizer step to the end of the next.
"""

from __future__ import annotations

import gc
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

import cotbal
from benchmarks.timing import peak_memory, summarise
from benchmarks.workloads import Workload, unweighted

OURS, OURS_QUIET = "ours", "ours, no logs"
STOCK, STOCK_QUIET = "stock", "stock, no logs"
LIGER = "Liger"
WARM_UP = 3  # optimizer steps


class Stopwatch(TrainerCallback):  # type: ignore[misc]
    """Seconds between the ends of successive optimizer steps; the first steps are warm-up."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []
        self.last: float | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self.last is not None and state.global_step > WARM_UP:
            self.seconds.append(now - self.last)
        self.last = now


def _arguments(
    workload: Workload, device: torch.device, steps: int, folder: str, kind: str
) -> TrainingArguments:
    logs = "no logs" not in kind
    return TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=workload.batch,
        max_steps=steps,
        learning_rate=1e-4,
        logging_strategy="steps" if logs else "no",
        logging_steps=1 if logs else 500,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        use_liger_kernel=kind == LIGER,
        use_cpu=device.type == "cpu",
        bf16=workload.dtype is torch.bfloat16,
    )


def trainer_of(
    kind: str, workload: Workload, device: torch.device, steps: int, folder: str, watch: Stopwatch
) -> Trainer:
    """A trainer of one kind on a model of its own."""
    model = workload.model(device)
    arguments = _arguments(workload, device, steps, folder, kind)
    common: dict[str, Any] = {"train_dataset": workload.samples(steps * workload.batch), "callbacks": [watch]}
    if kind in (OURS, OURS_QUIET):
        tasks = workload.tasks
        weights = [0.5 + number / (len(tasks) - 1) for number in range(len(tasks))]
        trainer: Trainer = cotbal.TaskBalancedTrainer(
            model, arguments, data_collator=workload.collate, tasks=tasks, task_weights=weights, **common
        )
    else:
        trainer = Trainer(model, arguments, data_collator=unweighted(workload.collate), **common)
    trainer.remove_callback(PrinterCallback)
    return trainer


@contextmanager
def patches_undone() -> Iterator[None]:
    """Liger replaces functions and classes in transformers' modules; put them back for whoever comes next."""
    modules = [module for name, module in sys.modules.items() if name.startswith("transformers.models.")]
    before = [(module, dict(vars(module))) for module in modules]
    try:
        yield
    finally:
        for module, names in before:
            vars(module).update(names)


def kinds_here(device: torch.device) -> tuple[list[str], dict[str, str]]:
    """Who can train on this device, and why the others cannot."""
    kinds = [OURS, OURS_QUIET, STOCK, STOCK_QUIET]
    if device.type != "cuda":
        return kinds, {LIGER: "Liger runs on GPUs only"}
    if importlib.util.find_spec("liger_kernel") is None:
        return kinds, {LIGER: "the package liger_kernel is not installed"}
    return [*kinds, LIGER], {}


def run_workload(
    workload: Workload, device: torch.device, *, rounds: int = 3, steps: int = 7
) -> dict[str, Any]:
    """Train each kind in turn, ``rounds`` times over, on models of its own; step times pooled per kind."""
    kinds, absent = kinds_here(device)
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    peaks: dict[str, int] = {}
    for turn in range(-1, rounds):  # one round for peak memory, and to warm up
        for kind in kinds[turn % len(kinds) :] + kinds[: turn % len(kinds)]:
            watch = Stopwatch(device)
            with tempfile.TemporaryDirectory() as folder, patches_undone():
                trainer = trainer_of(kind, workload, device, steps if turn >= 0 else 2, folder, watch)
                if turn < 0:
                    peaks[kind] = peak_memory(trainer.train, device)
                else:
                    trainer.train()
            seconds[kind] += watch.seconds
            del trainer
            gc.collect()
    tokens, supervised = _tokens(workload, steps)
    timings = {kind: summarise(seconds[kind], peaks[kind]) for kind in kinds}
    return {
        "name": workload.name,
        "batch": workload.batch,
        "tokens": tokens,
        "supervised": supervised,
        "contenders": {
            kind: {
                **timing.as_dict(),
                "tokens_per_second": tokens / timing.median,
                "ratio_to_stock": timing.median / timings[STOCK].median,
            }
            for kind, timing in timings.items()
        },
        "absent": absent,
    }


def _tokens(workload: Workload, steps: int) -> tuple[float, float]:
    """Tokens of a batch without padding, and the share of them that is supervised; means over the first steps."""
    samples = workload.samples(steps * workload.batch)
    tokens = supervised = 0
    for step in range(steps):
        indices = range(step * workload.batch, (step + 1) * workload.batch)
        batch = workload.collate([samples[index] for index in indices])
        tokens += int(batch["attention_mask"].sum())
        supervised += int((batch["labels"] != -100).sum())
    return tokens / steps, supervised / tokens


def largest_batch(workload: Workload, kind: str, device: torch.device) -> int:
    """The largest power of two of samples on which ``kind`` makes two steps before memory runs out (GPU only)."""
    batch = 1
    while True:
        larger = workload.with_batch(batch)
        try:
            with tempfile.TemporaryDirectory() as folder, patches_undone():
                trainer_of(kind, larger, device, 2, folder, Stopwatch(device)).train()
        except torch.cuda.OutOfMemoryError:
            return batch // 2
        finally:
            gc.collect()
            torch.cuda.empty_cache()
        batch *= 2


def run(
    workloads: Sequence[Workload], device: torch.device, announce: Callable[[str], object]
) -> list[dict[str, Any]]:
    entries = []
    for workload in workloads:
        announce(workload.name)
        entry = run_workload(workload, device)
        if device.type == "cuda":
            entry["largest_batch"] = {
                kind: largest_batch(workload, kind, device) for kind in kinds_here(device)[0]
            }
        entries.append(entry)
    return entries
