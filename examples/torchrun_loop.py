"""A bare torch.distributed loop with task weights and a strategy: DDP, or FSDP2 with --shard.

    torchrun --nproc-per-node 8 examples/torchrun_loop.py --model MODEL --images FOLDER --shard --strategy dwa \\
        --task caption=caption.json --task vqa=vqa.json
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, DistributedSampler
from transformers import AutoModelForImageTextToText, AutoProcessor

import cotbal
from cotbal import strategies
from cotbal.data import read_records


def shard(model: torch.nn.Module) -> None:
    """Shard with FSDP2: one group per transformer block, and the rest, with the head, in the root's group."""
    from torch.distributed.fsdp import fully_shard

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = dist.device_mesh.init_device_mesh(kind, (dist.get_world_size(),))
    for module in model.modules():
        if type(module).__name__.endswith(("DecoderLayer", "EncoderLayer", "VisionBlock")):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--task", action="append", required=True, metavar="NAME=FILE")
    parser.add_argument("--strategy", default="ew", choices=("ew", "tla", "rlw", "dwa", "igb"))
    parser.add_argument("--shard", action="store_true")
    parser.add_argument("--accumulation", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    options = parser.parse_args()

    gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if gpu else "gloo")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    pairs = [given.split("=", 1) for given in options.task]
    tasks = [name for name, _ in pairs]
    records = [
        record
        for name, file in pairs
        for record in read_records([file], task=name, image_root=options.images).records
    ]

    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_pretrained(options.model).to(device).train()
    handle = cotbal.balance(model, [1.0] * len(tasks))
    strategy = strategies.get(options.strategy, len(tasks)).to(device)
    if options.shard:
        shard(model)
        wrapped = model
    else:
        wrapped = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate)
    # A blank image in text-only batches keeps the ranks' collectives in step under FSDP2.
    collator = cotbal.TaskCollator(AutoProcessor.from_pretrained(options.model), tasks, blank_image=True)
    loader = DataLoader(
        records,  # type: ignore[arg-type]
        batch_size=options.batch_size,
        sampler=DistributedSampler(records, shuffle=True),  # type: ignore[arg-type]
        collate_fn=collator,
    )
    if dist.get_rank() == 0:
        ranks = dist.get_world_size()
        print(f"{ranks * options.accumulation} micro-batches per step on {ranks} processes")
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    for step in range(options.steps):
        micro_batches = [
            {name: value.to(device) for name, value in batch.items()}
            for batch in itertools.islice(batches, options.accumulation)
        ]
        cotbal.begin_step(handle, micro_batches, strategy=strategy)
        for number, batch in enumerate(micro_batches):
            last = number == len(micro_batches) - 1
            if options.shard:
                wrapped.set_requires_gradient_sync(last)
            with contextlib.nullcontext() if last or options.shard else wrapped.no_sync():
                wrapped(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        sums = cotbal.end_step(handle, strategy=strategy)
        if dist.get_rank() == 0:
            means = (sums.loss / sums.tokens).tolist()
            print(step, {task: round(mean, 4) for task, mean in zip(tasks, means, strict=True)})
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
