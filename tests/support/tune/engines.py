"""Loops that train the steps of a set-up: the Trainer's, accelerate's, and a bare one under DDP, FSDP2 or none.

Each returns, for every optimizer step, its loss and the gradients that the optimizer would get. No engine changes a
parameter, so that every step can be compared with the same stock model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from support.tune.recorded_steps import MicroBatches, Recorder, single, training_arguments
from support.tune.stand_in_zero3 import StandInZero3
from support.tune.step_oracle import Gradients, gradients_of
from torch import Tensor, nn

from cotbal.tune import TaskBalancedTrainer, balance, begin_step, end_step, handle_of

if TYPE_CHECKING:
    from support.tune.setups import SetUp

Steps = list[tuple[float, Gradients]]
Build = Callable[..., Any]
TASKS = ("first", "second", "third")


def _grouped(batches: Sequence[Any], size: int) -> list[list[Any]]:
    return [list(batches[first : first + size]) for first in range(0, len(batches), size)]


def _over_ranks(value: Tensor, ranks: int) -> float:
    value = value.detach().double().clone()
    if ranks > 1:
        dist.all_reduce(value)
    return float(value)


class _LossRecorder(TaskBalancedTrainer):
    """Keeps each micro-batch's loss in its own precision; the stock logs are in float32."""

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if self.args.fsdp:
            _allow_fsdp2_on_cpus(self.accelerator, self.args.fsdp_plugin_args)
            self.is_fsdp_enabled = True

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        self.__dict__.setdefault("micro_losses", []).append(loss)
        return loss


def with_trainer(
    setup: SetUp, build: Build, own: Sequence[Any], weights: Sequence[float], folder: Path
) -> Steps:
    """`TaskBalancedTrainer`; under several ranks it wraps the model in DDP."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()  # the precision may differ from the last set-up's
    model = build(setup, balance=lambda model: balance(model, weights) if setup.balanced_first else None)
    fsdp = {"version": 2, "transformer_layer_cls_to_wrap": sorted({type(b).__name__ for b in _blocks(model)})}
    arguments = training_arguments(
        folder,
        learning_rate=0.0,
        gradient_accumulation_steps=setup.accumulation,
        bf16=setup.precision == "bf16",
        **({"ddp_backend": "gloo"} if setup.ranks > 1 else {}),
        # The Trainer's default with checkpointing is False: DDP then refuses a rank without images.
        **({"ddp_find_unused_parameters": True} if setup.data == "a text-only rank" else {}),
        **({"fsdp": True, "fsdp_config": fsdp} if setup.sharding == "fsdp2" else {}),
    )
    # The Trainer deals the micro-batches out to the ranks in turn.
    dealt = _dealt(own, setup.ranks)
    recorder = Recorder()
    trainer = _LossRecorder(
        model,
        arguments,
        tasks=TASKS,
        task_weights=weights,
        normalize=setup.normalize,
        train_dataset=MicroBatches(dealt),
        data_collator=single,
        callbacks=[recorder],
    )
    trainer.train()
    _check_sharding(setup, trainer.model_wrapped)
    losses = [
        _over_ranks(torch.stack(group).sum(), setup.ranks) / setup.ranks
        for group in _grouped(trainer.micro_losses, setup.accumulation)
    ]
    return list(zip(losses, recorder.gradients, strict=True))


def _dealt(own: Sequence[Any], ranks: int) -> list[Any]:
    """All ranks' micro-batches in the order in which the Trainer's data loader deals them out."""
    if ranks == 1:
        return list(own)
    gathered: list[Any] = [None] * ranks
    dist.all_gather_object(gathered, list(own))
    return [batch for row in zip(*gathered, strict=True) for batch in row]


def with_accelerate(
    setup: SetUp, build: Build, own: Sequence[Any], weights: Sequence[float], folder: Path
) -> Steps:
    """accelerate's own loop: `accelerator.backward` divides by the accumulation, DDP by the ranks."""
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=setup.accumulation,
        mixed_precision="bf16" if setup.precision == "bf16" else "no",
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    bare = build(setup)
    if setup.sharding == "fsdp2":
        blocks = sorted({type(block).__name__ for block in _blocks(bare)})
        _allow_fsdp2_on_cpus(accelerator, {"fsdp_version": 2, "transformer_cls_names_to_wrap": blocks})
    handle = balance(bare, weights, normalize=setup.normalize)
    model, _ = accelerator.prepare(bare, torch.optim.SGD(bare.parameters(), lr=0.0))
    _check_sharding(setup, model)
    averaged_over = accelerator.num_processes * accelerator.gradient_accumulation_steps
    steps: Steps = []
    for group in _grouped(own, setup.accumulation):
        begin_step(handle, group, averaged_over=averaged_over)
        total = torch.zeros((), dtype=torch.float64)
        for number, batch in enumerate(group):
            last = number == len(group) - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
            total += loss.detach()
        end_step(handle)
        steps.append((_over_ranks(total, setup.ranks) / averaged_over, gradients_of(bare)))
        bare.zero_grad(set_to_none=True)
    return steps


