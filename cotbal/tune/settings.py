"""Training settings that would pass the task weights by in silence; each is refused by name."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import nn


def check_settings(args: Any, compute_loss_func: Any = None) -> None:
    """Refuse settings of the Trainer under which the fused head would not see the loss.

    Args:
        args: transformers' TrainingArguments.
        compute_loss_func: the Trainer's argument of that name.

    Raises:
        ValueError: naming the setting.
    """
    if args.label_smoothing_factor != 0:
        raise ValueError(
            f"label_smoothing_factor is {args.label_smoothing_factor}: the Trainer would then compute its own loss "
            "from logits, without the task weights. Set label_smoothing_factor=0"
        )
    if compute_loss_func is not None:
        raise ValueError(
            "compute_loss_func is given: it would replace the task-weighted loss. Leave it out; per-token weights "
            "go into the batch as loss_token_weights"
        )
    if args.use_liger_kernel:
        raise ValueError(
            "use_liger_kernel=True patches the model's forward so that it goes past the task-weighted head. Set "
            "use_liger_kernel=False; the fused loss does not make logits either"
        )


def check_sft_settings(args: Any) -> None:
    """Refuse what TRL's SFTConfig adds to those settings.

    Args:
        args: TRL's SFTConfig, transformers' TrainingArguments, or None.

    Raises:
        ValueError: naming the setting.
    """
    loss_type = getattr(args, "loss_type", "nll")
    if loss_type != "nll":
        raise ValueError(
            f"loss_type is {loss_type!r}: TRL would compute that loss in place of the task-weighted one. Set "
            "loss_type='nll'; the fused loss does not make logits either"
        )


def check_ranks(args: Any, accelerator: Any) -> None:
    """Refuse ways of spreading a step over devices for which the normalizer would be wrong.

    Raises:
        ValueError: naming the setting.
    """
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs are visible to one process, so the Trainer would use torch.nn.DataParallel, which "
            "cannot train a balanced model. Launch one process per GPU (torchrun or accelerate launch), or set "
            "CUDA_VISIBLE_DEVICES to one"
        )
    ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else args.world_size
    if ranks != args.world_size:
        raise ValueError(
            f"torch.distributed has {ranks} ranks, but the Trainer knows of {args.world_size}: they would share "
            "a normalizer, but neither data nor gradients. Set use_cpu=True where there is no GPU, or do not "
            "initialise torch.distributed"
        )
    if args.world_size > 1 and not args.average_tokens_across_devices:
        raise ValueError(
            f"average_tokens_across_devices=False with {args.world_size} processes: each would divide by its own "
            "tokens, and the task weights would be wrong. Set average_tokens_across_devices=True"
        )
    layout = getattr(accelerator, "parallelism_config", None)
    for name in ("tp_size", "cp_size", "sp_size"):
        size = getattr(layout, name, 1) or 1
        if size > 1:
            raise ValueError(
                f"parallelism_config has {name}={size}: ranks that share one batch would count its tokens more than "
                f"once. Set {name}=1; data parallelism (DDP, FSDP, ZeRO) is supported"
            )


def check_not_patched(model: nn.Module) -> None:
    """Refuse a model whose class's forward was replaced by Liger's.

    Raises:
        ValueError: naming the patch.
    """
    module = getattr(getattr(type(model), "forward", None), "__module__", "") or ""
    if module.startswith("liger_kernel"):
        raise ValueError(
            f"the forward of {type(model).__name__} was patched by Liger ({module}), which goes past the "
            "task-weighted head. Do not call apply_liger_kernel_to_*, or pass fused_linear_cross_entropy=False"
        )
