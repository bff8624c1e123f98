"""The folder that a server is shown: the model's files, and no settings of generation but token ids."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.models import tiny_models
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from cotbal.output.seals import seal_folder
from cotbal.units.endpoint.serving_folder import serving_folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    made, processor = tiny_models.tiny_llava()
    made.generation_config.repetition_penalty = 1.3
    made.generation_config.no_repeat_ngram_size = 2
    made.generation_config.max_length = 9
    made.generation_config.eos_token_id = [2, 5]
    made.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_it_loads_and_recommends_nothing(model, tmp_path):
    before = seal_folder(model)
    place = serving_folder(model, tmp_path / "serving" / "mini")
    loaded = AutoModelForImageTextToText.from_pretrained(place)
    AutoProcessor.from_pretrained(place)
    found = loaded.generation_config
    assert found.eos_token_id == [2, 5]
    assert (found.bos_token_id, found.pad_token_id) == (1, 0)
    plain = GenerationConfig()
    for name in ("repetition_penalty", "no_repeat_ngram_size", "max_length", "do_sample", "temperature"):
        assert getattr(found, name) == getattr(plain, name), name
    assert seal_folder(model) == before
    # Made anew over what a killed call has left.
    (place / "config.json").unlink()
    assert (serving_folder(model, place) / "config.json").is_file()
