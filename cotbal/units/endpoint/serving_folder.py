"""What a server loads: a unit's model, with token ids as the only settings of generation.

Servers take penalties, forbidden words and lengths from a checkpoint's `generation_config.json` even where a request
asks for temperature 0, so the folder they are shown holds none.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from transformers import GenerationConfig

from cotbal.units.generation import token_ids

__all__ = ["serving_folder"]

_SETTINGS = "generation_config.json"


def serving_folder(model: Path, place: Path) -> Path:
    """Make `place`: links to the files of `model`, and its own settings of generation."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(model, place, copy_function=_link, ignore=shutil.ignore_patterns(_SETTINGS))
    if (model / _SETTINGS).is_file():
        recommended = GenerationConfig.from_pretrained(model)
        GenerationConfig(**token_ids(recommended)).save_pretrained(place)  # type: ignore[no-untyped-call]
    return place


def _link(source: str, target: str) -> str:
    """A second name of the same file, or a copy where the file system has no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
