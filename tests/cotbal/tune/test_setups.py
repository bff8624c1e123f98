"""Every set-up of `setups.py` against the oracle; the page docs/exactness.md is made from the same list."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tune.lowest_versions import WITH_LOWEST
from support.tune.rank_checks import CHECKS
from support.tune.run_setups import LIMITS, run, run_on_ranks
from support.tune.setups import JOBS, SETUPS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*"),
]


@pytest.mark.parametrize("setup", [pytest.param(s, id=s.name) for s in SETUPS if s.ranks == 1])
def test_one_process(setup, tmp_path):
    outcome = run(setup, tmp_path)
    assert outcome.passed, outcome


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "launcher"), JOBS)
def test_several_ranks(ranks, launcher):
    """All of them in one job: starting processes is most of the cost."""
    names = [setup.name for setup in SETUPS if (setup.ranks, setup.launcher) == (ranks, launcher)]
    names += CHECKS if (ranks, launcher) == (2, "torchrun") else []
    found = run_on_ranks(names, ranks, launcher=launcher)
    assert [outcome.name for outcome in found] == names
    assert [outcome for outcome in found if not outcome.passed] == []


def test_names_are_unique():
    assert len({setup.name for setup in SETUPS}) == len(SETUPS)


def test_the_page_lists_every_setup():
    """Names and what is accepted, not the figures: these differ from machine to machine in their rounding."""
    text = (Path(__file__).parents[3] / "docs" / "exactness.md").read_text()
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    rows = [line for line in lines if line[0] != "set-up"]
    again = "run `python docs/make_exactness.py`"
    assert [row[0] for row in rows] == [*(setup.name for setup in SETUPS), *WITH_LOWEST], again
    precisions = {setup.name: setup.precision for setup in SETUPS}
    for name, loss, gradient, accepted in rows:
        assert max(float(loss), float(gradient)) <= float(accepted), name
        if precisions[name] in LIMITS:
            assert float(accepted) == LIMITS[precisions[name]], f"{name}: {again}"
    for group in {setup.group for setup in SETUPS}:
        assert f"## {group}\n" in text, again
