"""Seals: whatever happens to a sealed file is seen, and nothing is vouched for before it is on the disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.models import tiny_mixture
from support.units.prepared import Told

from cotbal.config.schema import load_config
from cotbal.output.seals import bytes_damage, damage, seal_bytes, seal_folder
from cotbal.units import stages

contents = st.dictionaries(st.sampled_from(["a", "b", "in/c", "in/d"]), st.binary(max_size=40), min_size=1)


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@given(before=contents, after=contents)
def test_a_folder_is_whole_if_and_only_if_it_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, before: dict[str, bytes], after: dict[str, bytes]
) -> None:
    one, other = tmp_path_factory.mktemp("a"), tmp_path_factory.mktemp("b")
    write(one, before)
    write(other, after)
    seals = seal_folder(one)
    assert seals == {name: seal_bytes(content) for name, content in before.items()}
    assert damage(one, seals, deep=True) == []
    assert (damage(other, seals, deep=True) == []) == (before == after)
    sizes = {name: len(content) for name, content in before.items()}
    same_sizes = sizes == {name: len(content) for name, content in after.items()}
    assert (damage(other, seals, deep=False) == []) == same_sizes


@given(content=st.binary(min_size=1, max_size=50), data=st.data())
def test_one_bit_is_enough(content: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, 8 * len(content) - 1))
    changed = bytearray(content)
    changed[place // 8] ^= 1 << place % 8
    assert bytes_damage(Path("f"), content, seal_bytes(content)) is None
    assert bytes_damage(Path("f"), bytes(changed), seal_bytes(content)) == "the content of f has changed"


def test_hidden_files_are_none_of_its_business(tmp_path: Path) -> None:
    write(tmp_path, {"a": b"x"})
    seals = seal_folder(tmp_path)
    (tmp_path / ".nfs0001").write_bytes(b"")
    assert damage(tmp_path, seals, deep=True) == []


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """What is synced, and what is renamed to what, in order; every call goes through."""
    noted: list[tuple[str, str, str]] = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def syncing(number: Any) -> None:
        fsync(number)
        noted.append(("sync", os.readlink(f"/proc/self/fd/{int(number)}"), ""))

    def moving(old: Any, new: Any, **options: Any) -> None:
        (rename if options else replace)(old, new, **options)
        noted.append(("move", str(old), str(new)))

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "rename", moving)
    monkeypatch.setattr(os, "replace", moving)
    return noted


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names of open files are read from /proc")
def test_data_are_on_the_disk_before_what_vouches_for_them(
    tmp_path: Path, events: list[tuple[str, str, str]]
) -> None:
    path = tiny_mixture.write_mixture(
        tmp_path / "m",
        samples=6,
        text_only=False,
        metrics=("loss", "loss"),
        training={"max_steps": 2, "save_steps": 1, "per_device_train_batch_size": 2, "use_cpu": True},
        comparison={"single_task": True},
    )
    config = load_config(path)
    checkpoints: dict[str, dict[str, str]] = {}
    mark = config.output / "units" / "single_colour-seed0" / "checkpoints"
    from cotbal.units import train

    stock = train.mark_complete

    def marking(checkpoint: Path) -> None:
        stock(checkpoint)
        checkpoints[str(checkpoint)] = json.loads((checkpoint / "COMPLETE").read_text())

    train.mark_complete = marking
    try:
        stages.run_unit(config, "single_colour-seed0", Told())
    finally:
        train.mark_complete = stock

    def when(kind: str, name: str, target: str = "") -> list[int]:
        return [
            n for n, (k, a, b) in enumerate(events) if k == kind and a == name and (not target or b == target)
        ]

    def moved_to(target: Path) -> list[int]:
        return [n for n, (kind, _, new) in enumerate(events) if kind == "move" and new == str(target)]

    assert set(checkpoints) == {str(mark / f"checkpoint-{step}") for step in (1, 2)}
    for folder, seals in checkpoints.items():
        (vouched,) = moved_to(Path(folder) / "COMPLETE")
        assert len(seals) >= 5
        for name in seals:
            assert min(when("sync", f"{folder}/{name}")) < vouched, name
        assert min(when("sync", folder)) < vouched
        assert max(when("sync", folder)) > vouched, "the name COMPLETE itself"
    unit = mark.parent
    (placed,) = moved_to(unit / "model")
    manifests = moved_to(unit / "manifest.json")
    trained = next(number for number in manifests if number > placed)
    for file in (unit / "model").iterdir():
        assert min(when("sync", str(unit / "model.unfinished" / file.name))) < placed
    assert any(placed < number < trained for number in when("sync", str(unit)))
    for written in (unit / "log.jsonl", unit / "scores.jsonl"):
        *_, number = moved_to(written)
        assert any(number < later for later in manifests)
        assert any(
            events[n][1].startswith(f"{unit}/.{written.name}")
            for n in range(number)
            if events[n][0] == "sync"
        )
