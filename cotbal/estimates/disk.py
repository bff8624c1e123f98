"""What a schedule writes: models, checkpoints, scores."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotbal.config.model import ModelConfig
from cotbal.data.records import Record
from cotbal.estimates.memory import Memory
from cotbal.estimates.model import described_model
from cotbal.units.adapters import adapters_wanted

__all__ = ["Disk", "folder_bytes", "model_bytes", "score_bytes"]

# The manifest, the log, and what else a unit has beside model and scores.
_SMALL_FILES = 16 * 2**10
_BLOCK = 4096


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
        """The most at any time."""
        return max(self.checkpoints + self.model + self.unfinished, self.left + self.unfinished)


def model_bytes(config: ModelConfig, training: Mapping[str, Any], processor: Any) -> int:
    """The folder of a unit's model: its tensors as safetensors, its configs, the processor.

    Of adapters, the adapter alone.
    """
    model = described_model(config)
    upcast = bool(training.get("fsdp")) and bool(training.get("bf16") or training.get("fp16"))
    if adapters_wanted(config):
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(model, save_embedding_layers=False)
        described = 2 * _BLOCK
    else:
        state, described = model.state_dict(), _configs(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    known: set[int] = set()
    entries: dict[str, dict[str, Any]] = {}
    end = 0
    for name, tensor in state.items():
        # Tied weights are one tensor, saved once.
        if id(tensor) in known or _is_tied(model, name):
            continue
        known.add(id(tensor))
        wide = upcast and name in trained and tensor.is_floating_point()
        size = tensor.numel() * (4 if wide else tensor.element_size())
        entries[name] = {
            "dtype": str(tensor.dtype),
            "shape": list(tensor.shape),
            "data_offsets": [end, end + size],
        }
        end += size
    header = len(json.dumps(entries))
    return end + header + described + _saved(processor)


def _is_tied(model: Any, name: str) -> bool:
    tied = getattr(model, "_tied_weights_keys", None) or {}
    text = model.config.get_text_config() if hasattr(model, "config") else None
    return bool(getattr(text, "tie_word_embeddings", False)) and name in tied


def _configs(model: Any) -> int:
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        return folder_bytes(Path(folder)) + _BLOCK


def _saved(processor: Any) -> int:
    if processor is None:
        return 0
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        return folder_bytes(Path(folder))


def checkpoint_bytes(model: int, memory: Memory, processes: int, *, sharded: bool) -> int:
    """One checkpoint: the model, the optimizer's state of all processes, random states."""
    return model + memory.optimizer * (processes if sharded else 1) + processes * 4 * _BLOCK


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
