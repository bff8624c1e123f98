"""The check before anything is trained: what is broken is found in every set, named, counted, refused or left out."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from support.families.listing import FAMILIES
from support.models import tiny_mixture, tiny_models
from support.units.prepared import Told, change

from cotbal import cli
from cotbal.config.launch import LaunchConfig
from cotbal.config.schema import Config, load_config
from cotbal.config.yaml_file import ConfigError
from cotbal.data.check import SetSummary
from cotbal.data.records import BadRecordsError
from cotbal.output.store import OutputFolder
from cotbal.units import stages
from cotbal.units.data_check import check_data, check_rows_fit
from cotbal.units.mixture import Mixture

SETS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of 12 samples in training, 6 in validation and in test."""
    folder = tmp_path_factory.mktemp("made") / "m"
    tiny_mixture.write_mixture(folder, samples=12, text_only=False)
    # A picture of its own for each task and set, so that breaking one breaks one record.
    for path in folder.glob("*_*.json"):
        rows = json.loads(path.read_text())
        for row in rows:
            name = f"{path.stem}-{row['image']}"
            shutil.copy(folder / "images" / row["image"], folder / "images" / name)
            row["image"] = name
        path.write_text(json.dumps(rows))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "m"))


@pytest.fixture(scope="module")
def processor() -> Any:
    return tiny_models.tiny_llava()[1]


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / f"{name}.json").read_text())
    return found


def break_pictures(folder: Path, name: str, *indices: int) -> None:
    for index in indices:
        picture = folder / "images" / rows(folder, name)[index]["image"]
        picture.write_bytes(picture.read_bytes()[:60])


def edit(folder: Path, name: str, index: int, **changes: Any) -> None:
    changed = rows(folder, name)
    changed[index].update(changes)
    (folder / f"{name}.json").write_text(json.dumps(changed))


def checked(config: Config, processor: Any, workers: int = 0) -> tuple[tuple[SetSummary, ...], Mixture, Told]:
    mixture, told = Mixture(config), Told()
    return check_data(config, mixture, lambda: processor, told, workers=workers), mixture, told


def listed(config: Config) -> set[tuple[str, int]]:
    return {(problem.file.stem, problem.index) for problem in OutputFolder(config.output).problems()}


def test_what_is_counted(folder: Path, processor: Any) -> None:
    sets, mixture, _ = checked(load_config(folder / "mixture.yaml"), processor)
    assert [(item.task, item.split) for item in sets] == [
        (task, split) for task in ("colour", "count") for split in SETS
    ]
    assert [item.records for item in sets] == [12, 6, 6, 12, 6, 6]
    assert all(item.pictures == item.looked_at == item.usable == item.records for item in sets)
    tokenizer = processor.tokenizer
    for item in sets:
        records = mixture.records(item.task, item.split)  # type: ignore[arg-type]
        # The template puts a blank in front of the answer, another behind it and no marker; the end is added.
        answers = [
            len(tokenizer(f" {record.turns[-1].text}", add_special_tokens=False)["input_ids"])
            for record in records
        ]
        assert item.answer_tokens == pytest.approx(sum(answers) + len(records), abs=len(records))
        assert item.longest > max(answers) + 4


@pytest.mark.parametrize("split", SETS)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_picture_is_refused_or_left_out_in_every_set(
    folder: Path, processor: Any, split: str, workers: int
) -> None:
    break_pictures(folder, f"colour_{split}", 2)
    path = folder / "mixture.yaml"
    with pytest.raises(
        BadRecordsError, match=rf"colour_{split}\.json, record 2: image .* cannot be decoded"
    ) as caught:
        checked(load_config(path), processor, workers)
    assert len(caught.value.problems) == 1
    assert listed(load_config(path)) == {(f"colour_{split}", 2)}
    config = change(path, bad_records="skip")
    sets, mixture, _ = checked(config, processor, workers)
    assert [len(item.problems) for item in sets if (item.task, item.split) == ("colour", split)] == [1]
    assert sum(len(item.problems) for item in sets) == 1
    kept = mixture.records("colour", split)  # type: ignore[arg-type]
    assert 2 not in [record.index for record in kept]
    assert len(kept) == (11 if split == "train" else 5)
    assert listed(config) == {(f"colour_{split}", 2)}


