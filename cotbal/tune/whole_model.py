"""Models that are whole: every tensor of the model is in the file, every tensor of the file is in the model.

`from_pretrained` fills what a file lacks with random numbers and drops what it has too much, with a note at most.
Here both are errors that name the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

__all__ = ["HARMLESS", "IncompleteModelError", "check_saved_adapters", "load_whole"]

_SHOWN = 8

HARMLESS: tuple[tuple[str, str], ...] = (
    (
        r"(^|\.)rotary_emb\.(inv_freq|original_inv_freq|cos_cached|sin_cached)$",
        "Llama and its kin: angles that are computed from the config; old files carry them",
    ),
    (
        r"(^|\.)embeddings\.position_ids$",
        "CLIP, SigLIP and BERT: the numbers 0, 1, 2, ...; old files carry them",
    ),
    (
        r"(^|\.)(attn|attention)\.(bias|masked_bias)$",
        "GPT-2, GPT-Neo and GPT-NeoX: the causal mask, a constant; old files carry it",
    ),
)
"""Patterns of tensors that a file may have and a model need not: each with the families and the reason."""


class IncompleteModelError(ValueError):
    """A saved model whose tensors are not those of its class; the message names them."""


@dataclass(frozen=True)
class _Differences:
    """What a file and a model do not have in common, by the model's names of tensors where it has them."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.missing, *self.unexpected, *(name for name, _, _ in self.mismatched))

    def without(self, allowed: Sequence[str]) -> _Differences:
        return _Differences(
            tuple(name for name in self.missing if not _is_within(name, allowed)),
            tuple(name for name in self.unexpected if not _is_within(name, allowed)),
            tuple(entry for entry in self.mismatched if not _is_within(entry[0], allowed)),
        )

    def __str__(self) -> str:
        parts = []
        if self.missing:
            parts.append(f"{len(self.missing)} tensors of the model are missing: {_listed(self.missing)}")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} tensors are not the model's: {_listed(self.unexpected)}")
        if self.mismatched:
            shapes = [
                f"{name} ({_shape(found)} in the file, {_shape(wanted)} in the model)"
                for name, found, wanted in self.mismatched
            ]
            parts.append(f"{len(shapes)} tensors have another shape: {_listed(shapes)}")
        return "; ".join(parts)


def load_whole(
    loader: Any, source: str | Path, *, allow_missing: Sequence[str] = (), remedy: str = "", **options: Any
) -> Any:
    """`loader.from_pretrained(source, **options)`, refused unless the file and the model have the same tensors.

    Tied weights need to be there once. What `HARMLESS` lists and what a model's class itself declares as not
    needed (`_keys_to_ignore_on_load_missing` and `..._unexpected`) are no differences. A tensor that is allowed to
    be missing is drawn from a fixed seed, so two loads always give the same weights.

    Args:
        loader: a model class of transformers or one of its Auto classes.
        source: a folder, or the id of a model on the hub.
        allow_missing: names of tensors or of modules, whole or by their last parts, that may differ all the same.
        remedy: ends the error's message.
        **options: of `from_pretrained`.

    Raises:
        IncompleteModelError: tensors are missing, superfluous or of another shape, with their names; a name in
            `allow_missing` is none of them; a file is damaged; or `source` holds an adapter.
        OSError, ValueError, ImportError: what `from_pretrained` raises for other reasons.
    """
    with _fixed_seed():
        model, report = _loaded(loader, source, options)
    differences = _differences(report)
    unused = [name for name in allow_missing if not any(_is_within(n, [name]) for n in differences.names)]
    if unused:
        raise IncompleteModelError(
            f"{source}: allow_missing names {', '.join(unused)}, but no such tensor is missing, superfluous or of "
            "another shape; remove that name"
        )
    left = differences.without(allow_missing)
    if left.names:
        ending = f". {remedy}" if remedy else ""
        raise IncompleteModelError(
            f"{source} is not a whole {type(model).__name__}: {left}. Training or scoring would go on with random "
            f"numbers in their place{ending}"
        )
    return model


def _loaded(loader: Any, source: str | Path, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model, and what transformers found of its tensors."""
    if (Path(source) / "adapter_config.json").is_file():
        # Of the two reports of such a folder, from_pretrained drops the model's.
        raise IncompleteModelError(
            f"{source} holds an adapter (adapter_config.json); merge it into its model (`cotbal export` for a unit, "
            "merge_and_unload of peft for others), and name the merged model's folder"
        )
    try:
        # Other shapes are let through here to be named: transformers names them in its log alone.
        model, report = loader.from_pretrained(
            str(source), output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except (OSError, ValueError, ImportError):
        raise
    except Exception as error:
        # safetensors, torch and pickle each have an error of their own for a file that is cut or is not their kind.
        raise IncompleteModelError(f"{source}: its weights cannot be read: {error}") from error
    return model, report


def check_saved_adapters(model: nn.Module, folder: str | Path) -> None:
    """Refuse saved adapters of a peft model whose tensors are not those of the model's own; others are left alone.

    Args:
        model: any model; one without adapters of peft passes.
        folder: where it was saved; adapters other than ``default`` are in folders of their names.

    Raises:
        IncompleteModelError: tensors are missing or superfluous, with their names.
    """
    adapters = getattr(model, "peft_config", None)
    if not adapters or not hasattr(model, "base_model"):
        return
    from peft import get_peft_model_state_dict

    for adapter in adapters:
        path = Path(folder) if adapter == "default" else Path(folder) / adapter
        if not (path / "adapter_config.json").is_file():
            continue
        found = _tensor_names(path)
        # peft saves embeddings along or does not, by rules of its own: neither is a fault.
        needed, known = (
            set(get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=embeddings))
            for embeddings in (False, True)
        )
        left = _Differences(tuple(sorted(needed - found)), tuple(sorted(found - known)), ())
        if left.names:
            raise IncompleteModelError(f"{path} is not a whole adapter: {left}. It cannot be resumed from")


def _tensor_names(folder: Path) -> set[str]:
    safe = folder / "adapter_model.safetensors"
    if safe.is_file():
        from safetensors import safe_open

        with safe_open(safe, framework="pt") as stream:
            return set(stream.keys())
    return set(torch.load(folder / "adapter_model.bin", map_location="cpu", weights_only=True))


def _differences(report: Mapping[str, Any]) -> _Differences:
    mismatched = {(name, tuple(found), tuple(wanted)) for name, found, wanted in report["mismatched_keys"]}
    missing = set(report["missing_keys"]) - {name for name, _, _ in mismatched}
    harmless = [re.compile(pattern) for pattern, _ in HARMLESS]
    unexpected = {
        name for name in report["unexpected_keys"] if not any(pattern.search(name) for pattern in harmless)
    }
    return _Differences(tuple(sorted(missing)), tuple(sorted(unexpected)), tuple(sorted(mismatched)))


def _is_within(name: str, parts: Sequence[str]) -> bool:
    return any(f".{part}." in f".{name}." for part in parts)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _shape(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes)) or "a single number"


@contextmanager
def _fixed_seed() -> Iterator[None]:
    """Every load within draws the same numbers; the caller's random state (of the CPU) is as it was afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would reach the devices' generators too
        yield
