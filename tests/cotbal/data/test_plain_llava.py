"""The short way for plain records: where it takes one, it is the record of the long way; else it leaves it alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotbal.data.formats import read_records, record_of
from cotbal.data.packed import PackedRecords, Packer
from cotbal.data.plain_llava import packed_plainly, path_prefix
from cotbal.data.records import RecordError

FILE = Path("d/a.json")
ROOTS = ["d", ".", "/", "/data/images", "../x"]
pieces = ["what", " ", "\n", "<image>", "<image>\n", "<", ">", "<bbox>", "<ref-object>"]
pieces += ["<video>", "\u00e9", "\ud800", "\0", ""]
texts = st.lists(st.sampled_from(pieces), max_size=3).map("".join)
speakers = st.sampled_from(["human", "gpt", "human", "gpt", "user", "system", None, 1])
turns = st.fixed_dictionaries({"from": speakers, "value": texts | st.none()}) | st.fixed_dictionaries(
    {"from": speakers, "value": texts, "weight": st.sampled_from([0, 1])}
)
pairs = st.tuples(texts, texts).map(lambda pair: [_turn("human", pair[0]), _turn("gpt", pair[1])])
conversations = st.lists(pairs, max_size=3).map(lambda found: [turn for pair in found for turn in pair])
conversations |= st.lists(turns, max_size=3)
names = st.sampled_from(
    [
        "a.png",
        "b/c.png",
        "b//c.png",
        "./a.png",
        "../a.png",
        "b/./c.png",
        "/a.png",
        "b/",
        "",
        "file://a.png",
        "data:x",
        "h",
    ]
)
records = st.fixed_dictionaries(
    {"conversations": conversations},
    optional={
        "id": st.sampled_from([None, 7, "7", "\u00e9", 1.5, True, ["x"]]),
        "image": names | st.none() | st.lists(names, max_size=2) | st.just(3),
        "images": names,
        "task": st.just("other"),
        "source": st.just(5),
        "model": st.just("x"),
        "system": st.just("be brief"),
        "references": st.just(["a", "b"]),
        "prompt": st.just("what?"),
        "loss_mask": st.just([0, 1]),
        "chosen": st.just("x"),
        "img": st.just("a.png"),
    },
)


def _turn(speaker: str, text: str) -> dict[str, Any]:
    return {"from": speaker, "value": text}


@given(records, st.sampled_from(ROOTS), st.integers(0, 9))
def test_what_it_takes_is_the_record(raw: dict[str, Any], root: str, index: int) -> None:
    plain = packed_plainly(raw, index, path_prefix(Path(root)), "t", check_images=False)
    if plain is None:
        return
    packer = Packer()
    packer.add_packed(*plain, FILE, index)
    expected = record_of(raw, FILE, index, root=Path(root), task="t", check_images=False)
    assert list(packer.records()) == [expected]


@given(st.sampled_from(["7", 7, None]), st.booleans(), st.integers(1, 4))
def test_it_takes_what_llava_data_are_made_of(name: Any, seen: bool, rounds: int) -> None:
    conversation = [
        each
        for number in range(rounds)
        for each in (_turn("human", "<image>\nwhat?" if seen and not number else "why?"), _turn("gpt", "so."))
    ]
    raw: dict[str, Any] = {"id": name, "conversations": conversation} | (
        {"image": "coco/1.jpg"} if seen else {}
    )
    assert packed_plainly(raw, 0, "d/", "t", check_images=False) is not None


@given(st.lists(records, min_size=1, max_size=6))
def test_files_read_alike_packed_or_not(
    tmp_path_factory: pytest.TempPathFactory, raws: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("records")
    (folder / "a.png").write_bytes(b"")
    (folder / "a.json").write_text(json.dumps(raws))
    packed = read_records(folder / "a.json", task="t", on_bad="skip", packed=True)
    plainly = read_records(folder / "a.json", task="t", on_bad="skip")
    assert isinstance(packed.records, PackedRecords)
    assert tuple(packed.records) == plainly.records
    assert packed.problems == plainly.problems


def test_a_missing_picture_is_left_to_others(tmp_path: Path) -> None:
    raw = {"image": "1.png", "conversations": [_turn("human", "<image>what?"), _turn("gpt", "so")]}
    assert packed_plainly(raw, 0, path_prefix(tmp_path), "t", check_images=True) is None
    with pytest.raises(RecordError, match="missing image"):
        record_of(raw, FILE, 0, root=tmp_path, task="t")
