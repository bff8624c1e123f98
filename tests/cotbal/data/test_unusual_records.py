"""What becomes of malformed and unusual records: one line each, with the result or the very error a user sees."""

import json
from pathlib import Path

import pytest
from PIL import Image
from support.inputs.records import FILES, HEIGHT, RECORDS, WIDTH, G, H

from cotbal.data import read_records


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (WIDTH, HEIGHT), "red").save(tmp_path / name)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (HEIGHT, WIDTH), "red").save(tmp_path / "phone.jpg", exif=turned)
    return tmp_path


@pytest.mark.parametrize("name", RECORDS)
def test_records(folder: Path, name: str) -> None:
    raw, expected = RECORDS[name]
    path = folder / "data.jsonl"
    path.write_text(json.dumps(raw) + "\n" + json.dumps({"conversations": [H, G]}) + "\n")
    found = read_records(path, task="t", on_bad="skip")
    assert found.records[-1].index == 1
    if isinstance(expected, str):
        (problem,) = found.problems
        assert (problem.file, problem.index) == (path, 0)
        assert expected in problem.reason
    else:
        assert not found.problems
        assert [(turn.role[0], turn.text, turn.weight) for turn in found.records[0].turns] == expected
        assert all(image for image in found.records[0].images)


@pytest.mark.parametrize("name", FILES)
def test_files(tmp_path: Path, name: str) -> None:
    file, content, expected = FILES[name]
    (tmp_path / file).write_bytes(content)
    found = read_records(tmp_path / file, task="t", on_bad="skip")
    if isinstance(expected, str):
        assert len(found.problems) == 1
        assert expected in str(found.problems[0])
        assert f"{tmp_path / file}, record " in str(found.problems[0])
    else:
        assert [record.index for record in found] == expected
