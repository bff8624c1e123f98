"""Every set-up of `setups.py` against the oracle; the page docs/exactness.md is made from the same list."""

from __future__ import annotations

import functools

import pytest
from rank_checks import CHECKS
from setups import SETUPS, Outcome, run, run_on_ranks

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*"),
]


@functools.cache
def outcomes(ranks: int) -> dict[str, Outcome]:
    """All set-ups of so many ranks, in one job: starting processes is most of the cost."""
    names = [setup.name for setup in SETUPS if setup.ranks == ranks]
    if ranks == 2:
        names += CHECKS
    return {outcome.name: outcome for outcome in run_on_ranks(names, ranks)}


def named(ranks):
    return [pytest.param(setup, id=setup.name) for setup in SETUPS if (setup.ranks > 1) == (ranks > 1)]


def check(outcome):
    assert outcome.passed, outcome


@pytest.mark.parametrize("setup", named(1))
def test_one_process(setup, tmp_path):
    check(run(setup, tmp_path))


@pytest.mark.parametrize("setup", named(2))
def test_several_ranks(setup):
    check(outcomes(setup.ranks)[setup.name])


@pytest.mark.parametrize("name", CHECKS)
def test_two_ranks(name):
    """The check raised nothing in either of its processes."""
    check(outcomes(2)[name])


def test_names_are_unique():
    assert len({setup.name for setup in SETUPS}) == len(SETUPS)
