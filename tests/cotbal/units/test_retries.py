"""A unit that diverges says so and stops, or is taken up again at half the rate, as often as is sensible."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.models import tiny_mixture
from support.units.prepared import Told

from cotbal.cli import main
from cotbal.config.schema import Config, load_config
from cotbal.output.manifest import Manifest
from cotbal.output.store import OutputFolder, UnitFolder
from cotbal.tune import TaskBalancedTrainer
from cotbal.tune.divergence import DivergedError
from cotbal.units import stages
from cotbal.units.results import report_input
from cotbal.units.retries import FACTOR, RETRIES, UnitDivergedError, train_through

UNIT = "single_colour-seed0"


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_mixture.write_mixture(
        tmp_path_factory.mktemp("retries") / "m",
        samples=12,
        text_only=False,
        metrics=("loss", "loss"),
        training={
            "num_train_epochs": 1,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "per_device_train_batch_size": 2,
            "save_steps": 2,
            "logging_steps": 1,
            "use_cpu": True,
        },
        comparison={"single_task": True},
    )


@pytest.fixture
def config(mixture: Path, tmp_path: Path) -> Any:
    def make(**training: Any) -> Config:
        values = yaml.safe_load(mixture.read_text())
        values["training"] |= training
        path = mixture.with_name(f"{tmp_path.name}.yaml")
        path.write_text(yaml.safe_dump(values))
        return load_config(path, output=tmp_path / "run")

    return make


def poison(monkeypatch: pytest.MonkeyPatch, step: int, times: int) -> None:
    """The first `times` attempts meet a NaN in their weights at one step, as after a fault of the machine."""
    stock = TaskBalancedTrainer.get_batch_samples
    left = [times]

    def poisoned(self: Any, *args: Any) -> Any:
        if left[0] and self.state.global_step == step - 1:
            left[0] -= 1
            with torch.no_grad():
                next(self.model.parameters()).fill_(math.nan)
        return stock(self, *args)

    monkeypatch.setattr(TaskBalancedTrainer, "get_batch_samples", poisoned)


def test_it_stops_with_its_state_and_exit_code_and_without_a_model(
    config: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(learning_rate=1e30, save_steps=1, logging_steps=50)
    path = next(settings.tasks[0].train[0].parent.glob("test_it_stops*.yaml"))
    assert main(["unit", str(path), UNIT, "--output", str(settings.output)]) == 2
    said = capsys.readouterr().err
    for part in (
        UNIT,
        "diverged",
        "step 2",
        "Last finite losses by task: colour",
        "learning_rate",
        "on_divergence",
    ):
        assert part in said
    assert "Traceback" not in said
    folder = OutputFolder(settings.output).unit(UNIT)
    manifest = folder.manifest()
    assert manifest is not None
    assert manifest.state == "planned"
    assert "diverged" in manifest.stopped
    assert not folder.model.exists()
    assert main(["status", str(path), "--output", str(settings.output)]) == 0
    assert "stopped" in capsys.readouterr().out
    values = report_input(settings)
    assert any(UNIT in warning and "diverged" in warning for warning in values.warnings)
    assert [unit.state for unit in values.provenance.units if unit.name == UNIT] == ["stopped"]


def test_a_retry_goes_on_from_the_last_whole_checkpoint_at_half_the_rate(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(on_divergence="retry")
    poison(monkeypatch, step=4, times=1)
    told = Told()
    stages.run_unit(settings, UNIT, told)
    folder = OutputFolder(settings.output).unit(UNIT)
    manifest = folder.manifest()
    assert manifest is not None
    assert manifest.state == "scored"
    assert manifest.stopped == ""
    (entry,) = manifest.divergences
    assert (entry["step"], entry["resumed_at"], entry["learning_rate"]) == (4, 2, 5e-4)
    assert "diverged at step 4" in told.text
    rates = {line["step"]: line["learning_rate"] for line in folder.log() if "loss" in line}
    assert rates == {1: 1e-3, 2: 1e-3, 3: 5e-4, 4: 5e-4, 5: 5e-4, 6: 5e-4}
    assert all(math.isfinite(line["loss"]) for line in folder.log() if "loss" in line)
    (warning,) = report_input(settings).warnings
    assert "learning_rate 0.0005" in warning


def test_on_divergence_changes_no_result_that_did_not_diverge(config: Any) -> None:
    stages.run_unit(config(), UNIT, Told())
    settings = config(on_divergence="retry")
    told = Told()
    stages.run_unit(settings, UNIT, told)
    assert told.text == ""


def manifest() -> Manifest:
    return Manifest("u", "u", "comparison", 0, {}, {})


def diverge(scales: list[float], times: int) -> Any:
    def attempt(scale: float) -> str:
        scales.append(scale)
        if len(scales) <= times:
            raise DivergedError(7, "the loss of a is not finite", {"a": (2.0, 6)})
        return "trained"

    return attempt


def test_retries_end(tmp_path: Path) -> None:
    folder, scales = UnitFolder(tmp_path / "u"), list[float]()
    settings = {"learning_rate": 1.0, "on_divergence": "retry"}
    with pytest.raises(UnitDivergedError, match=f"taken up again {RETRIES} times"):
        train_through(diverge(scales, 99), manifest(), folder, settings, lambda text: None)
    assert scales == [FACTOR**number for number in range(RETRIES + 1)]
    stored = folder.manifest()
    assert stored is not None
    assert len(stored.divergences) == RETRIES
    assert stored.stopped


@pytest.mark.parametrize(
    "settings", [{"learning_rate": 1.0}, {"learning_rate": 1.0, "on_divergence": "stop"}]
)
def test_without_being_told_to_it_is_not_tried_again(tmp_path: Path, settings: dict[str, Any]) -> None:
    scales = list[float]()
    with pytest.raises(UnitDivergedError, match=r"diverged: .*on_divergence: retry"):
        train_through(diverge(scales, 1), manifest(), UnitFolder(tmp_path / "u"), settings, lambda text: None)
    assert scales == [1.0]


def test_a_killed_retry_goes_on_at_its_rate(tmp_path: Path) -> None:
    folder, scales = UnitFolder(tmp_path / "u"), list[float]()
    settings = {"learning_rate": 1.0, "on_divergence": "retry"}

    def killed(scale: float) -> str:
        scales.append(scale)
        if len(scales) == 2:
            raise KeyboardInterrupt
        raise DivergedError(7, "the loss of a is not finite", {})

    with pytest.raises(KeyboardInterrupt):
        train_through(killed, manifest(), folder, settings, lambda text: None)
    stored = folder.manifest()
    assert stored is not None
    again = list[float]()
    train_through(diverge(again, 0), stored, folder, settings, lambda text: None)
    assert again == scales[-1:] == [FACTOR]
