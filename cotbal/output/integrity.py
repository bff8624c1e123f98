"""Whether what a unit has made is still what it was: its model before it is used, its scores always."""

from __future__ import annotations

from dataclasses import dataclass

from cotbal.config.yaml_file import ConfigError
from cotbal.output.manifest import Manifest
from cotbal.output.score_file import DamagedFileError
from cotbal.output.seals import damage
from cotbal.output.store import UnitFolder

__all__ = ["Damage", "UnitDamagedError", "unit_damage"]


class UnitDamagedError(ConfigError):
    """Files of finished units are not as they were written."""


@dataclass(frozen=True)
class Damage:
    """What is damaged of a unit, one sentence per file.

    Attributes:
        model: of what was trained, its log included; it has to be trained again.
        scores: of what was scored; it has to be scored again, if the model is whole.
    """

    model: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.model or self.scores)

    def __str__(self) -> str:
        return "\n    ".join((*self.model, *self.scores))


def unit_damage(folder: UnitFolder, manifest: Manifest, *, deep: bool = False) -> Damage:
    """What of a unit's files is not as its manifest says.

    A model that is still to be scored is read whole for its digest. That of a unit that is done is not used any
    more: its names and sizes are compared, and it may have been deleted. Scores and the log are always read.

    Args:
        deep: read a finished unit's model too.
    """
    if manifest.state == "planned":
        return Damage()
    model: list[str] = []
    if manifest.state == "trained" and not folder.model.is_dir():
        model.append(f"{folder.model} is gone")
    elif folder.model.is_dir():
        model += folder.model_damage(manifest, deep=deep or manifest.state == "trained")
    scores: list[str] = []
    skipped = folder.skipped.name
    if skipped in manifest.files:
        sealed = {skipped: manifest.files[skipped]}
        model += damage(folder.path, sealed, deep=True, extra=lambda name: False)
    try:
        folder.log()
    except DamagedFileError as error:
        model.append(str(error).removesuffix("; add --redo to do it again"))
    try:
        if manifest.state == "scored":
            folder.kept_scores(manifest)
            count, wanted = len(folder.scores()), manifest.samples.get("score")
            if count != wanted:
                scores.append(f"{folder.path}/scores.jsonl has {count} scores; {wanted} were written")
    except DamagedFileError as error:
        scores.append(str(error).removesuffix("; add --redo to do it again"))
    except ConfigError as error:
        scores.append(str(error))
    return Damage(tuple(model), tuple(scores))
