"""The demo's base model: a vision tower that knows digits, aligned with the language model on descriptions.

Real multimodal models start from a vision tower trained elsewhere and are aligned on captions before they see any
task. Here the tower first learns to name the content of every cell of a scene; then the whole model learns to
describe scenes. Both see only digits of the training split, and none of the tasks' questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from cotbal.demo.questions import alignment_text
from cotbal.demo.scenes import CELLS, COLOURS, DigitImages, Pixels, Scene, digit_images, draw_scene, paint

Advance = Callable[[str, int], None]


@dataclass(frozen=True)
class Pretraining:
    """Steps, batch sizes and learning rates of the base model's two phases of training."""

    scenes: int = 6000
    vision_steps: int = 300
    vision_batch: int = 64
    vision_rate: float = 2e-3
    alignment_steps: int = 1500
    alignment_batch: int = 16
    alignment_rate: float = 1e-3

    @property
    def samples(self) -> int:
        """The number of samples of both phases."""
        return self.vision_steps * self.vision_batch + self.alignment_steps * self.alignment_batch


DEFAULT_PRETRAINING = Pretraining()


def pretrain(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    *,
    pretraining: Pretraining = DEFAULT_PRETRAINING,
    seed: int = 0,
    advance: Advance = lambda stage, samples: None,
) -> None:
    """Train the vision tower, then the whole model, in place.

    Args:
        pretraining: steps, batch sizes and learning rates.
        seed: fixes scenes, texts and order.
        advance: called with the phase ("vision" or "alignment") and the number of further samples it has seen.
    """
    generator = np.random.default_rng([seed, 1])
    images = digit_images("train")
    scenes = [draw_scene(generator, images) for _ in range(pretraining.scenes)]
    pixels = _pixels(scenes, images, processor, generator)
    model.train()
    _train_vision(model, scenes, pixels, pretraining, generator, seed, advance)
    _align(model, processor, scenes, pixels, pretraining, generator, advance)
    model.train(False)


def _pixels(
    scenes: list[Scene], images: DigitImages, processor: LlavaProcessor, generator: np.random.Generator
) -> torch.Tensor:
    """Return the image processor's output for the scenes, [scenes, 3, H, W] float32."""
    painted: list[Pixels] = [paint(scene, images, generator) for scene in scenes]
    pixels: torch.Tensor = processor.image_processor(painted, return_tensors="pt")["pixel_values"]
    return pixels


def _train_vision(
    model: LlavaForConditionalGeneration,
    scenes: list[Scene],
    pixels: torch.Tensor,
    pretraining: Pretraining,
    generator: np.random.Generator,
    seed: int,
    advance: Advance,
) -> None:
    """Train the tower to classify every cell by digit and colour, or as empty; the classifier is discarded."""
    digits, colours = _cell_classes(scenes)
    tower = model.model.vision_tower
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = torch.nn.Linear(tower.config.hidden_size, 11 + 1 + len(COLOURS))
    parameters = [*tower.parameters(), *head.parameters()]
    optimizer, scheduler = _optimizer(parameters, pretraining.vision_rate, pretraining.vision_steps)
    for rows in _batches(len(scenes), pretraining.vision_batch, pretraining.vision_steps, generator):
        # Token 0 is the class token; the others are the cells in reading order.
        scores = head(tower(pixel_values=pixels[rows]).last_hidden_state[:, 1:]).flatten(0, 1)
        loss = cross_entropy(scores[:, :11], digits[rows].flatten()) + cross_entropy(
            scores[:, 11:], colours[rows].flatten()
        )
        _step(loss, parameters, optimizer, scheduler)
        advance("vision", len(rows))


def _align(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    scenes: list[Scene],
    pixels: torch.Tensor,
    pretraining: Pretraining,
    generator: np.random.Generator,
    advance: Advance,
) -> None:
    """Train the model to describe scenes, without any question."""
    parameters = list(model.parameters())
    optimizer, scheduler = _optimizer(parameters, pretraining.alignment_rate, pretraining.alignment_steps)
    tokenizer = processor.tokenizer
    message: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "image"}]}]
    prompt = processor.apply_chat_template(message, add_generation_prompt=True)
    image_token = processor.image_token
    prompt = prompt.replace(image_token, image_token * (CELLS * CELLS))
    start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    for rows in _batches(len(scenes), pretraining.alignment_batch, pretraining.alignment_steps, generator):
        texts = [f"{prompt} {alignment_text(scenes[row], generator)}{tokenizer.eos_token}" for row in rows]
        batch = tokenizer(
            texts, padding=True, padding_side="right", add_special_tokens=False, return_tensors="pt"
        )
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        labels[:, :start] = -100
        loss = model(**batch, pixel_values=pixels[rows], labels=labels).loss
        _step(loss, parameters, optimizer, scheduler)
        advance("alignment", len(rows))


def _cell_classes(scenes: list[Scene]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return digit and colour of every cell, int64 [scenes, cells], 0 for an empty one."""
    digits = torch.zeros(len(scenes), CELLS * CELLS, dtype=torch.int64)
    colours = torch.zeros_like(digits)
    names = list(COLOURS)
    for row, scene in enumerate(scenes):
        for digit in scene.digits:
            cell = digit.row * CELLS + digit.column
            digits[row, cell] = digit.value + 1
            colours[row, cell] = names.index(digit.colour) + 1
    return digits, colours


def _batches(count: int, size: int, steps: int, generator: np.random.Generator) -> Iterator[list[int]]:
    """Yield `steps` batches of indices; every index comes once before any comes again."""
    waiting: list[int] = []
    for _ in range(steps):
        while len(waiting) < size:
            waiting += generator.permutation(count).tolist()
        rows, waiting = waiting[:size], waiting[size:]
        yield rows


def _optimizer(
    parameters: list[torch.nn.Parameter], rate: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.95), weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    return optimizer, scheduler


def _step(
    loss: torch.Tensor,
    parameters: list[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad()
