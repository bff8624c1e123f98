"""Every number in the docs comes from a result file, and the pages are current."""

from pathlib import Path

import pytest

from benchmarks import pages

ROOT = Path(__file__).parent.parent.parent
measured = pytest.mark.skipif(
    not any((ROOT / "benchmarks/results").glob("*/*.json")), reason="no result file is committed yet"
)


@measured
def test_the_page_is_what_the_result_files_make() -> None:
    rendered = pages.render(pages.load())
    assert (ROOT / pages.PAGE).read_text() == rendered[pages.PAGE], "run `make docs`"
    for path in rendered:
        assert (ROOT / path).is_file(), f"{path} is missing: run `make docs`"


@measured
def test_the_figures_in_the_readme_are_what_the_result_files_make() -> None:
    readme = (ROOT / pages.README).read_text()
    files = pages.load()
    assert pages.readme_block(files).count("\n") > 2, "no result file has a case for the README's table"
    assert pages.with_readme_blocks(readme, files) == readme, "run `make docs`"


@measured
def test_a_readme_without_a_block_to_fill_is_refused() -> None:
    with pytest.raises(ValueError, match="0 generated blocks named 'headline'"):
        pages.with_readme_blocks("# CoTBal\n", pages.load())


@measured
def test_pictures_are_small_and_name_no_outside_file() -> None:
    for path, text in pages.render(pages.load()).items():
        if path.suffix == ".svg":
            assert len(text) < 16 * 1024, f"{path} has {len(text)} bytes"
            assert "http" not in text.replace("http://www.w3.org/2000/svg", ""), path


def test_seconds_have_three_digits() -> None:
    assert [pages.seconds(s) for s in (12.345, 0.12345, 0.00123, 1e-6)] == [
        "12.3 s",
        "123 ms",
        "1.23 ms",
        "1 µs",
    ]
