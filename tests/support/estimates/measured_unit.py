"""`cotbal unit` as a user starts it, with everything counted that its training holds.

    python measured_unit.py OUT.json CONFIG UNIT

Each rank writes OUT.json.RANK: the bytes of its weights, gradients and optimizer state, from the live tensors of the
third optimizer step, and the most that the allocator had given out within that step.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any

import torch
from torch.distributed.tensor import DTensor
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


class Watch(TrainerCallback):
    """Measures one optimizer step."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.values: dict[str, int] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == STEP:
            self.base = storage_bytes([*live_tensors(), *self._own()])
            self.profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self.profile.__enter__()

    def _own(self) -> list[torch.Tensor]:
        model = self.trainer.model
        optimizer = [t for each in self.trainer.optimizer.state.values() for t in state_tensors(each)]
        return [*model.parameters(), *model.buffers(), *packed(model), *optimizer]

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step != STEP:
            return
        self.profile.__exit__(None, None, None)
        model = self.trainer.model
        states = self.trainer.optimizer.state.values()
        self.values = {
            "weights": storage_bytes([*model.parameters(), *model.buffers(), *packed(model)]),
            "gradients": storage_bytes(p.grad for p in model.parameters() if p.grad is not None),
            "optimizer": storage_bytes(tensor for each in states for tensor in state_tensors(each)),
            "peak": self.base + self._most(),
            "sharded": sum(isinstance(p, DTensor) for p in model.parameters()),
            "pid": os.getpid(),
        }
        path = f"{OUT}.{args.process_index}"
        with open(path, "w", encoding="utf-8") as stream:
            json.dump(self.values, stream)

    def _most(self) -> int:
        events = [
            each
            for each in self.profile.profiler.kineto_results.events()  # type: ignore[union-attr]
            if each.name() == "[memory]"
        ]
        now = most = 0
        for event in sorted(events, key=lambda each: each.start_ns()):
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
