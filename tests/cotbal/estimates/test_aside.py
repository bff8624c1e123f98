"""An estimate beside a run: its result comes back, and nothing else of it does."""

import os
import random
import time

import pytest
import torch

from cotbal.estimates.aside import estimated_aside
from cotbal.estimates.memory import NotEstimatedError


def test_its_result_comes_back_and_its_traces_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    threads = torch.get_num_threads()

    def estimate() -> tuple[int, str | None]:
        torch.rand(3)
        return os.getpid(), os.environ.get("WORLD_SIZE")

    process, started = estimated_aside(estimate)
    assert process != os.getpid()
    assert started is None
    assert os.environ["WORLD_SIZE"] == "2"
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_whatever_goes_wrong_is_one_error() -> None:
    def fail() -> None:
        raise SystemExit("no such kernel\nand more")

    def die() -> None:
        os._exit(9)

    with pytest.raises(NotEstimatedError, match=r"SystemExit: no such kernel$"):
        estimated_aside(fail)
    with pytest.raises(NotEstimatedError, match="exit code 9"):
        estimated_aside(die)
    with pytest.raises(NotEstimatedError, match="longer than 1 s"):
        estimated_aside(lambda: time.sleep(60), seconds=1)
    with pytest.raises(NotEstimatedError):
        estimated_aside(lambda: lambda: random.random())


def test_it_says_so_once_when_it_is_slow() -> None:
    said: list[str] = []
    assert estimated_aside(lambda: 1, slow=lambda: said.append("quick")) == 1
    assert estimated_aside(lambda: time.sleep(2.5) or 2, slow=lambda: said.append("slow")) == 2
    assert said == ["slow"]
