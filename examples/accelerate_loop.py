"""Your own loop under accelerate, with task weights that are exact across ranks and accumulation.

    accelerate launch examples/accelerate_loop.py --model MODEL --images FOLDER \\
        --task caption=caption.json:0.86 --task vqa=vqa.json:1.06
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch.utils.data import DataLoader
from transformers import AutoModelForImageTextToText, AutoProcessor

import cotbal
from cotbal.data import read_records


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--task", action="append", required=True, metavar="NAME=FILE:WEIGHT")
    parser.add_argument("--accumulation", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()

    tasks, weights, records = [], [], []
    for given in options.task:
        name, rest = given.split("=", 1)
        file, weight = rest.rsplit(":", 1)
        tasks.append(name)
        weights.append(float(weight))
        records += read_records([file], task=name, image_root=options.images).records

    accelerator = Accelerator(
        cpu=options.cpu,
        gradient_accumulation_steps=options.accumulation,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_pretrained(options.model)
    collator = cotbal.TaskCollator(AutoProcessor.from_pretrained(options.model), tasks)
    handle = cotbal.balance(model, weights)  # works before and after prepare()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate)
    loader = DataLoader(records, batch_size=options.batch_size, shuffle=True, collate_fn=collator)  # type: ignore[arg-type]
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    model.train()

    # accelerator.backward divides by the accumulation, and the ranks average their gradients: undo both.
    averaged_over = accelerator.num_processes * options.accumulation
    accelerator.print(f"{averaged_over} micro-batches per step on {accelerator.num_processes} processes")
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    for step in range(options.steps):
        micro_batches = list(itertools.islice(batches, options.accumulation))
        cotbal.begin_step(handle, micro_batches, averaged_over=averaged_over)
        for number, batch in enumerate(micro_batches):
            if number < len(micro_batches) - 1:
                with accelerator.no_sync(model):
                    accelerator.backward(model(**batch).loss)
            else:
                accelerator.backward(model(**batch).loss)
        optimizer.step()
        optimizer.zero_grad()
        sums = cotbal.end_step(handle)
        means = (sums.loss / sums.tokens).tolist()
        accelerator.print(step, {task: round(mean, 4) for task, mean in zip(tasks, means, strict=True)})
    accelerator.end_training()


if __name__ == "__main__":
    main()
