"""Put a unit's model into a folder of its own, whole: what plain `from_pretrained` and every server load."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cotbal.atomic import sync
from cotbal.config.schema import Config
from cotbal.config.yaml_file import ConfigError
from cotbal.models.adapters import adapters_wanted
from cotbal.models.loading import load_model, load_processor
from cotbal.models.model_source import ADAPTER_CONFIG, model_content, model_settings, model_source
from cotbal.output.fingerprint import differences
from cotbal.output.integrity import UnitDamagedError
from cotbal.output.manifest import Manifest
from cotbal.output.seals import sync_folder
from cotbal.output.store import OutputFolder, UnitFolder
from cotbal.units.schedule import make_schedule

__all__ = ["export_model"]


def export_model(config: Config, unit: str, target: Path, say: Callable[[str], None]) -> None:
    """Write a unit's model to `target`: a copy, or its adapter merged into the base model, with the processor.

    A merged model has the config's `model.dtype`. An adapter that was trained on a quantised base is merged into
    the base as it is on the disk, in full precision, since merging into few bits would round the adapter away. Its
    answers can then differ from those that were scored.

    Args:
        config: the mixture.
        unit: name of the unit.
        target: a folder that does not exist yet, or is empty.
        say: told of what the result differs in from what was scored.

    Raises:
        ConfigError: there is no such unit or it has no model; `target` is taken; the config or the base model is not
            what the unit was trained with; or its adapter cannot be merged.
        UnitDamagedError: the unit's model is not as it was written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target}: is there already; name a folder that does not exist, or empty this one")
    folder = OutputFolder(config.output).unit(unit)
    manifest = _trained(config, folder, unit)
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    try:
        if (folder.model / ADAPTER_CONFIG).is_file():
            _check_base(config, manifest)
            if config.model.quantization is not None:
                say(
                    f"the adapter was trained on a base model of {config.model.quantization.bits} bits; it is merged "
                    f"into the unquantised {model_source(config.model).base}, so answers can differ from those that "
                    "were scored"
                )
            _merged(config, folder).save_pretrained(unfinished)
            load_processor(config.model).save_pretrained(unfinished)
        else:
            shutil.copytree(folder.model, unfinished)
        sync_folder(unfinished)
        if target.exists():
            target.rmdir()
        unfinished.rename(target)
        sync(target.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _trained(config: Config, folder: UnitFolder, unit: str) -> Manifest:
    manifest = folder.manifest()
    if manifest is None:
        made = ", ".join(found.unit for _, found in OutputFolder(config.output).manifests()) or "none"
        known = {planned.name for planned in make_schedule(config).units}
        what = "has not begun" if unit in known else "is no unit of this config"
        raise ConfigError(f"{unit} {what}; units that have: {made}")
    if manifest.state == "planned":
        raise ConfigError(f"{unit}: its training is not finished; `cotbal unit` finishes it")
    if not folder.model.is_dir():
        raise ConfigError(
            f"{folder.model}: no such folder; models are deleted once they are scored where `keep_models` (of "
            "`preparation` or `comparison`) is false"
        )
    found = folder.model_damage(manifest, deep=True)
    if found:
        raise UnitDamagedError(f"{unit}: {'; '.join(found)}; `cotbal run --redo` trains it again")
    return manifest


def _check_base(config: Config, manifest: Manifest) -> None:
    """An adapter fits the model that it was trained on, and no other."""
    now = model_settings(config.model) | {"content": model_content(config.model)}
    changed = differences(manifest.training.get("model", {}), now, "model")
    if changed:
        raise ConfigError(
            f"{manifest.unit}: its adapter was trained on another base model than the config now names:\n    "
            + "\n    ".join(changed)
            + "\nUndo the change to export it."
        )
    if not adapters_wanted(config.model):
        raise ConfigError(
            f"{manifest.unit}: holds an adapter, but `model.adapter` is not set; undo that change"
        )


def _merged(config: Config, folder: UnitFolder) -> Any:
    whole = config.model.model_copy(update={"quantization": None, "freeze": ()})
    model = load_model(whole, folder.model)
    try:
        return model.merge_and_unload(safe_merge=True)
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"{folder.model}: peft cannot merge this adapter: {error}") from error
