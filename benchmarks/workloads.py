"""What is trained in the throughput measurements: models, samples and how they become batches."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import cotbal
import cotbal_kernels as ck

IMAGE_TOKENS = 36
Collate = Callable[[list[Any]], dict[str, Any]]


class Workload(Protocol):
    """A model and its data."""

    name: str
    batch: int
    dtype: torch.dtype

    @property
    def tasks(self) -> Sequence[str]: ...
    def model(self, device: torch.device) -> nn.Module: ...
    def samples(self, count: int) -> Dataset[Any]: ...
    def collate(self, samples: list[Any]) -> dict[str, Any]:
        """A batch for the task-weighted loss; `unweighted` gives the stock trainer's."""
        ...

    def with_batch(self, batch: int) -> Workload: ...


def unweighted(collate: Collate) -> Collate:
    """The same batches without what only the task-weighted loss reads."""

    def stock(samples: list[Any]) -> dict[str, Any]:
        return {name: value for name, value in collate(samples).items() if not name.startswith("loss_")}

    return stock


@dataclass(frozen=True)
class Synthetic:
    """A LLaVA with random weights: language model width and depth, vocabulary, and batches of one length."""

    name: str
    hidden: int
    layers: int
    vocab: int
    batch: int
    length: int
    supervised: float = 0.1
    dtype: torch.dtype = torch.float32
    heads: int = 8
    intermediate: int | None = None

    @property
    def tasks(self) -> Sequence[str]:
        return [f"task{number}" for number in range(8)]

    def model(self, device: torch.device) -> nn.Module:
        torch.manual_seed(0)
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                image_size=84, patch_size=14,
            ),
            text_config=LlamaConfig(
                vocab_size=self.vocab, hidden_size=self.hidden, num_hidden_layers=self.layers,
                intermediate_size=self.intermediate or 2 * self.hidden, num_attention_heads=self.heads,
                num_key_value_heads=self.heads, max_position_embeddings=4096,
            ),
            image_token_index=self.vocab - 1,
            image_seq_length=IMAGE_TOKENS,
        )  # fmt: skip
        return LlavaForConditionalGeneration(config).to(device, self.dtype)

    def samples(self, count: int) -> Dataset[Any]:
        return _RandomSamples(self, count)

    def collate(self, samples: list[Any]) -> dict[str, Any]:
        batch: dict[str, Any] = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        batch["loss_plan"] = ck.plan(
            batch["labels"], batch["loss_task_index"], num_tasks=len(self.tasks), shift=True
        )
        return batch

    def with_batch(self, batch: int) -> Synthetic:
        return replace(self, batch=batch)


class _RandomSamples(Dataset[dict[str, torch.Tensor]]):
    """LLaVA's layout: image tokens, a question, an answer at the end; the answer is supervised."""

    def __init__(self, size: Synthetic, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.tasks = len(size.tasks)
        self.ids = torch.randint(3, size.vocab - 2, (count, size.length), generator=generator)
        self.ids[:, 1 : 1 + IMAGE_TOKENS] = size.vocab - 1
        self.pixels = torch.randn(count, 3, 84, 84, generator=generator).to(size.dtype)
        self.answer = max(1, round(size.length * size.supervised))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        labels = torch.full_like(self.ids[index], -100)
        labels[-self.answer :] = self.ids[index, -self.answer :]
        return {
            "input_ids": self.ids[index],
            "labels": labels,
            "pixel_values": self.pixels[index],
            "loss_task_index": torch.tensor(index % self.tasks),
        }


@dataclass(frozen=True)
class Demo:
    """The demo's model with random weights, on the demo's pictures and questions through the product's collator."""

    name: str = "demo batches, V=100"
    batch: int = 16
    dtype: torch.dtype = torch.float32

    @property
    def tasks(self) -> Sequence[str]:
        from cotbal.demo.questions import QUESTIONS

        return list(QUESTIONS)

    def model(self, device: torch.device) -> nn.Module:
        from cotbal.demo.model import build_model

        return build_model(_demo_processor()).to(device, self.dtype)

    def samples(self, count: int) -> Dataset[Any]:
        from cotbal.units.mixture import RecordDataset

        records = _demo_records()
        return RecordDataset([records[number % len(records)] for number in range(count)])

    def collate(self, samples: list[Any]) -> dict[str, Any]:
        collator = cotbal.TaskCollator(_demo_processor(), self.tasks)
        return dict(collator(samples))

    def with_batch(self, batch: int) -> Demo:
        return replace(self, batch=batch)


@cache
def _demo_processor() -> Any:
    from cotbal.demo.model import build_processor

    return build_processor()


@cache
def _demo_folder() -> tempfile.TemporaryDirectory[str]:
    """Pictures have to be there for as long as batches are made; removed when the process ends."""
    from cotbal.demo.dataset import write_dataset

    folder = tempfile.TemporaryDirectory()
    write_dataset(Path(folder.name), scenes={"train": 60, "validation": 0, "test": 0})
    return folder


@cache
def _demo_records() -> list[Any]:
    from cotbal.data import read_records
    from cotbal.demo.questions import QUESTIONS

    folder = Path(_demo_folder().name)
    lists = [
        read_records([folder / "train" / f"{task}.json"], task=task, image_root=folder / "images").records
        for task in QUESTIONS
    ]
    return [record for together in zip(*lists, strict=True) for record in together]


CPU: tuple[Workload, ...] = (
    Synthetic("tiny LLaVA, H=128 V=32000, 10% supervised", 128, 2, 32_000, batch=4, length=256),
    Synthetic("small LLaVA, H=256 V=32000, 10% supervised", 256, 4, 32_000, batch=4, length=256),
    Demo(),
)
GPU: tuple[Workload, ...] = (
    Synthetic(
        "1B LLaVA, H=2048 V=32064, 10% supervised", 2048, 16, 32_064, batch=8, length=2048,
        dtype=torch.bfloat16, heads=16, intermediate=5632,
    ),
    Synthetic(
        "7B LLaVA, H=4096 V=32064, 10% supervised", 4096, 32, 32_064, batch=2, length=2048,
        dtype=torch.bfloat16, heads=32, intermediate=11008,
    ),
)  # fmt: skip
