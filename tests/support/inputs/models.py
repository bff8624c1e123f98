"""Folders of models whose files are broken or hostile: each with part of the error."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from support.models.tiny_models import tiny_llama

WEIGHTS = "model.safetensors"


@lru_cache
def _whole() -> Path:
    folder = Path(mkdtemp())
    for part in tiny_llama():
        part.save_pretrained(folder)
    return folder


def saved_model(folder: Path) -> Path:
    """A whole model with its tokenizer."""
    return Path(shutil.copytree(_whole(), folder))


class _Runs:
    """A pickle that runs a command when it is read."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def _pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with (folder / "pytorch_model.bin").open("wb") as stream:
        pickle.dump(_Runs(f"touch {folder.parent / 'code-ran'}"), stream)


def _zipped_pickle(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({"lm_head.weight": _Runs(f"touch {folder.parent / 'code-ran'}")}, folder / "pytorch_model.bin")


def _bytes(change: Callable[[bytes], bytes], name: str = WEIGHTS) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return spoil


def _tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})

    return spoil


def _header(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    def rewritten(content: bytes) -> bytes:
        (size,) = struct.unpack("<Q", content[:8])
        text = json.dumps(change(json.loads(content[8 : 8 + size]))).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + size :]

    return _bytes(rewritten)


def _first(header: dict[str, Any], **changes: Any) -> dict[str, Any]:
    name = next(name for name in header if name != "__metadata__")
    return {**header, name: {**header[name], **changes}}


def _json(name: str, **changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return spoil


def _index(weight_map: dict[str, str]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        listed = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(listed))

    return spoil


def _remote_code(folder: Path) -> None:
    _json(
        "config.json", auto_map={"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}, model_type="own"
    )(folder)
    (folder / "code.py").write_text(f"open({str(folder.parent / 'code-ran')!r}, 'w')\n")


MODELS: dict[str, tuple[Callable[[Path], None], str | None]] = {
    "whole": (lambda folder: None, None),
    "weights cut in half": (_bytes(lambda content: content[: len(content) // 2]), "cannot be read"),
    "weights of nothing": (_bytes(lambda content: b""), "cannot be read"),
    "weights of zeros": (_bytes(lambda content: bytes(len(content))), "cannot be read"),
    "a header of 2^63 bytes": (
        _bytes(lambda content: struct.pack("<Q", 2**63) + content[8:]),
        "cannot be read",
    ),
    "a header that is no JSON": (_bytes(lambda content: content[:8] + b"x" + content[9:]), "cannot be read"),
    "a tensor beyond the file": (
        _header(lambda header: _first(header, data_offsets=[0, 10**12])),
        "cannot be read",
    ),
    "a tensor of 2^60 numbers": (
        _header(lambda header: _first(header, shape=[2**30, 2**30])),
        "cannot be read",
    ),
    "a dtype that is unknown": (_header(lambda header: _first(header, dtype="F7")), "cannot be read"),
    "a tensor missing": (
        _tensors(lambda tensors: {name: value for name, value in tensors.items() if "lm_head" not in name}),
        "1 tensors of the model are missing: lm_head.weight",
    ),
    "a tensor too many": (
        _tensors(lambda tensors: {**tensors, "extra.weight": torch.zeros(2)}),
        "1 tensors are not the model's: extra.weight",
    ),
    "a tensor of another shape": (
        _tensors(lambda tensors: {**tensors, "lm_head.weight": torch.zeros(3, 32)}),
        "1 tensors have another shape: lm_head.weight",
    ),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "transformers cannot load"),
    "a pickle that runs a command": (_pickled, "model: "),
    "a pickle within an archive": (_zipped_pickle, "model: "),
    "an index of files that are not there": (_index({"lm_head.weight": "gone.safetensors"}), "model: "),
    "an index that leaves the folder": (_index({"lm_head.weight": "../../../etc/passwd"}), "model: "),
    "code of its own": (_remote_code, "transformers cannot load"),
    "a config that is no JSON": (_bytes(lambda content: b"{", "config.json"), "transformers cannot load"),
    "a config of another kind": (_json("config.json", model_type="nothing"), "transformers cannot load"),
    "a config of a list": (_bytes(lambda content: b"[]", "config.json"), "transformers cannot load"),
    "a vocabulary of 10^15": (_json("config.json", vocab_size=10**15), "model: "),
    "layers in words": (_json("config.json", num_hidden_layers="many"), "transformers cannot load"),
    "a tokenizer that is no JSON": (
        _bytes(lambda content: b"{", "tokenizer.json"),
        "transformers cannot load",
    ),
    "a tokenizer of levels without end": (
        _bytes(lambda content: b"[" * 100_000, "tokenizer.json"),
        "transformers cannot load",
    ),
}
