"""The time left, from units that are done, that train now, and that wait."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from cotbal.estimates.pace import Work, planned_work, time_left
from cotbal.output.manifest import Manifest, State
from cotbal.output.standing import Standing
from cotbal.output.store import OutputFolder

WORK = [Work("mini", 100, 10, 50), Work("plus_a", 1000, 100, 50), Work("ew-seed0", 2000, 200, 100)]


def begin(folder: OutputFolder, unit: str, state: State, **values: object) -> None:
    manifest = Manifest(unit, unit, "prepare", 0, {}, {}, state, **values)  # type: ignore[arg-type]
    folder.unit(unit).write_manifest(manifest)


def stand(folder: OutputFolder, unit: str, standing: Standing) -> None:
    path = folder.standing_of(unit)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(asdict(standing)))


def test_nothing_is_known_before_the_first_step(tmp_path: Path) -> None:
    found = time_left(OutputFolder(tmp_path), WORK, 1)
    assert found.seconds is None
    assert "unknown" in str(found)


def test_a_training_in_its_first_unit_times_all_others(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    begin(folder, "mini", "planned")
    # 4 of 10 steps are done, 6 take 12 s: 2 s per step of 10 samples.
    stand(folder, "mini", Standing(4, 10, 12.0))
    found = time_left(folder, WORK, 1)
    assert found.pace.train == pytest.approx(0.2)
    assert found.units == {
        "mini": pytest.approx(60 * 0.2 + 50 * 0.1),
        "plus_a": pytest.approx(1000 * 0.2 + 50 * 0.1),
        "ew-seed0": pytest.approx(2000 * 0.2 + 100 * 0.1),
    }


def test_what_is_done_takes_no_time_and_gives_the_pace(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    begin(
        folder, "mini", "scored", seconds={"train": 50.0, "score": 100.0}, samples={"train": 100, "score": 50}
    )
    begin(folder, "plus_a", "trained", seconds={"train": 500.0}, samples={"train": 1000})
    found = time_left(folder, WORK, 2)
    assert found.pace.units == 2
    assert found.units == {"plus_a": pytest.approx(100.0), "ew-seed0": pytest.approx(2000 * 0.5 + 100 * 2.0)}
    assert found.seconds == pytest.approx((100 + 1200) / 2)
    assert "22 min left with 2 units side by side" not in str(time_left(folder, WORK, 1))


def test_token_accuracies_take_a_forward_pass_each_until_they_are_timed(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    work = [Work("mini", 100, 10, 50, 300), Work("plus_a", 1000, 100, 50, 300)]
    begin(folder, "mini", "planned")
    stand(folder, "mini", Standing(4, 10, 12.0))
    guessed = time_left(folder, work, 1)
    # Training goes on 0.2 s per sample, of which a forward pass is a third.
    assert guessed.units["plus_a"] == pytest.approx(1000 * 0.2 + 50 * 0.1 + 300 * 0.2 / 3)
    seconds = {"train": 20.0, "score": 100.0, "forced": 15.0}
    begin(folder, "mini", "scored", seconds=seconds, samples={"train": 100, "score": 50, "forced": 300})
    timed = time_left(folder, work, 1)
    assert timed.pace.forced == pytest.approx(0.05)
    assert timed.units == {"plus_a": pytest.approx(1000 * 0.2 + 50 * 2.0 + 300 * 0.05)}


def test_a_plan_of_the_hybrid_estimator_keeps_its_passes(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    unit = {"name": "mini", "samples": 100, "steps": 10, "scored": 50}
    path.write_text(json.dumps({"units": [{**unit, "forced": 300}, {**unit, "name": "old"}], "at_once": 2}))
    assert planned_work(path) == ([Work("mini", 100, 10, 50, 300), Work("old", 100, 10, 50)], 2)


def test_a_file_that_is_no_plan_plans_nothing(tmp_path: Path) -> None:
    assert planned_work(tmp_path / "plan.json") == ([], 1)
    (tmp_path / "plan.json").write_text('{"units": [{"name": 3}]}')
    assert planned_work(tmp_path / "plan.json") == ([], 1)
    (tmp_path / "plan.json").write_text('{"units": [[3]], "at_once": 1}')
    assert planned_work(tmp_path / "plan.json") == ([], 1)
