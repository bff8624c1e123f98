"""Pictures as viewers show them; what eight bits cannot show faithfully, and broken files, are refused."""

from pathlib import Path

import numpy as np
import pytest
from support.inputs.pictures import PICTURES

from cotbal.data.pictures import load_picture, picture_size
from cotbal.data.records import RecordError


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("where", ["file", "record"])
def test_pictures(tmp_path: Path, name: str, where: str) -> None:
    make, expected = PICTURES[name]
    (tmp_path / "picture").write_bytes(make())
    source = tmp_path / "picture" if where == "file" else make()
    if isinstance(expected, str):
        with pytest.raises(RecordError) as caught:
            load_picture(source)
        assert expected in str(caught.value)
        assert (str(source) if where == "file" else "bytes within the record") in str(caught.value)
        return
    image = load_picture(source)
    assert image.mode == "RGB"
    if isinstance(expected, dict):
        assert {place: image.getpixel(place) for place in expected} == expected
    else:
        assert np.abs(np.asarray(image).astype(int) - expected.astype(int)).max() <= 1


def test_pictures_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="missing image"):
        load_picture(tmp_path / "gone.png")
    with pytest.raises(RecordError, match="missing image"):
        load_picture(tmp_path)
    with pytest.raises(RecordError, match="missing image"):
        load_picture(tmp_path / ("a" * 5000))


@pytest.mark.parametrize(
    "name", [name for name, (_, expected) in PICTURES.items() if not isinstance(expected, str)]
)
def test_the_size_in_the_header_is_the_size_of_the_picture(name: str) -> None:
    source = PICTURES[name][0]()
    assert picture_size(source) == load_picture(source).size
