"""The public losses called in any order: dtypes, layouts, plans, numbers of threads, threads at once, interrupts.

Each call is held to the whole contract of `tests/support/kernels/loss_contract.py`, against the float64 oracle; the
same call under the same number of threads gives the same bits again, whatever happened between.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, rule, run_state_machine_as_test
from support.kernels.loss_contract import LAYOUTS, Outcome, assert_contract, laid_out, run
from support.kernels.loss_strategies import FUNCTIONS, LossCase, loss_cases

import cotbal_kernels as ck

__all__ = ["Losses", "proof"]

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_STEPS = 40
counts: Counter[str] = Counter()
stop_at: list[float] = []


class _InterruptedError(BaseException):
    """Raised by a signal in the middle of a call, as Ctrl-C is."""


@contextmanager
def _interrupted_after(seconds: float) -> Any:
    def strike(*_: object) -> None:
        raise _InterruptedError

    earlier = signal.signal(signal.SIGALRM, strike)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)


def _available(case: LossCase) -> list[str]:
    dtype = case.dtype
    if case.function == "linear" and dtype in (torch.float16, torch.bfloat16):
        dtype = torch.float32
    return [each.name for each in ck.implementations("cpu", dtype) if each.available]


def _bits(made: Outcome) -> list[bytes]:
    tensors = (
        made.output.loss,
        made.output.task_loss_sum,
        made.grad_scores,
        made.grad_weight,
        made.grad_bias,
    )
    return [b"" if each is None else each.detach().double().numpy().tobytes() for each in tensors]


class Losses(RuleBasedStateMachine):
    cases = Bundle("cases")

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[tuple[int, str, str, int], list[bytes]] = {}
        self.kept: list[LossCase] = []
        torch.set_num_threads(1)

    def teardown(self) -> None:
        torch.set_num_threads(1)

    def call(self, case: LossCase, impl: str, layout: str) -> Outcome:
        counts["calls"] += 1
        counts[f"{case.function}, {impl}, {str(case.dtype).removeprefix('torch.')}"] += 1
        made = run(case, impl, "cpu", layout)
        assert_contract(case, made, "cpu")
        # Cases are kept, so that no other one gets the number of one that is gone.
        key = (id(case), impl, layout, torch.get_num_threads())
        self.kept.append(case)
        assert self.before.setdefault(key, _bits(made)) == _bits(made), "the same call gave other bits"
        return made

    @rule(target=cases, data=st.data(), function=st.sampled_from(FUNCTIONS), dtype=st.sampled_from(_DTYPES))
    def begin(self, data: st.DataObject, function: Any, dtype: torch.dtype) -> LossCase:
        return data.draw(loss_cases(function, dtype))

    @rule(case=cases, which=st.integers(0, 9), layout=st.sampled_from(LAYOUTS))
    def once(self, case: LossCase, which: int, layout: str) -> None:
        found = _available(case)
        self.call(case, found[which % len(found)], layout)

    @rule(case=cases)
    def by_every_backend(self, case: LossCase) -> None:
        for impl in _available(case):
            self.call(case, impl, "contiguous")

    @rule(threads=st.sampled_from([1, 2, 3]))
    def with_threads(self, threads: int) -> None:
        torch.set_num_threads(threads)

    @rule(case=cases, other=cases, layout=st.sampled_from(LAYOUTS))
    def at_once(self, case: LossCase, other: LossCase, layout: str) -> None:
        chosen = [case, other, case]
        # The budget's patch in `run` is the whole process's.
        chosen = [each.with_(memory_budget=None) for each in chosen]
        with ThreadPoolExecutor(3) as pool:
            made = list(pool.map(lambda each: run(each, _available(each)[0], "cpu", layout), chosen))
        counts["at once"] += 3
        counts["calls"] += 3
        for each, outcome in zip(chosen, made, strict=True):
            assert_contract(each, outcome, "cpu")

    @rule(case=cases, micro=st.integers(1, 2000), which=st.integers(0, 9))
    def interrupted(self, case: LossCase, micro: int, which: int) -> None:
        found = _available(case)
        impl = found[which % len(found)]
        with suppress(_InterruptedError), _interrupted_after(micro * 1e-6):
            run(case, impl, "cpu")
            counts["in time"] += 1
        counts["interrupted"] += 1
        self.call(case, impl, "contiguous")

    @rule(case=cases, other=cases)
    def with_the_plan_of(self, case: LossCase, other: LossCase) -> None:
        """One plan serves any number of calls with its labels, and no call with others."""
        plan = ck.plan(other.labels, **other.plan_options)
        scores = case.scores if case.function == "logits" else case.scores @ case.weight.T  # type: ignore[union-attr]
        same = case.labels.shape == other.labels.shape and bool((case.labels == other.labels).all())
        counts["calls"] += 1
        try:
            first = ck.cross_entropy(scores, case.labels, plan=plan, reduction="sum")
        except ValueError:
            counts["plans refused"] += 1
            assert not same or other.classes > case.classes, "the labels are the plan's own"
            return
        assert same or case.labels.numel() == 0 or _supervise_alike(case, other), (
            "the plan is of other labels"
        )
        second = ck.cross_entropy(scores, case.labels, plan=plan, reduction="sum")
        assert torch.equal(first.loss, second.loss)

    @rule(case=cases, what=st.sampled_from(["labels", "weight", "dtype", "tasks", "class"]))
    def wrongly(self, case: LossCase, what: str) -> None:
        """A call that cannot be meant is refused by name, and leaves nothing behind."""
        scores, labels = case.scores, case.labels
        options: dict[str, Any] = {"reduction": "sum"}
        if what == "labels":
            labels = torch.zeros(*labels.shape, 2, dtype=torch.long)
        elif what == "weight":
            options["token_weights"] = torch.ones(*labels.shape, 3)
        elif what == "dtype":
            labels = labels.double()
        elif what == "tasks":
            options["task_weights"] = [1.0, float("nan")]
            options["task_ids"] = torch.zeros(labels.shape, dtype=torch.long)
        elif labels.numel():
            labels = laid_out(torch.full_like(labels, scores.shape[-1]), "sliced")
        else:
            return
        counts["wrong calls"] += 1
        counts["calls"] += 1
        try:
            ck.cross_entropy(scores, labels, **options)
        except (ValueError, TypeError, IndexError):
            return
        raise AssertionError(f"a call with wrong {what} was made")


def _supervise_alike(case: LossCase, other: LossCase) -> bool:
    """The supervised labels are the same, at the same places; those that are ignored may be written differently."""

    def meant(each: LossCase) -> torch.Tensor:
        labels = each.labels.clone()
        labels[labels == each.ignore_index] = -100
        labels[labels == other.ignore_index] = -100
        return labels

    same_shape = case.labels.shape == other.labels.shape
    return same_shape and (other.shift or bool((meant(case) == meant(other)).all()))


def proof(root: Path, *, short: bool, until: float | None) -> dict[str, Any]:
    """10,000 calls (a short proof: 300)."""
    counts.clear()
    failures: list[str] = []
    goal = 300 if short else 10_000
    while counts["calls"] < goal and not failures and (until is None or time.monotonic() < until):
        before = counts["calls"]
        machine_settings = settings(
            max_examples=4 if short else 25,
            stateful_step_count=_STEPS,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        try:
            run_state_machine_as_test(Losses, settings=machine_settings)
        except Exception as error:
            failures.append(
                "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])[-4000:]
            )
        if counts["calls"] == before:
            failures.append("no call was made")
        print(f"{counts['calls']} calls", flush=True)
    return {
        "summary": f"{counts['calls']:,} calls, {len(failures)} sequences that broke the contract",
        "counts": dict(counts),
        "failures": failures,
    }
