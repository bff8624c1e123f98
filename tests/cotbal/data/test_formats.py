"""Records of every format, and records that cannot be used."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotbal.data import BadRecordsError, Problem, Turn, iter_records, read_records

HUMAN = {"from": "human", "value": "<image>\nWhat is it?"}
GPT = {"from": "gpt", "value": "A seven."}
GOOD: dict[str, Any] = {"id": "x", "image": "a.png", "conversations": [HUMAN, GPT]}
TURNS = (Turn("user", "<image>\nWhat is it?"), Turn("assistant", "A seven."))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"not looked at while reading")
    return tmp_path


def write(folder: Path, *records: Any, name: str = "data.json") -> Path:
    path = folder / name
    lines = name.endswith("jsonl")
    path.write_text("\n".join(map(json.dumps, records)) if lines else json.dumps(list(records)))
    return path


SAME = [
    GOOD,
    {"image": ["a.png"], "conversations": [HUMAN, GPT]},
    {"images": ["a.png"], "conversations": [HUMAN, GPT]},
    {"images": [{"path": "a.png"}], "conversations": [HUMAN, GPT]},
    {"image": "a.png", "conversations": [{"role": "user", "content": HUMAN["value"]}, GPT]},
    {"image": "a.png", "conversations": [{"from": "human", "value": "What is it?"}, GPT]},
    {
        "images": ["a.png"],
        "messages": [
            {"role": "user", "content": HUMAN["value"]},
            {"role": "assistant", "content": "A seven."},
        ],
    },
    {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "\nWhat is it?"}],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "A seven."}]},
        ]
    },
    {
        "images": ["a.png"],
        "messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "\nWhat is it?"}]},
            {"role": "assistant", "content": "A seven."},
        ],
    },
    {"images": ["a.png"], "prompt": HUMAN["value"], "completion": "A seven."},
    {
        "image": "a.png",
        "prompt": [{"role": "user", "content": HUMAN["value"]}],
        "completion": [{"role": "assistant", "content": "A seven."}],
    },
]


@pytest.mark.parametrize("raw", SAME)
@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_every_format_gives_the_same_record(folder: Path, raw: dict[str, Any], name: str) -> None:
    path = write(folder, raw, name=name)
    (record,) = read_records(path, task="vqa")
    assert record.turns == TURNS
    assert record.images == (folder / "a.png",)
    assert record.references == ("A seven.",)
    assert (record.task, record.source, record.index) == ("vqa", path, 0)
    assert record.id == str(raw.get("id", 0))


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


BAD: list[tuple[Any, str]] = [
    ([1, 2], "a record is list"),
    ({"id": 1}, "no 'conversations', 'messages' or 'prompt' among its fields (id)"),
    (GOOD | {"conversations": "hello"}, "'conversations' is str; expected a list"),
    (GOOD | {"conversations": []}, "no answer: there is no turn"),
    (GOOD | {"conversations": [HUMAN]}, "no answer"),
    (GOOD | {"conversations": [HUMAN, GPT, HUMAN | {"value": "And?"}]}, "no answer: the last turn is not"),
    (GOOD | {"conversations": [HUMAN, GPT | {"value": " \n"}]}, "no answer: turn 1 (assistant) is empty"),
    (GOOD | {"conversations": [HUMAN, GPT | {"value": None}]}, "turn 1 (gpt) has nothing for its text"),
    (GOOD | {"conversations": [HUMAN, {"value": "A seven."}]}, "unknown role None"),
    (GOOD | {"conversations": [HUMAN, {"from": "tool", "value": "7"}]}, "unknown role 'tool'; known are"),
    (GOOD | {"conversations": [HUMAN, HUMAN, GPT]}, "turn 1 is the user's; expected the assistant's"),
    (GOOD | {"conversations": [GPT, HUMAN, GPT]}, "turn 0 is the assistant's; expected the user's"),
    (GOOD | {"conversations": [HUMAN, GPT | {"value": "<image>"}]}, "images belong to the user"),
    (GOOD | {"image": "gone.png"}, "missing image"),
    (GOOD | {"image": ["a.png", "gone.png"]}, "1 <image> placeholder(s) for 2 image(s)"),
    (GOOD | {"image": None}, "1 <image> placeholder(s) for 0 image(s)"),
    (GOOD | {"image": 7}, "'image' holds a value of type int"),
    (GOOD | {"image": "https://example.org/a.png"}, "images are read from files"),
    (GOOD | {"references": []}, "'references' is []"),
    (GOOD | {"references": [1]}, "'references' is [1]"),
    ({"prompt": "What?"}, "a 'prompt' without a 'completion'"),
    ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "content part of type 'video'"),
    (
        {"image": "a.png", "messages": [{"role": "user", "content": [{"type": "image", "image": "b.png"}]}]},
        "beside the messages and inside them",
    ),
]


@pytest.mark.parametrize(("raw", "reason"), BAD, ids=range(len(BAD)))
def test_bad_records_are_refused_with_file_and_index_or_skipped(folder: Path, raw: Any, reason: str) -> None:
    path = write(folder, GOOD, raw, GOOD)
    with pytest.raises(BadRecordsError) as caught:
        read_records(path, task="vqa")
    assert f"{path}, record 1: " in str(caught.value)
    assert reason in str(caught.value)
    found = read_records(path, task="vqa", on_bad="skip")
    assert [record.index for record in found] == [0, 2]
    assert [(problem.file, problem.index) for problem in found.problems] == [(path, 1)]


@given(st.lists(st.sampled_from([None, *range(len(BAD))]), min_size=1, max_size=12))
def test_no_bad_record_is_ever_kept_and_no_good_one_lost(
    tmp_path_factory: Any, kinds: list[int | None]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    for name in ("a.png", "b.png"):
        (folder / name).touch()
    path = write(folder, *(GOOD if kind is None else BAD[kind][0] for kind in kinds), name="mixed.jsonl")
    found = read_records(path, task="t", on_bad="skip")
    assert [record.index for record in found] == [i for i, kind in enumerate(kinds) if kind is None]
    assert [problem.index for problem in found.problems] == [
        i for i, kind in enumerate(kinds) if kind is not None
    ]
    assert all(
        BAD[kind][1] in found.problems[j].reason for j, kind in enumerate(k for k in kinds if k is not None)
    )


def test_several_files_are_one_task_in_order(folder: Path) -> None:
    one, two = write(folder, GOOD, GOOD), write(folder, GOOD, name="more.jsonl")
    found = read_records([one, two], task="vqa")
    assert [(record.source, record.index) for record in found] == [(one, 0), (one, 1), (two, 0)]


def test_problems_of_all_files_are_counted_before_refusing(folder: Path) -> None:
    one = write(folder, *[{"id": 1}] * 8)
    two = write(folder, GOOD, *[{"id": 1}] * 4, name="more.json")
    with pytest.raises(BadRecordsError, match="12 bad records") as caught:
        read_records([one, two], task="vqa")
    assert "... and 2 more" in str(caught.value)
    assert "1 others are good" in str(caught.value)
    assert len(caught.value.problems) == 12
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.problems) == (str(caught.value), caught.value.problems)


def test_a_truncated_file_keeps_its_whole_records_and_names_the_place(folder: Path) -> None:
    path = write(folder, GOOD, GOOD)
    path.write_bytes(path.read_bytes()[:-30])
    *records, problem = iter_records(path, task="vqa")
    assert len(records) == 1
    assert isinstance(problem, Problem)
    assert problem.index == 1
    assert "byte" in problem.reason
    with pytest.raises(BadRecordsError, match="truncated JSON"):
        read_records(path, task="vqa")


@pytest.mark.parametrize("text", ["", "  \n", "[]"])
def test_a_file_without_records_is_a_problem(folder: Path, text: str) -> None:
    path = folder / "data.json"
    path.write_text(text)
    with pytest.raises(BadRecordsError, match="holds no record"):
        read_records(path, task="vqa")


@pytest.mark.parametrize("field", ["task", "channel", "dataset", "source"])
def test_the_task_of_a_record(folder: Path, field: str) -> None:
    path = write(folder, GOOD | {field: "ocr"})
    assert read_records(path).records[0].task == "ocr"
    assert read_records(path, task="vqa").records[0].task == "vqa"
    with pytest.raises(BadRecordsError, match="no task"):
        read_records(write(folder, GOOD))


def test_references_of_a_record(folder: Path) -> None:
    path = write(folder, GOOD | {"references": ["seven", "7"]}, GOOD | {"references": "7"})
    assert [record.references for record in read_records(path, task="vqa")] == [("seven", "7"), ("7",)]


def test_image_root_and_unchecked_images(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    path = write(elsewhere, GOOD)
    with pytest.raises(BadRecordsError, match="missing image"):
        read_records(path, task="vqa")
    assert read_records(path, task="vqa", image_root=folder).records[0].images == (folder / "a.png",)
    assert read_records(path, task="vqa", check_images=False).records[0].images == (elsewhere / "a.png",)


def test_system_turns_multi_turn_and_text_only(folder: Path) -> None:
    raw = {"system": "Be brief.", "conversations": turns("1 + 1?", "2", "And one?", "3")}
    (record,) = read_records(write(folder, raw), task="sums")
    assert [turn.role for turn in record.turns] == ["system", "user", "assistant", "user", "assistant"]
    assert record.images == ()
    assert record.references == ("3",)


def test_bad_arguments_are_named(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.json: no such file"):
        read_records(folder / "gone.json", task="vqa")
    with pytest.raises(ValueError, match="paths is empty"):
        read_records([], task="vqa")
    with pytest.raises(ValueError, match="on_bad is 'drop'"):
        read_records(write(folder, GOOD), task="vqa", on_bad="drop")  # type: ignore[arg-type]
