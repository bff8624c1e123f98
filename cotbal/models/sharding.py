"""Models spread over processes: what is wrapped, whether it really is spread, and the whole model gathered again."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from cotbal.config.yaml_file import ConfigError

__all__ = [
    "check_resumable",
    "check_sharded",
    "is_sharded",
    "load_sharded_optimizer",
    "name_blocks",
    "repeated_blocks",
    "shard_on_cpus",
    "whole_state_dict",
]


def repeated_blocks(model: nn.Module) -> tuple[str, ...]:
    """Names of the classes a model is stacked of: those that stand several times in a `ModuleList`.

    These are what FSDP wraps, in language model and vision tower alike. Families name only some of them.
    """
    found: set[str] = set()
    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            counted = Counter(
                type(child).__name__ for child in module if next(child.parameters(), None) is not None
            )
            found |= {name for name, count in counted.items() if count > 1}
    return tuple(sorted(found))


def name_blocks(trainer: Any) -> None:
    """Tell FSDP which blocks to wrap, where the config does not."""
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is not None and not plugin.transformer_cls_names_to_wrap:
        plugin.transformer_cls_names_to_wrap = list(repeated_blocks(trainer.model))


def shard_on_cpus(trainer: Any) -> None:
    """Let accelerate shard on CPUs where `fsdp` is asked for: it does so on accelerators alone, in silence.

    What it does to a model runs on CPUs just as well, so that a config can be tried without GPUs.
    """
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    arguments = trainer.args
    if not arguments.fsdp or arguments.device.type != "cpu" or arguments.world_size == 1:
        return
    state = trainer.accelerator.state
    state.distributed_type = DistributedType.FSDP
    state.fsdp_plugin = FullyShardedDataParallelPlugin(**arguments.fsdp_plugin_args)
    trainer.is_fsdp_enabled = True


def is_sharded(checkpoint: Path) -> bool:
    """Whether a checkpoint holds the shards of several processes in place of a whole model."""
    return any(checkpoint.glob("pytorch_model_fsdp_*")) or (checkpoint / "latest").is_file()


def check_resumable(checkpoint: Path, arguments: Any) -> None:
    """Refuse to go on from shards that this training cannot put together.

    Args:
        arguments: transformers' `TrainingArguments` of this training.

    Raises:
        ConfigError: only one of the two is sharded, or DeepSpeed's shards are those of another number of processes.
    """
    if not is_sharded(checkpoint):
        if (checkpoint / "optimizer.pt").is_file() and (
            arguments.deepspeed or (arguments.fsdp and arguments.world_size > 1)
        ):
            raise ConfigError(
                f"{checkpoint}: this checkpoint is of a training that was not sharded, and its optimizer cannot be "
                "resumed by a sharded one; start it as before, or delete the checkpoints to train from the beginning"
            )
        return
    by_deepspeed = (checkpoint / "latest").is_file()
    writers = _writers(checkpoint, by_deepspeed)
    if by_deepspeed:
        fits, wanted = arguments.deepspeed and arguments.world_size == writers, "training.deepspeed"
    else:
        fits, wanted = arguments.fsdp and arguments.world_size > 1, "training.fsdp"
    if fits:
        return
    here = "on one process" if arguments.world_size == 1 else f"on {arguments.world_size} processes"
    how = "" if arguments.deepspeed or arguments.fsdp else "unsharded "
    raise ConfigError(
        f"{checkpoint}: this checkpoint is spread over the {writers} processes that wrote it, and cannot be "
        f"resumed {how}{here}; start it as before ({wanted}, launch.processes: {writers}), or delete the "
        "checkpoints to train from the beginning"
    )


def _writers(checkpoint: Path, by_deepspeed: bool) -> int:
    """How many processes have written a sharded checkpoint."""
    if by_deepspeed:
        return len(list(checkpoint.glob("global_step*/*_optim_states.pt")))
    # Of the form __RANK_PART.distcp.
    return len({path.name.split("_")[2] for path in checkpoint.glob("pytorch_model_fsdp_*/*.distcp")})


def check_sharded(trainer: Any) -> None:
    """Refuse a training that was to be sharded and is not.

    Raises:
        ConfigError: `fsdp` is set, several processes train, and no parameter is spread over them.
    """
    if not trainer.args.fsdp or trainer.args.world_size == 1:
        return
    if not any(isinstance(parameter, DTensor) for parameter in trainer.model_wrapped.parameters()):
        raise ConfigError(
            "training.fsdp: the model was to be sharded over the processes and is not; is `fsdp_config.version` 2, "
            "and does accelerate support FSDP on this device?"
        )


def whole_state_dict(trainer: Any) -> dict[str, Tensor] | None:
    """All tensors of the trained model on the first process, gathered from the others; every process must call.

    Returns:
        On the first process the state dict, on the CPU; None where the model is whole on every process already.
        Elsewhere an empty dict.
    """
    if trainer.is_deepspeed_enabled:
        if any(hasattr(parameter, "ds_id") for parameter in trainer.deepspeed.module.parameters()):
            return _gathered_from_zero3(trainer)
        copied: dict[str, Tensor] | None = trainer.accelerator.get_state_dict(trainer.deepspeed)
        return copied or {}
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(model, options=options)
    # Tensors that share memory could not be saved as safetensors.
    return {name: _own(value) for name, value in state.items()}


def _gathered_from_zero3(trainer: Any) -> dict[str, Tensor]:
    """One parameter after the other, so that no process but the first holds more than one of them whole.

    accelerate would do so only with `stage3_gather_16bit_weights_on_model_save`, which gathers at checkpoints too.
    """
    from deepspeed import zero

    first = trainer.is_world_process_zero()
    found: dict[str, Tensor] = {}
    known: dict[int, Tensor] = {}
    for name, value in trainer.deepspeed.module.state_dict(keep_vars=True).items():
        if id(value) not in known:
            with zero.GatheredParameters([value]) if hasattr(value, "ds_id") else nullcontext():
                known[id(value)] = value.detach().cpu().clone() if first else torch.empty(0)
        # Tied ones stay tied.
        found[name] = known[id(value)]
    return found if first else {}


def _own(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def load_sharded_optimizer(trainer: Any, checkpoint: Path) -> None:
    """Load FSDP's optimizer state, also where parameters have none because they never got a gradient.

    Such are LLaVA's last vision layers, whose output nothing uses. accelerate asks for the state of every
    parameter and fails there.
    """
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )
    from torch.distributed.checkpoint.state_dict_loader import load

    model, optimizer = trainer.model, trainer.optimizer
    options = StateDictOptions(cpu_offload=trainer.args.device.type != "cpu")
    state = {"optimizer": get_optimizer_state_dict(model, optimizer, options=options)}
    load(
        state,
        storage_reader=FileSystemReader(checkpoint / "optimizer_0"),
        planner=DefaultLoadPlanner(allow_partial_load=True),
    )
    set_optimizer_state_dict(model, optimizer, state["optimizer"], options=options)
