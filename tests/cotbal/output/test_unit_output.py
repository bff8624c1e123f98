"""The last words of a unit's command: of its last attempt, its error if it has one."""

from pathlib import Path

from cotbal.output.unit_output import last_words


def test_without_a_log_nothing_was_said(tmp_path: Path) -> None:
    assert last_words(tmp_path / "mini.log") == []


def test_an_error_counts_and_else_the_end(tmp_path: Path) -> None:
    log = tmp_path / "mini.log"
    log.write_text("$ cotbal unit\n" + "".join(f"line {number}\n" for number in range(20)))
    assert last_words(log, 2) == ["line 18", "line 19"]
    log.write_text("$ cotbal unit\nerror: no memory\nraise it\nmore\nand more\n")
    assert last_words(log, 2) == ["error: no memory", "raise it"]


def test_an_earlier_attempts_error_is_over(tmp_path: Path) -> None:
    log = tmp_path / "mini.log"
    log.write_text("$ cotbal unit\nerror: no memory\n$ cotbal unit\nlost its disk\n")
    assert last_words(log) == ["$ cotbal unit", "lost its disk"]
