"""`cotbal unit` as a user starts it, with everything counted that its training holds.

    python measured_unit.py OUT.json CONFIG UNIT

Each rank writes OUT.json.RANK: the bytes of its weights, gradients and optimizer state, from the live tensors of the
third optimizer step, the most that the allocator had given out until then, the most that was resident in that step,
and the most that checkpoints took.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback

import cotbal.units.train
from cotbal.cli import main
from cotbal.units.trainer import UnitTrainer

STEP = 2


def storage_bytes(tensors: Any) -> int:
    """By address, so that it shares nothing with what it measures."""
    found: dict[int, int] = {}
    for tensor in tensors:
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        storage = local.untyped_storage()
        if storage.nbytes():
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def resident(name: str) -> int:
    """The bytes of this process's pages, now (`VmRSS`) or at most since `clear_refs` (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def live_tensors() -> list[torch.Tensor]:
    gc.collect()
    found = [each for each in gc.get_objects() if type(each) in (torch.Tensor, torch.nn.Parameter)]
    return [each for each in found if each.device.type == "cpu"]


def state_tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for inner in value.values() for tensor in state_tensors(inner)]
    return []


def packed(model: torch.nn.Module) -> list[torch.Tensor]:
    """What bitsandbytes keeps beside packed weights."""
    found: list[torch.Tensor] = []
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            found += [state.absmax, state.code]
            found += [] if state.offset is None else [state.offset]
            found += [] if state.state2 is None else [state.state2.absmax, state.state2.code]
        eight = getattr(module, "state", None)
        scale = getattr(getattr(module, "weight", None), "SCB", None)
        scale = getattr(eight, "SCB", None) if scale is None else scale
        found += [scale] if isinstance(scale, torch.Tensor) else []
    return found


def buckets(wrapped: Any) -> int:
    """DDP's, for which Python has no name but in what DDP logs."""
    if not isinstance(wrapped, DistributedDataParallel):
        return 0
    sizes = wrapped._get_ddp_logging_data()["bucket_sizes"]
    return sum(int(size) for size in sizes.split(","))


class Watch(TrainerCallback):
    """Measures the steps up to the third, once the model is wrapped."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.values: dict[str, int] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        model = self.trainer.model
        held = storage_bytes([*live_tensors(), *model.parameters(), *model.buffers(), *packed(model)])
        self.base = held + buckets(self.trainer.model_wrapped)
        self.profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self.profile.__enter__()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step != STEP:
            return
        # The profile misses what the threads of gloo free, and would count it for ever; what pages say is the truth,
        # but for Python and what libraries keep, which is there before the step.
        model, states = self.trainer.model, self.trainer.optimizer.state.values()
        tensors = [tensor for each in states for tensor in state_tensors(each)]
        held = storage_bytes([*model.parameters(), *model.buffers(), *packed(model), *tensors])
        self.held = held + buckets(self.trainer.model_wrapped)
        Path("/proc/self/clear_refs").write_text("5")
        self.resident = resident("VmRSS")

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step != STEP:
            return
        in_step = resident("VmHWM") - self.resident
        self.profile.__exit__(None, None, None)
        model = self.trainer.model
        states = self.trainer.optimizer.state.values()
        values = {
            "weights": storage_bytes([*model.parameters(), *model.buffers(), *packed(model)]),
            "gradients": storage_bytes(p.grad for p in model.parameters() if p.grad is not None),
            "optimizer": storage_bytes(tensor for each in states for tensor in state_tensors(each)),
            "peak": self.base + self._most(),
            "resident": self.held + in_step,
            "sharded": sum(isinstance(p, DTensor) for p in model.parameters()),
            "pid": os.getpid(),
        }
        self.values |= values

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        found = [path for path in Path(args.output_dir).rglob("*") if path.is_file()]
        self.values["checkpoints"] = max(
            self.values.get("checkpoints", 0), sum(p.stat().st_size for p in found)
        )

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        Path(f"{OUT}.{args.process_index}").write_text(json.dumps(self.values))

    def _most(self) -> int:
        """The most that was given out and not taken back at any time."""
        events = self.profile.profiler.kineto_results.events()  # type: ignore[union-attr]
        now = most = 0
        for event in sorted(
            (each for each in events if each.name() == "[memory]"), key=lambda each: each.start_ns()
        ):
            now += event.nbytes()
            most = max(most, now)
        return most


class MeasuredTrainer(UnitTrainer):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.add_callback(Watch(self))


if __name__ == "__main__":
    OUT, config, name = sys.argv[1:4]
    cotbal.units.train.UnitTrainer = MeasuredTrainer  # type: ignore[misc]
    sys.exit(main(["unit", config, name]))
