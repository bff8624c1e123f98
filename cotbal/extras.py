"""The extras of `cotbal`: which of them brings a package, and an error that names it where the package is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from types import MappingProxyType
from typing import Final

__all__ = ["MODULES", "MissingExtraError", "check_extras", "extras_named"]

# Modules by the extra of pyproject.toml that brings them.
MODULES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "train": ("transformers", "accelerate", "PIL", "psutil"),
        "report": ("matplotlib", "jinja2"),
        "demo": ("sklearn",),
        "peft": ("peft",),
        "quantization": ("bitsandbytes",),
        "trl": ("trl", "datasets"),
        "tables": ("datasets", "pyarrow"),
        "xlsx": ("openpyxl",),
        "openai": ("httpx2",),
        "ray": ("ray",),
        "slurm": ("submitit",),
        "gpu": ("triton",),
    }
)


class MissingExtraError(ImportError):
    """A package that an extra of `cotbal` brings is not installed; the message names the extra."""


def check_extras(purpose: str, *extras: str) -> None:
    """Raise unless everything that the extras bring is installed; nothing is imported.

    Args:
        purpose: what needs them, the subject of the message.
        extras: names of extras.

    Raises:
        MissingExtraError: with the packages that are missing and the command that installs them.
    """
    missing = {extra: [name for name in MODULES[extra] if find_spec(name) is None] for extra in extras}
    if any(missing.values()):
        raise _error(purpose, missing)


@contextmanager
def extras_named(purpose: str) -> Iterator[None]:
    """Turn the failing import of an extra's package into an error that names the extra.

    Raises:
        MissingExtraError: in place of such an error; any other passes through unchanged.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = {extra: [name] for extra, names in MODULES.items() for name in names if name == error.name}
        if not missing:
            raise
        raise _error(purpose, missing) from error


def _error(purpose: str, missing: Mapping[str, list[str]]) -> MissingExtraError:
    names = [name for names in missing.values() for name in names]
    wanted = ",".join(extra for extra, names in missing.items() if names)
    verb = "is" if len(names) == 1 else "are"
    return MissingExtraError(
        f"{purpose} needs {', '.join(names)}, which {verb} not installed: "
        f'pip install "cotbal[{wanted}]", or "cotbal[all]" for everything'
    )
