"""Which implementations exist, which can run here, and why the others cannot."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import torch

from cotbal_kernels.backends.base import Backend

AUTO: Final = "auto"
# In order of preference: the first that can run is what impl="auto" uses.
_MODULES: Final = {
    "triton": "cotbal_kernels.backends.triton.backend",
    "native": "cotbal_kernels.backends.native.backend",
    "torch": "cotbal_kernels.backends.torch_backend",
}
NAMES: Final = (AUTO, *_MODULES)


@dataclass(frozen=True)
class Implementation:
    """One implementation and whether it can run on the device and dtype asked about.

    Attributes:
        name: what to pass as ``impl=``.
        available: whether it can run.
        reason: why it cannot; ``None`` when it can.
    """

    name: str
    available: bool
    reason: str | None


def load(name: str) -> Backend:
    """The backend of a name."""
    return _imported(_MODULES[name])


# The import system takes ten microseconds to find out that a module is there.
@lru_cache(maxsize=len(_MODULES))
def _imported(module: str) -> Backend:
    backend: Backend = importlib.import_module(module).BACKEND
    return backend


def _unavailable(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    try:
        backend = load(name)
    except ModuleNotFoundError as error:
        if error.name != _MODULES[name]:
            raise
        return f"this installation has no {_MODULES[name]}"
    return backend.unavailable(device, dtype)


def implementations(
    device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> tuple[Implementation, ...]:
    """List every implementation for one device and dtype, in the order ``impl="auto"`` prefers them.

    Args:
        device: where the inputs live; the current accelerator, or the CPU where there is none.
        dtype: of the hidden states or logits.

    >>> import torch, cotbal_kernels as ck
    >>> [entry.available for entry in ck.implementations("cpu", torch.float64) if entry.name == "torch"]
    [True]
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    place = torch.device(device)
    reasons = {name: _unavailable(name, place, dtype) for name in _MODULES}
    return tuple(Implementation(name, reason is None, reason) for name, reason in reasons.items())


def check_name(name: str) -> None:
    """Raise unless ``name`` is a legal value of ``impl``."""
    if name not in NAMES:
        raise ValueError(f"impl is {name!r}; accepted are {', '.join(map(repr, NAMES))}")


def resolve(name: str, device: torch.device, dtype: torch.dtype) -> Backend:
    """The backend to run for ``impl=name``: the one named, or the first that can run for "auto".

    Raises:
        ValueError: ``name`` is unknown.
        RuntimeError: the implementation named cannot run on this device and dtype.
    """
    check_name(name)
    if name == AUTO:
        for candidate in _MODULES:
            if _unavailable(candidate, device, dtype) is None and load(candidate).automatic(device):
                return load(candidate)
        raise RuntimeError(f"no implementation can run on {device} with {dtype}")
    reason = _unavailable(name, device, dtype)
    if reason is not None:
        runnable = [each for each in _MODULES if _unavailable(each, device, dtype) is None]
        raise RuntimeError(
            f"impl={name!r} cannot run on {device} with {dtype}: {reason}; "
            f"runnable here: {', '.join(map(repr, runnable))}, or impl='auto' to choose"
        )
    return load(name)
