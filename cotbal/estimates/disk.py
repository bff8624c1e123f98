"""What a unit writes: its model, checkpoints, scores."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, TrainingArguments

from cotbal.config.model import ModelConfig
from cotbal.data.records import Record
from cotbal.estimates.model import described_model, quiet
from cotbal.models.adapters import adapters_wanted
from cotbal.models.loading import save_processor
from cotbal.models.model_source import model_source

__all__ = ["Disk", "folder_bytes", "model_bytes", "score_bytes", "unit_disk"]

# The manifest, the log, and what else a unit has beside model and scores.
_SMALL_FILES = 8 * 2**10
# Of a checkpoint beside model and optimizer: random states, the schedule, the Trainer's state.
_CHECKPOINT_FILES = 32 * 2**10
# The page that peft writes into the folder of an adapter.
_ADAPTER_PAGE = 5200
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}


@dataclass(frozen=True)
class Disk:
    """Bytes of one unit.

    Attributes:
        model: the folder that is left, processor included; 0 where models are not kept.
        scores: answers and scores.
        checkpoints: the most that lies beside them while it trains; gone when it is trained.
        unfinished: the model while it is scored, where it is not kept.
    """

    model: int
    scores: int
    checkpoints: int
    unfinished: int = 0

    @property
    def left(self) -> int:
        """What is there when the unit is done."""
        return self.model + self.scores + _SMALL_FILES

    @property
    def most(self) -> int:
        """The most at any time: the last checkpoint is deleted when the model is there."""
        return self.left + self.unfinished + self.checkpoints


def unit_disk(
    model: int,
    scored: Iterable[Sequence[Record]],
    settings: Mapping[str, Any],
    steps: int,
    *,
    processes: int,
    state: int,
    kept: bool,
) -> Disk:
    """What one unit writes.

    Args:
        model: bytes of its saved model, see `model_bytes`.
        scored: the records that it is scored on, task by task.
        settings: of its training.
        steps: that it makes.
        processes: that train it together.
        state: bytes of one process's optimizer state.
        kept: whether its model stays when it is scored.
    """
    sharded = bool(settings.get("fsdp"))
    checkpoint = model + state * (processes if sharded else 1) + processes * _CHECKPOINT_FILES
    scores = sum(score_bytes(records) for records in scored)
    checkpoints = checkpoint * _checkpoints(settings, steps)
    return Disk(model if kept else 0, scores, checkpoints, 0 if kept else model)


def _checkpoints(settings: Mapping[str, Any], steps: int) -> int:
    """How many checkpoints lie side by side: a new one is written before the oldest is deleted."""
    strategy = settings.get("save_strategy", "steps")
    if strategy == "no":
        return 0
    every = float(settings.get("save_steps", 500))
    every = math.ceil(every * steps) if every < 1 else every
    if strategy == "epoch":
        every = steps / max(1.0, float(settings.get("num_train_epochs", 1)))
    # One more is written at the end.
    made = math.ceil(steps / max(1.0, every))
    limit = settings.get("save_total_limit")
    return made if limit is None else min(made, int(limit) + 1)


def model_bytes(config: ModelConfig, training: Mapping[str, Any], processor: Any) -> int:
    """The folder of a unit's model: its tensors as safetensors, its configs, the processor.

    Of adapters, the adapter alone.
    """
    with quiet():
        model = described_model(config)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    # FSDP trains in float32 under mixed precision, and saves what it trains.
    wide = bool(training.get("fsdp")) and bool(training.get("bf16") or training.get("fp16"))
    if adapters_wanted(config):
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(model, save_embedding_layers=False)
        wide = False
    else:
        state = _saved_tensors(model)
    entries = [
        (name, torch.float32 if wide and name in trained else tensor.dtype, tuple(tensor.shape))
        for name, tensor in state.items()
    ]
    with quiet(), tempfile.TemporaryDirectory() as folder:
        if adapters_wanted(config):
            settings = model.peft_config["default"]
            settings.inference_mode = True  # as peft saves it
            settings.save_pretrained(folder)
            (Path(folder) / "README.md").write_bytes(bytes(_ADAPTER_PAGE))
        else:
            _save_configs(model, config, training, folder)
        if processor is not None:
            save_processor(processor, Path(folder))
        return safetensors_bytes(entries) + folder_bytes(Path(folder))


def _saved_tensors(model: Any) -> Mapping[str, Tensor]:
    """The tensors that `save_pretrained` writes: each that is tied once, by the names in the family's files."""
    ignored = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    known: set[int] = set()
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in known and name not in ignored:
            state[name] = tensor
        known.add(id(tensor))
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:
        return state
    named: Mapping[str, Tensor] = revert_weight_conversion(model, state)
    return named


def _save_configs(model: Any, config: ModelConfig, training: Mapping[str, Any], folder: str) -> None:
    source = model_source(config)
    model.config.dtype = str(model.dtype).removeprefix("torch.")
    model.config.architectures = [type(model).__name__]
    if any(field.name == "use_cache" for field in fields(TrainingArguments)):
        model.config.use_cache = bool(training.get("use_cache", False))  # as the Trainer sets it
    model.config.save_pretrained(folder)
    if not model.can_generate():
        return
    try:
        generation = GenerationConfig.from_pretrained(source.base, revision=source.revision or "main")
    except OSError:
        generation = model.generation_config
    generation.save_pretrained(folder)


def safetensors_bytes(entries: Sequence[tuple[str, torch.dtype, tuple[int, ...]]]) -> int:
    """The size of a safetensors file with these tensors: a header of JSON, padded to 8 bytes, and the numbers.

    >>> safetensors_bytes([("a", torch.float32, (2, 2))])
    120
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dtype, shape in sorted(entries, key=lambda entry: (-entry[1].itemsize, entry[0])):
        size = math.prod(shape) * dtype.itemsize
        kind = _NAMES.get(dtype, str(dtype).removeprefix("torch."))
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    written = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-written // 8) * 8 + end


def score_bytes(records: Iterable[Record]) -> int:
    """A line per sample, with references, and an answer as long as the longest of them."""
    total = 0
    for record in records:
        references = [str(reference) for reference in record.references]
        longest = max(map(len, references), default=0)
        total += 150 + sum(len(text) + 4 for text in references) + longest + 2 * len(str(record.id))
    return total


def folder_bytes(folder: Path) -> int:
    """The bytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
