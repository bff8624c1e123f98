"""A model that sees, taught once, and its records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from support.models import seeing_llava
from support.units.endpoints import MAX_NEW_TOKENS

from cotbal.config.model import ModelConfig
from cotbal.models.loading import load_model, load_processor
from cotbal.units.endpoint.comparison import reference_answers


@dataclass(frozen=True)
class Seeing:
    """The model's folder, its records' file, and what it answers to them in process."""

    model: Path
    records: Path
    answers: list[str]


@pytest.fixture(scope="session")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Seeing:
    folder = tmp_path_factory.mktemp("seeing")
    path = seeing_llava.colour_records(folder / "data")
    records = seeing_llava.read_colours(path)
    seeing_llava.save_seeing_llava(folder / "model", records)
    config = ModelConfig(name=str(folder / "model"))
    found = reference_answers(
        load_model(config), load_processor(config), records, max_new_tokens=MAX_NEW_TOKENS, batch_size=4
    )
    answers = [reference.text for reference in found]
    assert {answer.split()[0] for answer in answers} == {*seeing_llava.COLOURS}, "it has not learnt to see"
    return Seeing(folder / "model", path, answers)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
