"""Training: stopped at any step, it ends with the same weights, bit for bit."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from support.models import tiny_mixture, tiny_models
from transformers import TrainerControl, TrainerState, TrainingArguments

from cotbal.config.schema import Config, load_config
from cotbal.data.collate import TaskCollator
from cotbal.models.loading import load_processor
from cotbal.output.checkpoints import last_complete, step_of
from cotbal.output.store import OutputFolder
from cotbal.units import stages, train, trainer
from cotbal.units.batches import StepSampler
from cotbal.units.display import LineProgress
from cotbal.units.mixture import Mixture

# 9 samples in batches of 2, two batches a step: 3 steps an epoch, the last of one batch of a single sample.
STEPS_AN_EPOCH = 3
LENGTHS: dict[str, dict[str, Any]] = {
    "epochs": {"num_train_epochs": 2},
    "steps": {"max_steps": 5, "num_train_epochs": 9},
    "grouped": {"num_train_epochs": 2, "train_sampling_strategy": "group_by_length"},
}


class StoppedError(Exception):
    """Stands for a kill: nothing of the process is left to tidy up."""


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train") / "m"
    tiny_mixture.write_mixture(
        folder, samples=9, text_only=False, metrics=("loss", "loss"), comparison={"single_task": True}
    )
    # With dropout, so that a random state that is not restored shows.
    model, _ = tiny_models.tiny_llava(attention_dropout=0.2)
    model.save_pretrained(folder / "model")
    return folder


@pytest.fixture
def config(mixture: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Config]:
    def make(name: str, length: str, **training: Any) -> Config:
        values = yaml.safe_load((mixture / "mixture.yaml").read_text())
        settings = {"learning_rate": 1e-2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
        values["training"] = {**settings, "use_cpu": True, "save_steps": 1, **LENGTHS[length], **training}
        path = mixture / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values))
        return load_config(path, output=tmp_path / name)

    return make


@pytest.fixture(scope="module")
def whole() -> dict[str, bytes]:
    """Weights of uninterrupted trainings, made when first asked for."""
    return {}


def weights(config: Config) -> bytes:
    return (OutputFolder(config.output).unit("single_colour-seed0").model / "model.safetensors").read_bytes()


def run(config: Config) -> None:
    stages.run_unit(config, "single_colour-seed0", LineProgress(Console(file=io.StringIO())))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5, "saving"])
def test_stopped_anywhere_it_ends_the_same(
    config: Callable[..., Config],
    whole: dict[str, bytes],
    length: str,
    stop: int | str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if length not in whole:
        run(uninterrupted := config("whole", length))
        whole[length] = weights(uninterrupted)

    def on_save(
        self: Any, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        original(self, args, state, control)
        if state.global_step == stop:
            raise StoppedError

    def save(*_: Any) -> None:
        raise StoppedError

    original = train._Watch.on_save
    stopped = config("stopped", length)
    with monkeypatch.context() as patch:
        patch.setattr(train._Watch, "on_save", on_save)
        if stop == "saving":
            patch.setattr(train, "_save", save)
        with pytest.raises(StoppedError):
            run(stopped)
    checkpoint = last_complete(OutputFolder(stopped.output).unit("single_colour-seed0").checkpoints)
    assert checkpoint is not None
    last = LENGTHS[length].get("max_steps", 2 * STEPS_AN_EPOCH)
    assert step_of(checkpoint) == (last if stop == "saving" else stop)
    run(stopped)
    assert weights(stopped) == whole[length]
    manifest = OutputFolder(stopped.output).unit("single_colour-seed0").manifest()
    assert manifest is not None
    assert manifest.steps == last


def test_a_checkpoint_that_was_being_written_is_not_used(
    config: Callable[..., Config], whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "epochs" not in whole:
        run(uninterrupted := config("whole", "epochs"))
        whole["epochs"] = weights(uninterrupted)
    torn = config("torn", "epochs", save_steps=2)

    def mark(checkpoint: Path) -> None:
        if step_of(checkpoint) == 4:
            (checkpoint / "optimizer.pt").write_bytes(b"half")
            raise StoppedError
        original(checkpoint)

    original = train.mark_complete
    with monkeypatch.context() as patch:
        patch.setattr(train, "mark_complete", mark)
        with pytest.raises(StoppedError):
            run(torn)
    run(torn)
    assert weights(torn) == whole["epochs"]


@pytest.mark.parametrize("limit", [None, 30])
def test_samples_are_grouped_by_the_tokens_they_are_trained_on(
    config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    made: list[StepSampler] = []

    class Recorded(StepSampler):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(trainer, "StepSampler", Recorded)
    grouped = config("lengths", "grouped", num_train_epochs=1).model_copy(
        update={"max_length": limit, "bad_records": "skip", "max_bad_share": 1.0}
    )
    run(grouped)
    collate = TaskCollator(load_processor(grouped.model), ["colour"], limit)
    seen = [collate.examine(record) for record in Mixture(grouped).records("colour", "train")]
    expected = [min(one.tokens, limit or one.tokens) for one in seen if not one.fatal]
    assert len(set(expected)) > 1 or limit
    assert made
    assert all(sampler.lengths == expected for sampler in made)
