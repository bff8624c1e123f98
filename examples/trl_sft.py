"""Task weights in TRL's SFTTrainer, on vision data in TRL's own format, optionally with LoRA.

    python examples/trl_sft.py --model MODEL --images FOLDER --lora \\
        --task caption=caption.json:0.86 --task vqa=vqa.json:1.06
"""

from __future__ import annotations

import argparse
from pathlib import Path

from datasets import Dataset, Image, List
from peft import LoraConfig
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import SFTConfig

import cotbal
from cotbal.data import Record, read_records


def example(record: Record) -> dict[str, object]:
    """Turn a record into TRL's form. The last answer is the completion and alone trained on; `task` is our column."""
    turns = [
        {"role": turn.role, "content": turn.text.replace("<image>", "").strip()} for turn in record.turns
    ]
    return {
        "prompt": turns[:-1],
        "completion": turns[-1:],
        "images": list(map(str, record.images)),
        "task": record.task,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--task", action="append", required=True, metavar="NAME=FILE:WEIGHT")
    parser.add_argument("--output", default="out")
    parser.add_argument("--accumulation", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()

    weights, examples = {}, []
    for given in options.task:
        name, rest = given.split("=", 1)
        file, weight = rest.rsplit(":", 1)
        weights[name] = float(weight)
        examples += [example(record) for record in read_records([file], task=name, image_root=options.images)]
    dataset = Dataset.from_list(examples).cast_column("images", List(Image()))

    trainer = cotbal.TaskBalancedSFTTrainer(
        AutoModelForImageTextToText.from_pretrained(options.model),
        args=SFTConfig(
            options.output,
            loss_type="nll",
            max_length=None,
            max_steps=options.steps,
            learning_rate=options.learning_rate,
            per_device_train_batch_size=options.batch_size,
            gradient_accumulation_steps=options.accumulation,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=options.cpu,
            bf16=not options.cpu,
        ),
        train_dataset=dataset,
        processing_class=AutoProcessor.from_pretrained(options.model),
        peft_config=LoraConfig(r=16, target_modules=["q_proj", "v_proj"]) if options.lora else None,
        tasks=list(weights),
        task_weights=weights,
    )
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
