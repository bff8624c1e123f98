"""A short part of each long proof, and the page that shows their results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from soak.page import PAGE, page
from soak.proofs import FOLDER, PROOFS

ROOT = Path(__file__).parents[2]


def test_the_page_shows_the_results() -> None:
    assert PAGE.read_text() == page(FOLDER)


def test_the_page_does_not_pass_over_a_failure(tmp_path: Path) -> None:
    found = {"proof": "kills", "summary": "1 kill", "seconds": 60, "machine": {"commit": "0" * 40}}
    path = tmp_path / "kills.json"
    path.write_text(json.dumps({**found, "moments": {"training: SIGKILL": 1}, "failures": ["bits differ"]}))
    shown = page(tmp_path)
    assert "| training: SIGKILL | 1 |" in shown
    assert "- bits differ" in shown
    assert "No results yet: `python -m tests.soak kernels`" in shown


@pytest.mark.slow
# Of `launches`, tests/integration/test_killed_ranks.py is the short part.
@pytest.mark.parametrize("name", [name for name in PROOFS if name != "launches"])
def test_a_short_part_of_each_proof(tmp_path: Path, name: str) -> None:
    """In a process of its own, which forks: one that tests have run in has threads."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", name, "--short", "--results", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / f"{name}.json").read_text())["failures"] == []
