"""``scores.csv`` and ``weights.json`` held to what was written: they decide what is tuned, and people open them."""

from __future__ import annotations

import json
from pathlib import Path

from cotbal.atomic import read_file, replacing
from cotbal.config.yaml_file import ConfigError
from cotbal.output.seals import bytes_damage, seal_files, seal_values

__all__ = ["check_product", "seal_product"]

# The file's own seal: a name that is no longer the one it was would otherwise leave its product without a seal.
_OWN = "seal"


def seal_product(seals_file: Path, path: Path) -> None:
    """Note in `seals_file` what a product holds now."""
    seals = {**_seals(seals_file), **seal_files(path.parent, [path.name])}
    with replacing(seals_file) as stream:
        stream.write(json.dumps({**seals, _OWN: seal_values(seals)}, indent=1, sort_keys=True) + "\n")


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
            f"{found} (by its seal in {seals_file.name}); `cotbal {stage}` writes it anew. If you changed it on "
            "purpose, keep it elsewhere and name it: `cotbal weigh FILE.csv`, `cotbal tune --weights FILE`"
        )


def _seals(path: Path) -> dict[str, str]:
    try:
        found = json.loads(read_file(path))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        found = None
    own = found.pop(_OWN, None) if isinstance(found, dict) else None
    if not isinstance(found, dict) or own != seal_values(found):
        raise ConfigError(f"{path}: damaged; delete it, then `cotbal prepare` and `cotbal weigh` again")
    return found
