"""Runs the contenders of a loss case: correctness first, then interleaved timing against the floor."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks import contenders as field
from benchmarks.cases import LossCase
from benchmarks.contenders import CONTENDERS, Contender, Unavailable
from benchmarks.inputs import LossInputs, Truth, disagreement, make, truth
from benchmarks.timing import Step, interleave

FLOOR = "floor"


def run_case(
    case: LossCase,
    device: torch.device,
    *,
    names: Sequence[str] | None = None,
    budget: float = 20.0,
    minimum: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure one case. A contender that is wrong is reported as wrong and not timed.

    Returns a JSON-ready mapping: the case, per contender seconds (median, quartiles), peak bytes and the ratio of
    medians to the floor of this same run, and for the others the reason why there is no figure.
    """
    inputs = make(case, device, seed)
    # Truth is per layout and per loss: the weighted and the plain mean, each once.
    expected = {weighted: truth(inputs, weighted) for weighted in (True, False)}
    layouts = {"": inputs}
    if case.supervised < 1:
        layouts["compacted"] = inputs.compacted()
    steps: dict[str, Step] = {}
    absent: dict[str, str] = {}
    for layout, given in layouts.items():
        for contender in CONTENDERS:
            if names is not None and contender.name not in names:
                continue
            if layout and contender.compacts:
                continue  # it compacts by itself; the gain of doing so is in its own time
            label = f"{contender.name} ({layout})" if layout else contender.name
            outcome = _check(contender, given, expected[contender.weighted])
            if isinstance(outcome, str):
                absent[label] = outcome
            else:
                steps[label] = outcome
    del expected
    gc.collect()
    steps[FLOOR] = field.copy(inputs) if case.logits_level else field.bare_gemms(inputs)
    timings = interleave(steps, device, budget=budget, minimum=minimum)
    floor = timings[FLOOR].median
    return {
        "name": case.name,
        "group": case.group,
        "label": case.label,
        "tokens": case.tokens,
        "hidden": case.hidden,
        "vocab": case.vocab,
        "supervised": case.supervised,
        "rows": case.rows,
        "tasks": case.tasks,
        "dtype": str(case.dtype).removeprefix("torch."),
        "seed": seed,
        "contenders": {
            name: {**timing.as_dict(), "ratio_to_floor": timing.median / floor}
            for name, timing in timings.items()
        },
        "absent": absent,
    }


def _check(contender: Contender, inputs: LossInputs, expected: Truth) -> Step | str:
    """The contender's step, or why it has none: unavailable here, failed, or wrong."""
    try:
        run = contender.build(inputs)
        inputs.clear()
        loss = run()
    except Unavailable as reason:
        return str(reason)
    except Exception as error:  # a rival that crashes is a result, not the end of the run
        if contender.name.startswith("ours"):
            raise
        return f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    wrong = disagreement(inputs, loss.detach(), expected)
    inputs.clear()
    if wrong is not None:
        return f"wrong: {wrong}"
    return _cleared(inputs, run)


def _cleared(inputs: LossInputs, run: Callable[[], Tensor]) -> Step:
    def step() -> Tensor:
        inputs.clear()
        return run()

    return step


def run_cases(
    cases: Iterable[LossCase], device: torch.device, announce: Callable[[str], object], **options: Any
) -> list[dict[str, Any]]:
    results = []
    for case in cases:
        announce(case.name)
        results.append(run_case(case, device, **options))
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return results
