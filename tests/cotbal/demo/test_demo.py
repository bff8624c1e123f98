"""The demo's folder: real pictures of disjoint digits, a base model and a config that load like anyone's."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from cotbal.config.schema import Config, load_config
from cotbal.config.yaml_file import ConfigError
from cotbal.data import TaskCollator, read_records
from cotbal.demo.build import config_text, prepare_demo
from cotbal.demo.dataset import write_dataset
from cotbal.demo.mixtures import CONFLICT, MIXTURES, SHARED, UNEVEN, DemoMixture, get_mixture
from cotbal.demo.pretrain import DEFAULT_PRETRAINING
from cotbal.demo.questions import Dialogue
from cotbal.demo.scenes import SCENE_PIXELS, SPLITS, digit_images, draw_scene, paint
from cotbal.metrics import get

SHORT = replace(DEFAULT_PRETRAINING, scenes=64, vision_steps=2, alignment_steps=2)


@pytest.fixture(scope="module", params=list(MIXTURES))
def mixture(request: pytest.FixtureRequest) -> DemoMixture:
    return get_mixture(request.param)


@pytest.fixture(scope="module")
def folder(mixture: DemoMixture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("demo")
    prepare_demo(made, mixture, pretraining=SHORT)
    return made


@pytest.fixture(scope="module")
def config(folder: Path) -> Config:
    return load_config(folder / "config.yaml")


def test_no_digit_image_is_in_two_splits() -> None:
    indices = [set(np.concatenate(digit_images(split).by_value).tolist()) for split in SPLITS]
    assert sum(map(len, indices)) == len(set().union(*indices)) == 1797


def test_the_config_fits_what_was_made(config: Config, mixture: DemoMixture) -> None:
    assert config.missing_paths() == []
    assert {task.name: task.metric for task in config.tasks} == {
        name: task.metric for name, task in mixture.tasks.items()
    }
    assert "iou@0.5" in {task.metric for task in config.tasks}
    assert len(config.tasks) >= 6
    assert config.comparison.single_task
    assert len(config.comparison_seeds) >= 2


def test_every_record_is_read_and_its_references_can_be_scored(config: Config) -> None:
    for task in config.tasks:
        for paths in (task.train, task.validation, task.test):
            found = read_records(paths, task=task.name, image_root=task.images)
            assert not found.problems
            assert task.metric is not None
            references = [record.references for record in found.records[:50]]
            right = [accepted[0] for accepted in references]
            wrong = ["nothing of the kind"] * len(right)
            metric = get(task.metric)
            assert np.mean(metric.score(right, references)) > np.mean(metric.score(wrong, references))


def test_the_base_model_loads_as_anyones_and_is_fed_by_the_collator(folder: Path, config: Config) -> None:
    processor = AutoProcessor.from_pretrained(folder / "base")
    model = AutoModelForImageTextToText.from_pretrained(folder / "base")
    tasks = [task.name for task in config.tasks]
    records = [
        read_records(task.train, task=task.name, image_root=task.images).records[0] for task in config.tasks
    ]
    batch = TaskCollator(processor, tasks)(records)
    assert (batch["labels"] != -100).any(dim=1).all()
    unknown = processor.tokenizer.unk_token_id
    assert not (batch["input_ids"] == unknown).any()
    for task in config.tasks:
        for record in json.loads(task.train[0].read_text()):
            text = " ".join(turn["value"] for turn in record["conversations"])
            assert unknown not in processor.tokenizer(text)["input_ids"], text
    with torch.no_grad():
        out = model(
            **{name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values", "labels")}
        )
    assert torch.isfinite(out.loss)
    assert sum(parameter.numel() for parameter in model.parameters()) < 2_000_000


def test_what_is_there_is_kept(folder: Path, mixture: DemoMixture) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    prepare_demo(folder, mixture, pretraining=SHORT)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_pictures_show_their_scene(folder: Path) -> None:
    images = digit_images("test")
    generator = np.random.default_rng(0)
    scene = draw_scene(generator, images)
    board = paint(scene, images, generator)
    assert board.shape == (SCENE_PIXELS, SCENE_PIXELS, 3)
    bright = {(d.row, d.column) for d in scene.digits}
    for row in range(3):
        for column in range(3):
            cell = board[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            assert (cell.max() > 100) == ((row, column) in bright)
    stored = json.loads(load_config(folder / "config.yaml").tasks[0].test[0].read_text())[0]
    with Image.open(folder / "data/images" / stored["image"]) as picture:
        assert picture.size == (SCENE_PIXELS, SCENE_PIXELS)


@pytest.mark.parametrize(("name", "task"), [(m.name, task) for m in MIXTURES.values() for task in m.tasks])
def test_questions_have_answers(name: str, task: str) -> None:
    images = digit_images("train")
    generator = np.random.default_rng(1)
    for _ in range(50):
        dialogue = MIXTURES[name].tasks[task].ask(draw_scene(generator, images), generator)
        assert dialogue.question
        assert all(dialogue.answers)


def test_conflicting_tasks_ask_the_same_and_answer_otherwise() -> None:
    """Half of the questions of a pair cannot be told apart, and their answers are never the same."""
    images = digit_images("train")
    for one, other in (("count-words", "count-figures"), ("where-box", "where-words")):
        asked: list[list[Dialogue]] = []
        for task in (one, other):
            generator = np.random.default_rng(0)
            scenes = [draw_scene(generator, images) for _ in range(400)]
            asked.append(
                [CONFLICT.tasks[task].ask(scene, np.random.default_rng(k)) for k, scene in enumerate(scenes)]
            )
        pairs = list(zip(*asked, strict=True))
        assert all(first.answers != second.answers for first, second in pairs)
        same = np.mean([first.question == second.question for first, second in pairs])
        assert 0.4 < same < 0.6


def test_uneven_tasks_are_uneven_and_one_has_no_pictures(tmp_path: Path) -> None:
    assert len(UNEVEN.tasks) >= 10
    sizes = [task.train for task in UNEVEN.tasks.values()]
    assert max(sizes) >= 5 * min(sizes)
    write_dataset(tmp_path, UNEVEN, scenes={"train": 110, "validation": 5, "test": 5})
    for name, task in UNEVEN.tasks.items():
        records = json.loads((tmp_path / "train" / f"{name}.json").read_text())
        assert len(records) == round(task.train / 10)
        assert len(json.loads((tmp_path / "test" / f"{name}.json").read_text())) == 5
        assert all(("image" in record) == (name != "compare") for record in records)
        assert all(
            record["conversations"][0]["value"].count("<image>") == ("image" in record) for record in records
        )


def test_the_shared_mixture_is_the_one_of_the_demo(tmp_path: Path) -> None:
    assert get_mixture("shared") is SHARED
    with pytest.raises(ValueError, match="no demo mixture 'x'; known are shared, conflict, uneven"):
        get_mixture("x")
    (tmp_path / "config.yaml").write_text(config_text(SHARED).replace("model: base", "model: b"))
    with pytest.raises(ConfigError, match=r"holds another mixture .*caption"):
        prepare_demo(tmp_path, CONFLICT, pretraining=SHORT)
