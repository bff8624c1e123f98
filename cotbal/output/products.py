"""``scores.csv`` and ``weights.json`` held to what was written: they decide what is tuned, and people open them."""

from __future__ import annotations

import json
from pathlib import Path

from cotbal.atomic import read_file, replacing
from cotbal.config.yaml_file import ConfigError
from cotbal.output.seals import bytes_damage, seal_files

__all__ = ["check_product", "seal_product"]


def seal_product(seals_file: Path, path: Path) -> None:
    """Note in `seals_file` what a product holds now."""
    seals = {**_seals(seals_file), **seal_files(path.parent, [path.name])}
    with replacing(seals_file) as stream:
        stream.write(json.dumps(seals, indent=1, sort_keys=True) + "\n")


def check_product(seals_file: Path, path: Path, stage: str) -> None:
    """Hold a product to what was noted; one that was never noted passes, as does one that is not there.

    Args:
        stage: the command that writes it anew.

    Raises:
        ConfigError: it is not as it was written.
    """
    seal = _seals(seals_file).get(path.name)
    found = bytes_damage(path, read_file(path), seal) if seal is not None and path.is_file() else None
    if found is not None:
        raise ConfigError(
            f"{found}; `cotbal {stage}` writes it anew. If you changed it on purpose, keep it elsewhere and name it: "
            "`cotbal weigh FILE.csv`, `cotbal tune --weights FILE`"
        )


def _seals(path: Path) -> dict[str, str]:
    try:
        found = json.loads(read_file(path))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        found = None
    if not (isinstance(found, dict) and all(isinstance(seal, str) for seal in found.values())):
        raise ConfigError(f"{path}: damaged; delete it, then `cotbal prepare` and `cotbal weigh` again")
    return found
