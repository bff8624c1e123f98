"""A model spread over processes that are not there: FSDP2's real sharding among pretended ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainingArguments

from cotbal.models.sharding import repeated_blocks

__all__ = ["pretended_processes", "shard"]


@contextmanager
def pretended_processes(count: int, rank: int) -> Iterator[None]:
    """This process as one of several; messages between them are sent to nobody.

    Raises:
        RuntimeError: this process belongs to a group already.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise RuntimeError("this process is one of several already")
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=count)
    try:
        yield
    finally:
        dist.destroy_process_group()


def shard(model: Any, arguments: TrainingArguments, *, mixed: bool) -> Any:
    """The model sharded as accelerate shards it, over the blocks that cotbal names.

    Args:
        mixed: whether accelerate casts to `bf16` or `fp16`; it does not on CPUs.
    """
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    options = {**arguments.fsdp_plugin_args, "cpu_ram_efficient_loading": False}
    plugin = FullyShardedDataParallelPlugin(**options)
    if not plugin.transformer_cls_names_to_wrap:
        plugin.transformer_cls_names_to_wrap = list(repeated_blocks(model))
    precision = "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "no"
    if mixed and precision != "no":
        plugin.set_mixed_precision(precision)
    stand_in = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        torch_device_mesh=None,
        mixed_precision=precision if mixed else "no",
        is_main_process=False,
        device=torch.device("cpu"),
    )
    return fsdp2_prepare_model(stand_in, model)
