"""What a report says of seeds, samples and what would settle it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.pages.made_reports import made_report

from cotbal.method.certainty import Certainty
from cotbal.method.seeds import SeedMean
from cotbal.report.sections.certainty import certainty, certainty_section, needs
from cotbal.report.write import write_report


def _told(**options: object) -> str:
    section = certainty_section(made_report(**options))  # type: ignore[arg-type]
    assert section is not None
    return " ".join(block.text for block in section.blocks)  # type: ignore[union-attr]


def test_one_preparation_says_what_it_cannot_know(tmp_path: Path) -> None:
    told = _told(samples=2000)
    assert "Intervals cover the validation samples only" in told
    assert "preparation.seeds" in told
    text = write_report(made_report(samples=2000), tmp_path).read_text(encoding="utf-8")
    assert "of the validation samples only" in text
    assert "over the validation samples only" in text


def test_several_say_which_variance_is_the_larger_one(tmp_path: Path) -> None:
    report = made_report(samples=1000, preparations=3)
    told = _told(samples=1000, preparations=3)
    assert "means over 3 preparations (seeds 0, 1, 2)" in told
    found = certainty(report)
    assert found is not None
    # The made scores of another seed are of another mixture, so the seeds differ by far more than the samples.
    assert found.dominant == "seeds"
    assert "Most of it comes from the seeds" in told
    assert "validation samples only" not in told
    text = write_report(report, tmp_path).read_text(encoding="utf-8")
    assert "of the seeds and the validation samples" in text
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["certainty"]["seeds"] == [0, 1, 2]
    assert len(stored["measurement"]["by_seed"]) == 3
    assert stored["certainty"]["differ"] == found.differ


def test_weights_that_differ_are_ranked_and_those_that_do_not_are_not() -> None:
    clear, faint = _told(samples=5000), _told(samples=200, alike=True)
    assert "The weights differ from equal ones" in clear
    assert "Surely ranked, all at once with 90% confidence" in clear
    assert "do not show that any task should weigh more" in faint
    assert "No two tasks are surely ranked" in faint


def _certainty(spread: float, samples: float | None, seeds: int | None, of: tuple[int, ...]) -> Certainty:
    two = np.ones(2)
    mean = SeedMean(two, max(1, len(of)), two * (np.nan if not of else 1), two, two, np.ones((5, 2)))
    return Certainty(("a", "b"), of, mean, 0.5, (), 0.9, spread, samples, seeds)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (_certainty(0.0, None, None, ()), "no more than noise"),
        (
            _certainty(0.1, 3.26, None, ()),
            "3.3 times the validation samples would probably show them, the seeds'",
        ),
        (_certainty(0.1, 3.26, 4, (0, 1)), "3.3 times the validation samples or 4 seeds in place of 2 would"),
        (_certainty(0.1, None, 9, (0, 1)), "9 seeds in place of 2 .*; no number of validation samples would"),
        (_certainty(0.1, None, None, (0, 1)), "Neither more seeds nor more validation samples"),
    ],
)
def test_what_would_settle_it(found: Certainty, wanted: str) -> None:
    assert re.search(wanted, needs(found))


def test_nothing_is_said_where_nothing_is_known() -> None:
    assert certainty_section(made_report(means_only=True)) is None
    assert certainty_section(replace(made_report(), weights=None)) is None