def test_everything_that_can_go_wrong_with_a_record_is_found(folder: Path, processor: Any) -> None:
    turn = {"from": "human", "value": "<image>\nWhat?"}
    edit(folder, "colour_train", 0, conversations=[turn, {"from": "gpt", "value": "half \ud83d"}])
    edit(folder, "colour_train", 3, conversations=[turn, {"from": "gpt", "value": "the </s> tag"}])
    edit(folder, "count_train", 1, conversations=[turn, {"from": "gpt", "value": "long " * 300}])
    edit(folder, "count_validation", 2, video="a.mp4")
    edit(folder, "count_test", 5, image="gone.png")
    break_pictures(folder, "colour_test", 4)
    config = change(folder / "mixture.yaml", bad_records="skip", max_length=200)
    sets, mixture, _ = checked(config, processor)
    expected = {
        ("colour_train", 0): "lone surrogate",
        ("colour_train", 3): "holds '</s>'",
        ("count_train", 1): "truncation to max_length=200 cuts away 1 of 1",
        ("count_validation", 2): "a video record",
        ("count_test", 5): "missing image",
        ("colour_test", 4): "cannot be decoded",
    }
    found = {(p.file.stem, p.index): p.reason for item in sets for p in item.problems}
    assert found.keys() == expected.keys()
    assert all(part in found[place] for place, part in expected.items())
    assert listed(config) == set(expected)
    assert len(mixture.problems) == len(expected)
    page = (config.output / "check" / "index.html").read_text()
    assert all(part.split("'")[0] in page for part in expected.values())


@pytest.mark.parametrize(
    ("broken", "share", "stops"), [(12, 1.0, True), (3, 0.2, True), (2, 0.2, False), (1, 0.0, True)]
)
def test_a_task_that_loses_too_much_stops_the_run(
    folder: Path, processor: Any, broken: int, share: float, stops: bool
) -> None:
    break_pictures(folder, "colour_train", *range(broken))
    config = change(folder / "mixture.yaml", bad_records="skip", max_bad_share=share)
    if not stops:
        checked(config, processor)
    else:
        with pytest.raises(
            ConfigError, match=rf"task 'colour', train: {broken} of 12 records cannot be used; most: image"
        ):
            checked(config, processor)
    assert len(listed(config)) == broken


def test_a_second_check_of_the_same_content_costs_nothing(folder: Path, processor: Any) -> None:
    break_pictures(folder, "colour_train", 2)
    config = change(folder / "mixture.yaml", bad_records="skip")
    first, _, _ = checked(config, processor)

    def never() -> Any:
        raise AssertionError("the processor was asked for")

    again = Mixture(config)
    assert check_data(config, again, never, Told()) == first
    assert 2 not in [record.index for record in again.records("colour", "train")]
    # Data that were moved are the same content; the files are named where they now are.
    moved = Path(shutil.move(folder, folder.parent / "moved"))
    config = load_config(moved / "mixture.yaml")
    sets = check_data(config, Mixture(config), never, Told())
    assert sets[0].problems[0].file == moved / "colour_train.json"
    # A mended picture, another limit: looked at again.
    with pytest.raises(AssertionError, match="was asked for"):
        check_data(change(moved / "mixture.yaml", max_length=99), Mixture(config), never, Told())
    config = load_config(moved / "mixture.yaml")
    Image.new("RGB", (28, 28)).save(moved / "images" / rows(moved, "colour_train")[2]["image"])
    mended, _, _ = checked(config, processor)
    assert not mended[0].problems
    assert listed(config) == set()


def test_duplicates_are_told_by_content(folder: Path, processor: Any) -> None:
    same = rows(folder, "colour_train")[4]
    shutil.copy(folder / "images" / same["image"], folder / "images" / "another-name.png")
    edit(
        folder,
        "colour_validation",
        1,
        id="other",
        image="another-name.png",
        conversations=same["conversations"],
    )
    edit(folder, "colour_test", 1, conversations=same["conversations"])  # the text alone is no duplicate
    before, _, _ = checked(load_config(folder / "mixture.yaml"), processor)
    by_set = {(item.task, item.split): item for item in before}
    assert by_set["colour", "train"].duplicates == 0
    assert by_set["colour", "validation"].duplicates >= 1
    plain = [(rows(folder, f"colour_{split}"), split) for split in SETS]
    contents = {
        split: [
            (json.dumps(row["conversations"]), (folder / "images" / row["image"]).read_bytes())
            for row in found
        ]
        for found, split in plain
    }
    trained = contents["train"] + [
        (json.dumps(row["conversations"]), (folder / "images" / row["image"]).read_bytes())
        for row in rows(folder, "count_train")
    ]
    for split in ("validation", "test"):
        assert by_set["colour", split].duplicates == sum(content in trained for content in contents[split])