def _allow_fsdp2_on_cpus(accelerator: Any, options: dict[str, Any]) -> None:
    """accelerate shards on accelerators only, though what it does to the model runs on CPUs just as well."""
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        **{"auto_wrap_policy": "TRANSFORMER_BASED_WRAP", **options}
    )


def _check_sharding(setup: SetUp, model: nn.Module) -> None:
    """What a set-up says about sharding is what accelerate did."""
    from torch.distributed.tensor import DTensor

    assert isinstance(model, nn.parallel.DistributedDataParallel) == (setup.sharding == "ddp")
    sharded = [isinstance(parameter, DTensor) for parameter in model.parameters()]
    assert all(sharded) if setup.sharding == "fsdp2" else not any(sharded)


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks, of the language model and of the vision tower."""
    kinds = ("DecoderLayer", "EncoderLayer", "VisionBlock")
    return [module for module in model.modules() if type(module).__name__.endswith(kinds)]


def with_torch(
    setup: SetUp, build: Build, own: Sequence[Any], weights: Sequence[float], folder: Path
) -> Steps:
    """A bare loop: nothing else, DDP, FSDP2, or the stand-in for ZeRO-3."""
    bare = build(setup)
    handle = balance(bare, weights, normalize=setup.normalize)
    model, engine = bare, contextlib.nullcontext()
    if setup.sharding == "ddp":
        model = nn.parallel.DistributedDataParallel(bare, find_unused_parameters=True)
    elif setup.sharding.startswith("fsdp2"):
        _shard(bare, head_apart="apart" in setup.sharding, low=setup.precision == "bf16")
    elif setup.sharding == "zero3 stand-in":
        engine = StandInZero3(bare)
    elif setup.precision == "bf16":
        engine = torch.autocast("cpu", torch.bfloat16)
    steps: Steps = []
    with engine:
        for group in _grouped(own, setup.accumulation):
            begin_step(handle, group)
            total = torch.zeros((), dtype=torch.float64)
            for number, batch in enumerate(group):
                with _sync_only(model, number == len(group) - 1):
                    loss = model(**batch).loss
                    loss.backward()
                total += loss.detach()
            end_step(handle)
            steps.append((_over_ranks(total, setup.ranks) / setup.ranks, gradients_of(bare)))
            bare.zero_grad(set_to_none=True)
    assert handle_of(bare) is handle
    return steps


def _shard(model: Any, *, head_apart: bool, low: bool) -> None:
    """FSDP2 as people lay it out: every block a group, the rest in the root's, the head perhaps in one of its own."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if low else None
    options = {"mesh": dist.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),))}
    if policy is not None:
        options["mp_policy"] = policy
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    for module in _blocks(base):
        fully_shard(module, **options)
    if head_apart:
        fully_shard(base.get_output_embeddings(), **options)
    fully_shard(model, **options)


@contextlib.contextmanager
def _sync_only(model: Any, last: bool) -> Any:
    """Gradients go round the ranks with the last micro-batch only."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        with contextlib.nullcontext() if last else model.no_sync():
            yield
    else:
        if hasattr(model, "set_requires_gradient_sync"):
            model.set_requires_gradient_sync(last)
        yield


def with_trl(*arguments: Any) -> Steps:
    """`TaskBalancedSFTTrainer`; TRL takes seconds to import."""
    from support.tune.trl_engine import train

    return train(*arguments)


ENGINES: dict[str, Callable[..., Steps]] = {
    "trainer": with_trainer,
    "trl": with_trl,
    "accelerate": with_accelerate,
    "torch": with_torch,
}
