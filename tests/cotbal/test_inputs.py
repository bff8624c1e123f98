"""The table of malformed and unusual inputs: each shows its result or our own error; none runs code or hangs."""

import re
import time
from collections import Counter
from pathlib import Path

import pytest
from support.inputs import page
from support.inputs.listing import INPUTS, RAN

PAGE = Path(__file__).parents[2] / "docs" / "inputs.md"


@pytest.mark.parametrize("name", INPUTS)
def test_an_input_shows_its_result_or_our_own_error(tmp_path: Path, name: str) -> None:
    one = INPUTS[name]
    started = time.process_time()
    said, refused = one.see(tmp_path)
    seconds = time.process_time() - started
    assert refused == one.refused, said
    assert one.expected in said
    assert not (tmp_path / RAN).exists()
    assert "Traceback" not in said
    assert "inside cotbal" not in said
    assert "\x1b" not in said
    assert seconds < 10


def test_the_table_is_as_long_as_it_should_be() -> None:
    kinds = Counter(one.kind for one in INPUTS.values())
    assert sum(kinds.values()) >= 200
    assert min(kinds.values()) >= 9
    hostile = ("config", "record", "data file", "picture", "model and its files", "task weights")
    assert sum(kinds[kind] for kind in hostile) >= 120


def test_code_within_an_input_would_be_seen(tmp_path: Path) -> None:
    """The pickles of the table do run where something reads them as such."""
    from support.inputs.models import MODELS, saved_model
    from torch import load

    source = saved_model(tmp_path / "model")
    MODELS["a pickle within an archive"][0](source)
    load(source / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / RAN).exists()


def test_the_page_lists_every_input() -> None:
    listed = re.findall(r"^\| ([^|]+?) \| (?:reads|refuses) \|", PAGE.read_text(), re.MULTILINE)
    assert listed == [page.cell(one.name) for one in INPUTS.values()]