def test_a_quick_check_says_what_it_is(folder: Path, processor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cotbal.data.check.QUICK_SAMPLE", 3)
    (folder / "images" / rows(folder, "colour_train")[7]["image"]).write_bytes(b"not a picture at all")
    config = change(folder / "mixture.yaml", bad_records="skip", check="quick")
    sets, mixture, told = checked(config, processor)
    assert 7 not in [record.index for record in mixture.records("colour", "train")]
    assert sets[1].looked_at == 3
    assert "check: quick looked at the headers of pictures and at a sample of records only" in told.text


def test_run_stops_before_training_and_lists_what_is_lost(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    break_pictures(folder, "colour_train", *range(12))
    config = change(folder / "mixture.yaml", bad_records="skip")
    assert cli.main(["run", str(folder / "mixture.yaml")]) == 2
    assert not (config.output / "units").exists()
    assert listed(config) == {("colour_train", index) for index in range(12)}
    assert "12 of 12 records cannot be used" in capsys.readouterr().err


def test_the_command_shows_a_table_and_writes_a_page(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = yaml.safe_load((folder / "mixture.yaml").read_text())
    output = folder / values["output"]
    assert cli.main(["data", "check", str(folder / "mixture.yaml"), "--workers", "1"]) == 0
    shown = capsys.readouterr().out
    assert "colour train" in shown
    assert str(output / "check" / "index.html").replace("\n", "") in shown.replace("\n", "")
    page = (output / "check" / "index.html").read_text()
    answer = rows(folder, "colour_train")[0]["conversations"][1]["value"]
    assert answer in page.split("<mark>")[2]
    assert page.count("data:image/jpeg;base64,") >= 6
    break_pictures(folder, "count_test", 1)
    assert cli.main(["data", "check", str(folder / "mixture.yaml")]) == 1
    assert "count test: 1 x image ... cannot be decoded" in capsys.readouterr().out


def test_what_training_skips_after_the_check_is_listed_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that is lost while the runs go on."""
    config = change(
        folder / "mixture.yaml",
        bad_records="skip",
        preparation={"mini_fraction": 0.9},
        training={"max_steps": 1, "per_device_train_batch_size": 40, "gradient_accumulation_steps": 1},
    )
    checked_before = stages.check_records

    def check_and_lose(runner: Any) -> None:
        checked_before(runner)
        break_pictures(folder, "colour_train", 5)

    monkeypatch.setattr(stages, "check_records", check_and_lose)
    told = Told()
    stages.prepare(config, told)
    lines = [json.loads(line) for line in (config.output / "bad_records.jsonl").read_text().splitlines()]
    assert [(Path(line["file"]).stem, line["index"]) for line in lines] == [("colour_train", 5)]
    assert "left out while training" in lines[0]["reason"]
    assert "records were left out while training" in told.text
    # It stays listed when the data are checked again, and the report counts it.
    monkeypatch.undo()
    assert len(OutputFolder(config.output).problems()) == 1


def test_what_is_left_out_is_neither_trained_on_nor_scored(folder: Path) -> None:
    break_pictures(folder, "colour_train", 1)
    break_pictures(folder, "colour_validation", 3)
    config = change(
        folder / "mixture.yaml",
        bad_records="skip",
        preparation={"mini_fraction": 0.5},
        training={"max_steps": 1},
    )
    table = stages.prepare(config, Told())
    assert set(table.models) == {"mini", "plus_colour", "plus_count"}
    for unit in (config.output / "units").iterdir():
        lines = map(json.loads, (unit / "scores.jsonl").read_text().splitlines())
        assert sum(line["task"] == "colour" for line in lines) == 5


def test_rows_that_cannot_share_a_batch_are_refused_before_training(tmp_path: Path, processor: Any) -> None:
    path = tiny_mixture.write_mixture(tmp_path / "m", samples=12)
    apart = FAMILIES["Mllama (Llama 3.2 Vision)"].make()[1]
    config = load_config(path)
    mixture = Mixture(config)
    check_rows_fit(config, mixture, lambda: processor, [config.training])
    with pytest.raises(
        ConfigError, match="per_device_train_batch_size: MllamaProcessor cannot have records with"
    ):
        check_rows_fit(config, mixture, lambda: apart, [config.training])
    check_rows_fit(config, mixture, lambda: apart, [{"per_device_train_batch_size": 1}])
    two = config.model_copy(update={"launch": LaunchConfig(processes=2)})
    with pytest.raises(ConfigError, match=r"launch.processes: MllamaProcessor cannot have"):
        check_rows_fit(two, mixture, lambda: apart, [{"per_device_train_batch_size": 1}])
    # One record without its picture makes a set that is scored a mixed one.
    changed = rows(tmp_path / "m", "colour_test")
    del changed[0]["image"]
    changed[0]["conversations"][0]["value"] = "What is it?"
    (tmp_path / "m" / "colour_test.json").write_text(json.dumps(changed))
    one = [{"per_device_train_batch_size": 1}]
    with pytest.raises(ConfigError, match=r"evaluation.batch_size: .*colour test has both"):
        check_rows_fit(config, Mixture(config), lambda: apart, one)
    config = change(path, evaluation={"batch_size": 1})
    check_rows_fit(config, Mixture(config), lambda: apart, one)
    # Where nothing is mixed, the processor is not even loaded.
    plain = tiny_mixture.write_mixture(tmp_path / "p", samples=12, text_only=False)

    def unwanted() -> Any:
        raise AssertionError

    check_rows_fit(load_config(plain), Mixture(load_config(plain)), unwanted, [])
