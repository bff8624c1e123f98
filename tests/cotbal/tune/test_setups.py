"""Every set-up of `setups.py` against the oracle; the page docs/exactness.md is made from the same list."""

from __future__ import annotations

from pathlib import Path

import pytest
from rank_checks import CHECKS
from setups import SETUPS, run, run_on_ranks

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*"),
]


@pytest.mark.parametrize("setup", [pytest.param(s, id=s.name) for s in SETUPS if s.ranks == 1])
def test_one_process(setup, tmp_path):
    outcome = run(setup, tmp_path)
    assert outcome.passed, outcome


@pytest.mark.slow
@pytest.mark.parametrize("ranks", sorted({setup.ranks for setup in SETUPS} - {1}))
def test_several_ranks(ranks):
    """All of them in one job: starting processes is most of the cost."""
    names = [setup.name for setup in SETUPS if setup.ranks == ranks]
    names += CHECKS if ranks == 2 else []
    found = run_on_ranks(names, ranks)
    assert [outcome.name for outcome in found] == names
    assert [outcome for outcome in found if not outcome.passed] == []


def test_names_are_unique():
    assert len({setup.name for setup in SETUPS}) == len(SETUPS)


def test_the_page_lists_every_setup():
    page = Path(__file__).parents[3] / "docs" / "exactness.md"
    if not page.exists():
        pytest.skip("docs/exactness.md has not been made yet: python docs/make_exactness.py")
    text = page.read_text()
    rows = [line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if line.startswith("| ")]
    listed = [row for row in rows if row != "set-up"]
    assert listed == [setup.name for setup in SETUPS], "run `python docs/make_exactness.py`"
    assert "exceeded" not in text
