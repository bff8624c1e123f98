"""Streaming JSON: the same values as the json module, and broken files that say where they break."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotbal.data import json_stream
from cotbal.data.json_stream import Broken, Element, iter_json

keys = st.text(max_size=5)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(keys, values, max_size=4)
# Windows down to one byte: every element then crosses an edge, and so does every character that takes several bytes.
windows = st.sampled_from([1, 2, 3, 7, 64, 1 << 20])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("json")


def read(path: Path, window: int) -> list[Element | Broken]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "CHUNK_BYTES", window)
        return list(iter_json(path))


def write_array(path: Path, items: list[Any], indent: int | None, bom: bool, ascii_only: bool) -> bytes:
    text = json.dumps(items, indent=indent, ensure_ascii=ascii_only)
    raw = (b"\xef\xbb\xbf" if bom else b"") + text.encode("utf-8", "surrogatepass")
    path.write_bytes(raw)
    return raw


def is_utf8(items: list[Any]) -> bool:
    try:
        json.dumps(items, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


@given(st.lists(values, max_size=6), st.sampled_from([None, 2]), st.booleans(), st.booleans(), windows)
def test_an_array_gives_the_values_the_json_module_gives(
    folder: Path, items: list[Any], indent: int | None, bom: bool, ascii_only: bool, window: int
) -> None:
    path = folder / "a.json"
    raw = write_array(path, items, indent, bom, ascii_only or not is_utf8(items))
    found = read(path, window)
    assert found == [Element(i, e.line, item) for i, (e, item) in enumerate(zip(found, items, strict=True))]
    if indent and items and not any(isinstance(item, (dict, list)) for item in items):
        assert [element.line for element in found] == list(range(2, len(items) + 2))
    assert raw


@given(st.lists(objects, min_size=1, max_size=6), st.sampled_from(["\n", "\r\n", " ", ""]), windows)
def test_objects_one_after_the_other(folder: Path, items: list[Any], between: str, window: int) -> None:
    path = folder / "b.json"
    path.write_bytes(between.join(json.dumps(item) for item in items).encode())
    assert [element.value for element in read(path, window)] == items  # type: ignore[union-attr]


@given(st.lists(objects, max_size=6), st.booleans(), st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_json_lines(folder: Path, items: list[Any], ends: bool, newline: str) -> None:
    path = folder / "c.jsonl"
    text = newline.join(json.dumps(item) for item in items) + (newline if ends else "")
    path.write_bytes(text.encode())
    found = read(path, 1 << 20)
    assert [(element.index, element.value) for element in found] == list(enumerate(items))  # type: ignore[union-attr]


@given(st.lists(objects, min_size=1, max_size=5), st.data(), windows)
def test_a_truncated_array_gives_its_whole_elements_and_one_problem(
    folder: Path, items: list[Any], data: st.DataObject, window: int
) -> None:
    path = folder / "d.json"
    raw = write_array(path, items, None, False, not is_utf8(items))
    cut = data.draw(st.integers(1, len(raw) - 1))
    path.write_bytes(raw[:cut])
    *whole, broken = read(path, window)
    assert [element.value for element in whole] == items[: len(whole)]  # type: ignore[union-attr]
    assert isinstance(broken, Broken)
    assert broken.index == len(whole)
    assert re.match(r"line 1, byte \d+: (truncated JSON|not UTF-8)", broken.reason), broken.reason
    assert int(re.findall(r"byte (\d+)", broken.reason)[0]) <= cut


def test_the_place_of_a_truncation(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[\n  {"a": 1},\n  {"é": 2')
    assert list(iter_json(path)) == [
        Element(0, 2, {"a": 1}),
        Broken(1, "line 3, byte 24: truncated JSON: Expecting ',' delimiter"),
    ]


@pytest.mark.parametrize(
    ("text", "whole", "reason"),
    [
        ('[{"a": 1} {"a": 2}]', 1, "line 1, byte 10: broken JSON: expected ',' or ']', found '{'"),
        ('[{"a": 1}, {a: 2}, {"a": 3, "filler": "................"}]', 1, "line 1, byte 12: broken JSON"),
        ('[{"a": 1}]\n]', 1, "line 2, byte 11: text after the end of the array"),
        ('[{"a": 1},', 1, "line 1, byte 10: truncated JSON: Expecting value"),
        ('[{"a": 1}', 1, "line 1, byte 9: truncated JSON: the array is not closed"),
        ('[{"a": 1},]', 1, "line 1, byte 10: broken JSON: Expecting value"),
        ('[{"a": 1}, {"a": tru', 1, "line 1, byte 17: truncated JSON: Expecting value"),
    ],
)
def test_broken_arrays(tmp_path: Path, text: str, whole: int, reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    *elements, broken = iter_json(path)
    assert len(elements) == whole
    assert isinstance(broken, Broken)
    assert broken.reason.startswith(reason)


def test_a_broken_line_does_not_hide_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": \n{"a": "\xff"}\n{"a": 4}\n{"a": 5')
    found = list(iter_json(path))
    assert [element.value["a"] for element in found if isinstance(element, Element)] == [1, 4]  # type: ignore[index]
    reasons = {item.index: item.reason for item in found if isinstance(item, Broken)}
    assert reasons[1].startswith("line 2, byte 14: broken JSON")
    assert reasons[2].startswith("line 3, byte 23: not UTF-8")
    assert reasons[4].endswith("(the file ends here: truncated?)")


def test_bytes_that_are_not_utf8_in_an_array(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'[{"a": 1}, {"a": "\xff"}]')
    first, broken = iter_json(path)
    assert first == Element(0, 1, {"a": 1})
    assert isinstance(broken, Broken)
    assert "not UTF-8" in broken.reason


def test_a_malformed_element_is_found_without_reading_the_file_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"a" 1}, ' + '{"a": 1}, ' * 1000 + "{}]")
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", 64)
    with open(path, "rb") as file:
        reader = json_stream._Reader(file)
        (broken,) = reader.elements()
        assert isinstance(broken, Broken)
        assert file.tell() < 1000


alike = st.builds(
    lambda first, value, rest: {first: value, **rest},
    st.sampled_from(["id", "id", "id", "image"]),
    values | st.just(float("nan")) | st.just("\ud800"),
    st.dictionaries(st.sampled_from(["id", "a"]), values | st.just([{"id": 1}, {"id": 2}]), max_size=2),
)


@given(
    st.lists(alike, max_size=6),
    st.sampled_from([None, 0, 1, 2]),
    st.booleans(),
    st.sampled_from([60, 200, 1 << 20]),
    st.integers(0, 400),
    st.sampled_from([b"", b"\xff", b"]", b"}", b",", b"\n", b'"', b"{"]),
    st.sampled_from([b"", b"\xef\xbb\xbf", b" \n", b"x"]),
)
def test_arrays_read_quickly_are_those_read_slowly(
    folder: Path,
    made: list[dict[str, object]],
    indent: int | None,
    ascii_only: bool,
    window: int,
    place: int,
    inserted: bytes,
    before: bytes,
) -> None:
    raw = json.dumps(made, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    path = folder / "b.json"
    path.write_bytes(before + raw[:place] + inserted + raw[place:])
    with pytest.MonkeyPatch.context() as patch, path.open("rb") as file:
        patch.setattr(json_stream, "CHUNK_BYTES", 1 << 20)
        slowly = list(json_stream._Reader(file).elements())
        patch.setattr(json_stream, "CHUNK_BYTES", window)
        quickly = list(iter_json(path))
    # As texts, since NaN is not equal to itself. How far the file was read tells which of two faults is named.
    assert [repr(item) if isinstance(item, Element) else item.index for item in quickly] == [
        repr(item) if isinstance(item, Element) else item.index for item in slowly
    ]


@given(
    st.text(max_size=20)
    | values.map(json.dumps)
    | st.sampled_from(['{"a":1e999}', '{"a":' + "9" * 5000 + "}"])
)
def test_what_the_quick_decoder_takes_json_takes_too(text: str) -> None:
    try:
        value = json_stream._quickly(f'{{"a": {text}}}'.encode("utf-8", "surrogatepass"))
    except UnicodeEncodeError:
        return
    if value is not None:
        assert repr(json.loads(f'{{"a": {text}}}')) == repr(value)


def test_alike_elements_are_read_quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, object]] = [{"id": number, "turns": [{"id": 1}, {"id": 2}]} for number in range(50)]
    # One that another program has put in, and half a character.
    made[20] = {"image": "a.png", "id": 20}
    made[30] = {"id": "\ud800"}
    (tmp_path / "a.json").write_text(json.dumps(made, indent=2))
    slow: list[int] = []
    monkeypatch.setattr(json_stream._Reader, "value", lambda self: slow.append(1) or _decoded(self))
    assert [
        element.value for element in iter_json(tmp_path / "a.json") if isinstance(element, Element)
    ] == made
    assert len(slow) == 1, "only the last element has no next one to end it"


def _decoded(reader: json_stream._Reader) -> object:
    value, reader.position = json.JSONDecoder().raw_decode(reader.text, reader.position)
    return value
