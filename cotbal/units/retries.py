"""A unit whose training diverges: stopped with its state saying so, or taken up again with a lower learning rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from cotbal.config.yaml_file import ConfigError
from cotbal.output.checkpoints import last_complete, step_of
from cotbal.output.manifest import Manifest, retry_sentence
from cotbal.output.store import UnitFolder
from cotbal.tune.divergence import DivergedError
from cotbal.units import ranks

__all__ = ["FACTOR", "RETRIES", "UnitDivergedError", "learning_rate_scale", "train_through"]

FACTOR = 0.5
"""What each retry multiplies the learning rate by, from its first step to the end."""
RETRIES = 3

_HINT = (
    "`training.on_divergence: retry` would go on from the last whole checkpoint with half the learning rate"
)

Result = TypeVar("Result")


class UnitDivergedError(ConfigError):
    """A unit's training diverged and was not, or not any more, taken up again."""


def learning_rate_scale(manifest: Manifest) -> float:
    """What a unit's learning rate is multiplied by after its retries so far."""
    return float(FACTOR ** len(manifest.divergences))


def train_through(
    attempt: Callable[[float], Result],
    manifest: Manifest,
    folder: UnitFolder,
    settings: Mapping[str, Any],
    say: Callable[[str], None],
) -> tuple[Result, Manifest]:
    """Train a unit, through divergences if `training.on_divergence` is ``retry``.

    A retry goes on from the last whole checkpoint (which is never one with a parameter that is not finite), or from
    the beginning, with `FACTOR` times the learning rate, and is recorded in the manifest before it begins: a killed
    retry goes on with the same rate. After `RETRIES` of them the unit stops.

    Args:
        attempt: trains from the last checkpoint, with the learning rate multiplied by its argument.
        manifest: the unit's; what is returned may have more `divergences`.
        settings: the unit's training settings.
        say: told of each retry.

    Raises:
        UnitDivergedError: the training diverged and stopped; the manifest's `stopped` says why.
    """
    while True:
        try:
            return attempt(learning_rate_scale(manifest)), manifest
        except DivergedError as error:
            retries = len(manifest.divergences)
            wanted = settings.get("on_divergence", "stop") == "retry"
            if not wanted or retries >= RETRIES:
                hint = f"it was taken up again {retries} times" if wanted else _HINT
                reason = f"{error}; {hint}"
                _write(folder, replace(manifest, stopped=reason))
                raise UnitDivergedError(f"{manifest.unit}: {reason}") from error
            checkpoint = last_complete(folder.checkpoints)
            entry = {
                "step": error.step,
                "what": error.what,
                "losses": {task: loss for task, (loss, _) in error.losses.items()},
                "resumed_at": 0 if checkpoint is None else step_of(checkpoint),
                "learning_rate": float(settings["learning_rate"]) * FACTOR ** (retries + 1),
            }
            manifest = replace(manifest, divergences=(*manifest.divergences, entry))
            _write(folder, manifest)
            say(f"warning: {manifest.unit} {retry_sentence(entry)}")


def _write(folder: UnitFolder, manifest: Manifest) -> None:
    """Every process diverges in the same step; the first one writes."""
    if ranks.is_first():
        folder.write_manifest(manifest)
