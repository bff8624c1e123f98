"""The memory of one process that trains: a training step of the real modules, played through without data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainingArguments

import cotbal_kernels as ck
from cotbal.config.model import ModelConfig
from cotbal.config.yaml_file import ConfigError
from cotbal.estimates.live_bytes import SimulatedBytes, storage_bytes, without_data
from cotbal.estimates.loss import loss_bytes
from cotbal.estimates.machine import Device
from cotbal.estimates.model import (
    count_parameters,
    described_model,
    materialise,
    own_tables,
    packed_statistics,
    quiet,
)
from cotbal.estimates.optimizer import make_optimizer
from cotbal.estimates.sharded import pretended_processes, shard
from cotbal.tune.effective_weight import head_product
from cotbal.tune.override import local_precision, replaced_head_and_loss
from cotbal.units.arguments import training_arguments
from cotbal.units.batches import BatchLayout

__all__ = ["Memory", "NotEstimatedError", "estimate_memory"]


class NotEstimatedError(Exception):
    """A training cannot be played through; the message says why."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process.

    Attributes:
        weights: parameters and buffers; under FSDP this process's shards, padding included.
        gradients: what is left after a backward pass.
        optimizer: the optimizer's state.
        buckets: DDP's copies of the gradients, for its messages.
        peak: the most at once in a step, all of these included.
        runtime: what the device's libraries take beside tensors.
        parameters, trained: how many numbers the whole model has, and how many of them are trained.
    """

    weights: int
    gradients: int
    optimizer: int
    buckets: int
    peak: int
    runtime: int
    parameters: int
    trained: int

    @property
    def activations(self) -> int:
        """What the peak has beside weights, gradients, optimizer and buckets: activations, logits, messages."""
        return max(0, self.peak - self.weights - self.gradients - self.optimizer - self.buckets)

    @property
    def needed(self) -> int:
        """What a device must have."""
        return self.peak + self.runtime


def estimate_memory(
    model: ModelConfig,
    settings: Mapping[str, Any],
    layout: BatchLayout,
    batch: Mapping[str, Any],
    device: Device,
    *,
    rank: int = 0,
) -> Memory:
    """Play an optimizer step through, with the real modules on tensors without data, and count what is alive.

    Args:
        model: the config's section.
        settings: of the training, see `training_settings`.
        layout: of a step's samples.
        batch: a micro-batch as the collator makes it, the longest that is to be expected.
        device: what a process trains on.
        rank: of the process, for shards of unequal size.

    Raises:
        NotEstimatedError: the model or optimizer looks into numbers that only a real step has, or the engine is
            none that is known here.
        ConfigError: the model is unknown or does not fit its settings.
    """
    if settings.get("deepspeed"):
        raise NotEstimatedError("DeepSpeed's own partitions are not estimated")
    stand_in = {**settings, "use_cpu": True, "per_device_train_batch_size": layout.per_device}
    with quiet():
        arguments = training_arguments(stand_in, Path("estimate"), 0)
        described = described_model(model)
    sharded = bool(settings.get("fsdp")) and layout.processes > 1
    try:
        with (
            quiet(),
            pretended_processes(layout.processes, rank) if sharded else nullcontext(),
            torch.random.fork_rng(devices=[]),
            own_tables(),
            FakeTensorMode(allow_non_fake_inputs=True),
            SimulatedBytes(loss_bytes) as live,
        ):
            return _step(described, arguments, layout, batch, device, live, sharded=sharded)
    except ConfigError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise NotEstimatedError(
            f"a step could not be played through: {type(error).__name__}: {first}"
        ) from error


def _step(
    model: Any,
    arguments: TrainingArguments,
    layout: BatchLayout,
    batch: Mapping[str, Any],
    device: Device,
    live: SimulatedBytes,
    *,
    sharded: bool,
) -> Memory:
    materialise(model)
    parameters, trained = count_parameters(model)
    model.train()
    if arguments.activation_checkpointing:
        _checkpoint(model, arguments)
    if sharded:
        model = shard(model, arguments, mixed=device.kind == "gpu")
    own = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = storage_bytes([*model.parameters(), *model.buffers(), *packed_statistics(model)])
    inputs = {name: without_data(value) for name, value in batch.items()}
    live.peak = live.now
    before = live.now
    precision = _precision(arguments, device, sharded=sharded)
    for _ in range(min(2, layout.accumulation)):
        _forward_and_backward(model, inputs, precision, device)
    gradients = storage_bytes(parameter.grad for parameter in own if parameter.grad is not None)
    optimizer = make_optimizer(
        [_local(parameter) for parameter in own],
        *Trainer.get_optimizer_cls_and_kwargs(arguments, model),
        device.kind,
    )
    step_peak = live.peak
    live.peak = live.now
    state = optimizer.step()
    buckets = storage_bytes(own) if layout.processes > 1 and not sharded else 0
    # What was there before the step and is none of the model's (caches of transformers) counts as well.
    peak = max(step_peak + state, live.peak) - before + max(before, weights) + buckets
    return Memory(weights, gradients, state, buckets, peak, device.runtime, parameters, trained)


def _local(parameter: Any) -> Any:
    """A process's own part of a parameter and its gradient."""
    if not isinstance(parameter, DTensor):
        return parameter
    part = torch.nn.Parameter(parameter._local_tensor.detach(), parameter.requires_grad)
    part.grad = None if parameter.grad is None else parameter.grad._local_tensor  # type: ignore[attr-defined]
    return part


def _checkpoint(model: Any, arguments: TrainingArguments) -> None:
    given: Any = arguments.activation_checkpointing_kwargs
    options: dict[str, Any] = dict(given or {})
    every, offload = options.pop("every_n_layers", 1), options.pop("offload", False)
    model.activation_checkpointing_enable(
        activation_checkpointing_kwargs=options or None, every_n_layers=every, offload=offload
    )


Precision = Callable[[], AbstractContextManager[Any]]


def _precision(arguments: TrainingArguments, device: Device, *, sharded: bool) -> Precision:
    """The autocast that accelerate puts around a forward; FSDP2 casts by itself."""
    dtype = torch.bfloat16 if arguments.bf16 else torch.float16 if arguments.fp16 else None
    if dtype is None or sharded:
        return nullcontext
    return lambda: torch.autocast("cpu", dtype)


def _forward_and_backward(
    model: Any, inputs: Mapping[str, Any], precision: Precision, device: Device
) -> None:
    plan = inputs["loss_plan"]
    given = {name: value for name, value in inputs.items() if not name.startswith("loss_")}
    with precision(), _fused_loss(model, plan, device.loss_budget):
        loss = model(**given).loss
    loss.float().backward()


@contextmanager
def _fused_loss(model: Any, plan: ck.Plan, budget: int) -> Iterator[None]:
    """The loss inside of the head, as `cotbal.balance` has it, with the budget of the device it is estimated for."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    found: list[Tensor] = []

    def fused(head: Any, hidden: Tensor) -> Tensor:
        with local_precision(hidden) as dtype:
            product = head_product(head, hidden.to(dtype))
            bias = None if product.bias is None else product.bias.to(dtype)
            weight = product.weight.to(dtype)
            weight = weight.to_local() if isinstance(weight, DTensor) else weight
            found.append(
                ck.linear_cross_entropy(
                    product.hidden, weight, bias=bias, plan=plan, memory_budget=budget, impl="torch"
                ).loss
            )
        return found[-1]

    with replaced_head_and_loss(base, fused, lambda *args, **kwargs: found[-1].clone()):
        yield
