"""Lets torchvision be imported where its own operators cannot be loaded.

PyPI's torchvision for Linux is built for CUDA, and its operators do not load beside a CPU build of torch; without
their declarations `import torchvision`, and so nearly all of transformers, fails. Image processors call only its
transforms, which are plain torch. A declaration without a kernel is enough for them; a call of such an operator
raises.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence

import torch

MISSING = "operator torchvision::nms does not exist"
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []  # a library's declarations end with it


def usable(packages: Sequence[str]) -> bool:
    """Whether all of these packages are installed; torchvision is then imported, with its declarations."""
    if any(importlib.util.find_spec(package) is None for package in packages):
        return False
    if "torchvision" in packages:
        import_torchvision()
    return True


def import_torchvision() -> None:
    """Import torchvision, before transformers does."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if str(error) != MISSING:
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            library.define(schema)
        _declared.append(library)
        importlib.import_module("torchvision")
