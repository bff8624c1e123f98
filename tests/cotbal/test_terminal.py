"""What is shown on a terminal cannot steer it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotbal.cli import main
from cotbal.terminal import printable


@given(st.text())
def test_nothing_is_left_that_steers_and_all_else_is_kept(text: str) -> None:
    shown = printable(text)
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in set(shown) - {"\n", "\t"})
    assert not any(
        "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069" for character in shown
    )
    shown.encode()
    if text.isascii() and text.isprintable():
        assert shown == text


def test_people_s_scripts_are_left_alone() -> None:
    text = "Größe, 写真, می\u200cخواهم, 👩\u200d🔬\n\tend"
    assert printable(text) == text


def test_a_config_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.yaml"
    path.write_text('model: m\noutput: o\n"key\\e]0;owned\\a\\e[2J": 1\ntasks: []\n')
    assert main(["status", str(path)]) == 2
    said = capsys.readouterr().err
    assert "\x1b]" not in said
    assert "\x1b[2J" not in said
    assert "\\x1b[2J" in said
