"""What a unit is and how far it is: the content of its `manifest.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from cotbal.config.yaml_file import ConfigError

__all__ = ["SCHEMA", "Manifest", "State", "manifest_of", "retry_sentence"]

State = Literal["planned", "trained", "scored"]
SCHEMA = 1


@dataclass(frozen=True)
class Manifest:
    """What a unit is and how far it is.

    Attributes:
        training: everything its weights depend on, as nested values.
        scoring: everything else that its scores depend on, per task.
        state: `planned`, `trained` (its model is saved) or `scored` (nothing is left to do).
        versions: the versions of the packages that made it.
        seconds: time spent training, scoring and taking token accuracies (`train`, `score`, `forced`), over all
            calls.
        samples: the number of samples trained on (all epochs), scored, and whose token accuracies were taken.
        steps: optimizer steps of the training.
        finished: when it was scored, in UTC; empty before.
        divergences: the retries of a training that diverged, each with the step, what was seen, and the learning rate
            and the step it was taken up again with.
        files: the seals of what the unit has made so far (see `cotbal.output.seals`), by their paths in its folder.
        stopped: why the last attempt on it ended without a result; empty otherwise.
        engine: the server that scored it, its version, and how it compared with scoring in process; empty for the
            latter.
    """

    unit: str
    model: str
    stage: str
    seed: int
    training: Mapping[str, Any]
    scoring: Mapping[str, Any]
    state: State = "planned"
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    samples: Mapping[str, int] = field(default_factory=dict)
    steps: int = 0
    finished: str = ""
    divergences: Sequence[Mapping[str, Any]] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    stopped: str = ""
    engine: Mapping[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def advanced(self, state: State, **changes: Any) -> Manifest:
        """Return the same unit in another state."""
        return replace(self, state=state, **changes)


def manifest_of(values: dict[str, Any], path: Path) -> Manifest:
    """A manifest from its file's values, checked as far as others rely on it."""
    try:
        manifest = Manifest(**{**values, "divergences": tuple(values.get("divergences", ()))})
    except TypeError as error:
        raise ConfigError(f"{path}: not a manifest ({error}); delete the folder to redo it") from None
    kinds = {"unit": str, "model": str, "state": str, "stopped": str, "steps": int, "seed": int}
    kinds |= dict.fromkeys(("training", "scoring", "versions", "seconds", "samples", "files", "engine"), dict)
    unfit = [name for name, kind in kinds.items() if not isinstance(getattr(manifest, name), kind)]
    if unfit or manifest.state not in get_args(State):
        raise ConfigError(
            f"{path}: not a manifest (its {unfit[0] if unfit else 'state'} is damaged); delete the folder to redo it"
        )
    if manifest.unit != path.parent.name:
        raise ConfigError(
            f"{path}: the manifest of another unit, {manifest.unit}; delete the folder to redo it"
        )
    return manifest


def retry_sentence(entry: Mapping[str, Any]) -> str:
    """A retry in words, as an end of a sentence that begins with the unit."""
    return (
        f"diverged at step {entry['step']} ({entry['what']}) and was taken up again at step {entry['resumed_at']} "
        f"with learning_rate {entry['learning_rate']:g}"
    )
