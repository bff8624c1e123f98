"""The report on disk: the same bytes each time, whole, self-contained, and saying every number."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from support.pages.made_reports import made_report
from support.pages.page_reader import Page, read_page

from cotbal.data.records import Problem
from cotbal.report import Comparison, ReportInput, StrategyScores, UnitRecord, write_report
from cotbal.tasks import Task

SVG = "{http://www.w3.org/2000/svg}"

CASES = {
    "one task": lambda: made_report(1),
    "three tasks": lambda: made_report(3, seeds=(0,)),
    "undefined columns and a given weight": lambda: made_report(4, mastered=(1, 2), explicit=True),
    "means only": lambda: made_report(3, means_only=True),
    "no comparison": lambda: made_report(2, compared=False),
    "twenty tasks": lambda: made_report(20, mastered=(3,), strategies=("ew", "cotbal", "dwa"), samples=60),
    "every column undefined": lambda: made_report(2, mastered=(0, 1), single=False),
    "nothing yet": lambda: ReportInput("Nothing yet", (Task("vqa", "anls"), Task("text", None, weight=2.0))),
}


@pytest.fixture(scope="module", params=CASES, ids=lambda name: name.replace(" ", "-"))
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ReportInput, Path]:
    """A report and the folder it was written to."""
    report = CASES[request.param]()
    folder = tmp_path_factory.mktemp("report")
    assert write_report(report, folder) == folder / "report.html"
    return report, folder


@pytest.fixture(scope="module")
def page(written: tuple[ReportInput, Path]) -> Page:
    return read_page((written[1] / "report.html").read_text(encoding="utf-8"))


def test_the_page_is_well_formed_and_refers_to_itself_only(page: Page) -> None:
    assert page.errors == []
    assert len(page.ids) == len(set(page.ids))
    assert page.references
    for reference in page.references:
        assert reference.startswith("#"), reference
        assert reference[1:] in page.ids
    assert set(page.inner_links) <= set(page.ids)
    assert not {"script", "link", "iframe", "img", "object"} & set(page.tags)


def test_nothing_names_an_outside_address(written: tuple[ReportInput, Path]) -> None:
    _, folder = written
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "//" not in re.sub(r"\s+", " ", text)
    assert "@import" not in text
    for target in re.findall(r"url\(([^)]*)\)", text):
        assert target.startswith("#")
    for file in (folder / "figures").glob("*.svg"):
        assert set(re.findall(r"\w+://[^\"\s<]+", file.read_text())) == {"http://www.w3.org/2000/svg"}
    assert "://" not in (folder / "report.md").read_text(encoding="utf-8")


def test_every_picture_has_words_for_those_who_do_not_see_it(
    written: tuple[ReportInput, Path], page: Page
) -> None:
    _, folder = written
    for picture in page.pictures:
        assert picture["role"] == "img"
        assert picture["aria-labelledby"]
        assert picture["aria-describedby"]
    files = sorted((folder / "figures").glob("*.svg"))
    assert len(files) == len(page.pictures)
    for file in files:
        root = ElementTree.fromstring(file.read_text(encoding="utf-8"))
        title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
        assert title is not None
        assert description is not None
        assert len(title.text or "") > 5
        assert len(description.text or "") > 20
    shown = re.findall(
        r"!\[(.*)\]\(figures/([\w-]+\.svg)\)", (folder / "report.md").read_text(encoding="utf-8")
    )
    assert sorted(name for _, name in shown) == [file.name for file in files]
    assert all(len(alt) > 20 for alt, _ in shown)


def test_pictures_keep_their_text_inside(written: tuple[ReportInput, Path]) -> None:
    for file in (written[1] / "figures").glob("*.svg"):
        root = ElementTree.fromstring(file.read_text(encoding="utf-8"))
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        for text in root.iter(f"{SVG}text"):
            place = text.attrib.get("transform", "")
            moved = re.search(r"translate\(([-\d.]+) ([-\d.]+)\)", place)
            x, y = map(float, moved.groups()) if moved else (float(text.attrib["x"]), float(text.attrib["y"]))
            assert 0 <= x <= width, (file.name, text.text)
            assert 0 <= y <= height, (file.name, text.text)
            size = re.search(r"font-size: ([\d.]+)px", text.attrib["style"])
            assert size is not None
            assert float(size[1]) >= 7, f"{file.name}: {text.text} is too small to read"


def numbers_in(value: Any) -> Iterator[float]:
    """Every number of nested values, arrays and dataclasses included."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return
    if isinstance(value, (int, float, np.integer, np.floating)):
        yield float(value)
    elif isinstance(value, np.ndarray):
        yield from value.ravel().astype(float).tolist()
    elif isinstance(value, dict) or hasattr(value, "items"):
        for entry in value.values():
            yield from numbers_in(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from numbers_in(entry)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            # Raw material of numbers that are there: bootstrap replicates, and samples behind the means.
            if name not in {"resampled", "entries", "groups"} or isinstance(getattr(value, name), np.ndarray):
                yield from numbers_in(getattr(value, name))


def test_every_number_of_the_input_is_in_the_json(written: tuple[ReportInput, Path]) -> None:
    report, folder = written
    content = json.loads((folder / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    there = set(numbers_in(content))
    missing = {number for number in numbers_in(report) if math.isfinite(number)} - there
    assert not missing
    if report.scores is not None:
        for model in report.scores.models:
            for task in report.scores.tasks:
                assert content["scores"]["models"][model][task]["mean"] == report.scores.mean(model, task)


def test_every_task_and_notice_is_in_page_and_markdown(written: tuple[ReportInput, Path], page: Page) -> None:
    report, folder = written
    content = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    for task in report.tasks if report.weights is not None else ():
        assert task.name in page.cells
        assert f"| {task.name} |" in markdown
    for notice in content["notices"]:
        assert notice in page.texts
        assert notice.replace("[", r"\[").replace("]", r"\]") in markdown
    assert not re.search(r"\bnan\b", " ".join(page.texts), re.IGNORECASE)


def test_markdown_tables_have_equal_rows(written: tuple[ReportInput, Path]) -> None:
    widths: list[int] = []
    for line in (written[1] / "report.md").read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            assert len(set(widths)) <= 1
            widths = []
            continue
        widths.append(len(re.findall(r"(?<!\\)\|", line)))


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    def everything(folder: Path) -> dict[str, bytes]:
        write_report(made_report(3, mastered=(0,), strategies=("ew", "cotbal", "mine", "other")), folder)
        return {
            str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()
        }

    first = everything(tmp_path / "a")
    before = dict(mpl.rcParams)
    with mpl.rc_context(
        {"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path", "lines.linewidth": 9}
    ):
        second = everything(tmp_path / "b")
    assert first == second
    assert dict(mpl.rcParams) == before


def test_a_second_report_leaves_no_pictures_of_the_first(tmp_path: Path) -> None:
    write_report(made_report(2), tmp_path)
    (tmp_path / "figures" / "notes.txt").write_text("kept")
    write_report(made_report(2, compared=False), tmp_path)
    names = {file.name for file in (tmp_path / "figures").iterdir()}
    assert names == {"weights.svg", "contributions.svg", "measures.svg", "notes.txt"}


def test_hostile_text_is_shown_as_it_is(tmp_path: Path) -> None:
    evil = "<script>alert('1')</script>|&amp; *b* `c` [d](e) $x$ \n_f_"
    base = made_report(2)
    assert base.comparison is not None
    rows = tuple(
        StrategyScores(evil if r.strategy == "ew" else r.strategy, r.seed, r.scores)
        for r in base.comparison.scores
    )
    report = replace(
        base,
        title=evil,
        warnings=(evil,),
        comparison=Comparison(base.comparison.tasks, base.comparison.higher_is_better, rows),
        curves=tuple(replace(curve, model=evil) if curve.model == "ew" else curve for curve in base.curves),
        problems=(Problem(Path("a/<b>.json"), 0, evil),),
        provenance=replace(
            base.provenance,
            model=evil,
            config=f"model: |\n  {evil}\n  ````\n",
            versions={evil: evil},
            units=(UnitRecord(evil, "scored", 0),),
        ),
    )
    text = write_report(report, tmp_path).read_text(encoding="utf-8")
    page = read_page(text)
    assert page.errors == []
    assert "script" not in page.tags
    assert evil in page.texts
    for file in (tmp_path / "figures").glob("*.svg"):
        assert "<script" not in file.read_text(encoding="utf-8")
        ElementTree.fromstring(file.read_text(encoding="utf-8"))
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "`````yaml" in markdown
    prose = markdown.replace(markdown[markdown.index("`````yaml") :], "")
    assert not re.search(r"(?<!\\)<script", prose)
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["title"] == evil


def test_the_head_of_the_page_and_the_pictures_show_no_path_of_the_machine(tmp_path: Path) -> None:
    base = made_report(2)
    folder = "/home/someone/models/base"
    write_report(replace(base, provenance=replace(base.provenance, model=folder)), tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    head = page[page.index("<h1") : page.index("<section")]
    assert "base" in head
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    pictures += [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.svg")]
    assert pictures
    for shown in (head, *pictures):
        assert folder not in shown
        assert str(tmp_path) not in shown


def test_unfinished_units_and_weights_within_noise_are_told(tmp_path: Path) -> None:
    report = made_report(3, compared=False)
    assert report.weights is not None
    assert report.weights.intervals is not None
    wide = replace(report.weights, intervals=np.array([[0.2, 1.9]] * 3))
    units = (UnitRecord("mini", "scored", 0), UnitRecord("plus_vqa", "trained", 0))
    report = replace(report, weights=wide, provenance=replace(report.provenance, units=units))
    text = write_report(report, tmp_path).read_text(encoding="utf-8")
    assert "1 unit is not finished, so this report is not complete: plus_vqa." in text
    assert "The interval of every weight holds 1" in text
    sharp = replace(report, weights=replace(wide, intervals=np.array([[1.1, 1.9], [0.5, 1.5], [0.5, 1.5]])))
    assert "The interval of every weight holds 1" not in write_report(sharp, tmp_path).read_text(
        encoding="utf-8"
    )


def test_undefined_columns_are_named_with_scores_and_advice(tmp_path: Path) -> None:
    report = made_report(3, mastered=(1,))
    text = write_report(report, tmp_path).read_text(encoding="utf-8")
    page = read_page(text)
    (notice,) = [entry for entry in page.texts if entry.startswith("Contributions to")]
    assert notice.startswith("Contributions to task vqa are undefined: ")
    assert "More validation samples" in notice
    assert "undefined" in page.cells
    assert "1.000†" in page.cells


def test_small_test_sets_are_told(tmp_path: Path) -> None:
    report = made_report(2)
    assert report.comparison is not None
    assert "Small test sets" not in write_report(report, tmp_path).read_text(encoding="utf-8")
    few = replace(report, comparison=replace(report.comparison, samples={"caption": 12, "vqa": 500}))
    assert "Small test sets (caption 12 samples)" in write_report(few, tmp_path).read_text(encoding="utf-8")
