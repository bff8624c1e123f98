"""Loading: models and processors as the config names them, parts frozen by name, failures in plain words."""

from pathlib import Path

import pytest
import torch
from support.models import tiny_models

from cotbal.config.model import ModelConfig
from cotbal.config.yaml_file import ConfigError
from cotbal.models.loading import freeze, load_model, load_processor


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, make in (("llava", tiny_models.tiny_llava), ("llama", tiny_models.tiny_llama)):
        model, processor = make()
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    return folder


def settings(name: Path | str, **changes: object) -> ModelConfig:
    return ModelConfig.model_validate({"name": str(name), **changes})


@pytest.mark.parametrize(("kind", "model_class"), [("llava", "Llava"), ("llama", "Llama")])
def test_multimodal_and_text_models_load_with_their_processors(
    saved: Path, kind: str, model_class: str
) -> None:
    model = load_model(settings(saved / kind))
    assert type(model).__name__.startswith(model_class)
    assert model.dtype == torch.float32
    assert hasattr(load_processor(settings(saved / kind)), "image_processor") == (kind == "llava")


def test_dtype_and_freezing_are_the_configs(saved: Path) -> None:
    model = load_model(settings(saved / "llava", dtype="bfloat16", freeze=["vision_tower"]))
    assert model.dtype == torch.bfloat16
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if "vision_tower" in name}
    assert frozen


def test_a_model_saved_by_a_run_takes_the_first_ones_place(saved: Path, tmp_path: Path) -> None:
    model = load_model(settings(saved / "llava"))
    with torch.no_grad():
        model.lm_head.weight.fill_(0.5)
    model.save_pretrained(tmp_path)
    again = load_model(settings(saved / "llava"), tmp_path)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


def test_a_name_that_is_no_part_is_refused_with_the_parts_there_are(saved: Path) -> None:
    model = load_model(settings(saved / "llava"))
    with pytest.raises(ConfigError, match=r"model\.freeze\[1\]: found 'vision'.*model\.vision_tower"):
        freeze(model, ("lm_head", "vision"))


@pytest.mark.parametrize("load", [load_model, load_processor])
def test_a_model_that_is_not_there_is_named(tmp_path: Path, load: object) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="transformers cannot load"):
        load(settings(tmp_path / "empty"))  # type: ignore[operator]
