"""Every file of a finished output folder, damaged in every way: named, or without effect; never silent and wrong."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.units.prepared import Told

from cotbal.cli import main
from cotbal.config.schema import Config, load_config
from cotbal.config.yaml_file import ConfigError
from cotbal.output.integrity import UnitDamagedError
from cotbal.output.store import OutputFolder
from cotbal.units import stages

Damage = Callable[[Path, Path], None]


def _cut(path: Path, other: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path, other: Path) -> None:
    os.truncate(path, 0)


def _zero(path: Path, other: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _flip(path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _swap(path: Path, other: Path) -> None:
    lines = path.read_bytes().split(b"\n")
    if len(lines) > 2:
        lines[0], lines[1] = lines[1], lines[0]
    path.write_bytes(b"\n".join(lines))


def _replace(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


DAMAGES: dict[str, Damage] = {
    "cut": _cut,
    "emptied": _empty,
    "zeroed": _zero,
    "one bit flipped": _flip,
    "two lines swapped": _swap,
    "another unit's": _replace,
}


def _products(config: Config) -> dict[str, bytes]:
    paths = [config.output / "scores.csv", *config.output.glob("units/*/scores.jsonl")]
    return {str(path): path.read_bytes() for path in paths}


def _outcome(config: Config, path: Path, products: dict[str, bytes]) -> str:
    """What comes of preparing, weighing and reporting with a damaged file: named, no effect, or wrong."""
    try:
        stages.prepare(config, Told())
        stages.weigh(config)
        stages.write_report(config)
    except (ConfigError, ValueError) as error:
        # A manifest that says something else than the config does is told as a change of its unit.
        unit = path.relative_to(config.output / "units").parts[0]
        return (
            "named" if path.name in str(error) or f"{unit} would have" in str(error) else f"unclear: {error}"
        )
    return "no effect" if _products(config) == products else "silent and wrong"


@pytest.mark.parametrize("name", DAMAGES)
def test_no_damage_is_silent_and_wrong(mixture: Path, name: str) -> None:
    config = load_config(mixture)
    products = _products(config)
    wrong: dict[str, str] = {}
    count = 0
    for path in sorted((config.output / "units").rglob("*")):
        if not path.is_file():
            continue
        parts = path.relative_to(config.output / "units").parts
        other = config.output / "units" / ("plus_count" if parts[0] == "mini" else "mini") / Path(*parts[1:])
        content = path.read_bytes()
        DAMAGES[name](path, other)
        changed = path.read_bytes() != content
        outcome = _outcome(config, path, products)
        count += 1
        fine = {"named", "no effect"} if len(parts) > 2 or not changed else {"named"}
        if outcome not in fine and not (parts[-1] == "manifest.json" and outcome == "no effect"):
            wrong["/".join(parts)] = outcome
        path.write_bytes(content)
    assert wrong == {}
    assert count >= 25
    assert _outcome(config, config.output / "units" / "mini", products) == "no effect"


def test_a_seal_that_lost_its_file_is_damage(mixture: Path) -> None:
    """One changed letter of a name would leave the file of that name without a seal."""
    config = load_config(mixture)
    path = config.output / "seals.json"
    path.write_text(path.read_text().replace("scores.csv", "scorez.csv"))
    with pytest.raises(ConfigError, match=r"seals\.json: damaged; delete it, then `cotbal prepare`"):
        stages.weigh(config)
    path.unlink()
    stages.prepare(config, Told())
    stages.weigh(config)


def test_a_report_holds_the_preparations_scores_to_their_seals(mixture: Path) -> None:
    """Its table is made of them, although another file holds it."""
    config = load_config(mixture)
    stages.weigh(config)
    stages.write_report(config)
    path = config.output / "units" / "plus_count" / "scores.jsonl"
    _flip(path, path)
    with pytest.raises(ConfigError, match=r"plus_count/scores\.jsonl has changed"):
        stages.write_report(config)


@pytest.mark.parametrize("name", ["scores.csv", "weights.json"])
@pytest.mark.parametrize("damage", [_cut, _empty, _zero, _flip])
def test_products_that_were_changed_are_named(mixture: Path, name: str, damage: Damage) -> None:
    config = load_config(mixture)
    stages.weigh(config)
    path = config.output / name
    damage(path, path)
    for stage in (stages.write_report, stages.weigh if name == "scores.csv" else stages.saved_weights):
        with pytest.raises(ConfigError, match=name):
            stage(config)


def test_damaged_scores_are_made_again_from_the_model(mixture: Path) -> None:
    config = load_config(mixture)
    products = _products(config)
    folder = OutputFolder(config.output).unit("mini")
    model = (folder.model / "model.safetensors").stat().st_mtime_ns
    _flip(folder.path / "scores.jsonl", folder.path)
    with pytest.raises(UnitDamagedError, match=r"mini:\n.*scores\.jsonl has changed(.|\n)*--redo"):
        stages.prepare(config, Told())
    told = Told()
    stages.prepare(config, told, redo=True)
    assert "mini: scored" in told.text
    assert "plus" not in told.text
    assert "trained" not in told.text
    assert _products(config) == products
    assert (folder.model / "model.safetensors").stat().st_mtime_ns == model


def test_a_model_that_was_cut_is_made_again(mixture: Path) -> None:
    config = load_config(mixture)
    products = _products(config)
    folder = OutputFolder(config.output).unit("mini")
    _cut(folder.model / "model.safetensors", folder.path)
    with pytest.raises(UnitDamagedError, match=r"model\.safetensors has \d+ bytes; \d+ were written"):
        stages.prepare(config, Told())
    told = Told()
    stages.prepare(config, told, redo=True)
    assert "mini: trained" in told.text
    assert _products(config) == products


@pytest.mark.parametrize("damage", [_cut, _flip, _zero])
def test_a_model_is_read_whole_before_it_is_scored(mixture: Path, damage: Damage) -> None:
    config = load_config(mixture)
    products = _products(config)
    folder = OutputFolder(config.output).unit("mini")
    manifest = folder.manifest()
    assert manifest is not None
    folder.write_manifest(manifest.advanced("trained"))
    folder.discard_scores()
    damage(folder.model / "model.safetensors", folder.path)
    with pytest.raises(UnitDamagedError, match=r"model\.safetensors"):
        stages.prepare(config, Told())
    stages.prepare(config, Told(), redo=True)
    assert _products(config) == products


def test_a_finished_units_model_may_be_deleted(mixture: Path) -> None:
    config = load_config(mixture)
    shutil.rmtree(OutputFolder(config.output).unit("mini").model)
    told = Told()
    stages.prepare(config, told)
    assert told.text == ""


def test_scores_with_one_more_or_less_are_named(mixture: Path) -> None:
    """Whoever writes the manifest's seal anew too is still held to the number of samples and their order."""
    config = load_config(mixture)
    folder = OutputFolder(config.output).unit("mini")
    manifest = folder.manifest()
    assert manifest is not None
    path = folder.path / "scores.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    for changed, message in (
        (lines[:-1], r"has \d+ scores; \d+ were written"),
        (
            [lines[1], lines[0], *lines[2:]],
            r"scores\.jsonl:1: sample 1 of task 'colour' in the place of sample 0",
        ),
        ([lines[0].replace('"index"', '"indices"'), *lines[1:]], r"scores\.jsonl:1: not a score"),
        (
            [json.dumps({**json.loads(lines[0]), "score": float("nan")}) + "\n", *lines[1:]],
            r":1: not a score",
        ),
        ([json.dumps({**json.loads(lines[0]), "score": "1"}) + "\n", *lines[1:]], r":1: not a score"),
    ):
        path.write_text("".join(changed))
        folder.write_manifest(manifest.advanced("scored", files={}))
        with pytest.raises(UnitDamagedError, match=message):
            stages.prepare(config, Told())


def test_the_command_line_says_which_file(mixture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config(mixture)
    path = config.output / "units" / "mini" / "log.jsonl"
    path.write_bytes(b"\xff\xfe" + path.read_bytes()[2:])
    assert main(["prepare", str(mixture)]) == 2
    said = capsys.readouterr().err
    assert str(path) in said
    assert "Traceback" not in said
