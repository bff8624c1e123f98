"""Runs the contenders of a loss case: correctness first, then interleaved timing against the floor."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import apart
from benchmarks import contenders as field
from benchmarks.cases import LossCase
from benchmarks.contenders import CONTENDERS, Contender, Unavailable
from benchmarks.inputs import LossInputs, Truth, disagreement, make, truths
from benchmarks.timing import Step, failure, give_memory_back, interleave

FLOOR = "floor"
PATIENCE = 15.0  # seconds of one call, beyond which a contender is not waited for


def run_case(
    case: LossCase,
    device: torch.device,
    *,
    names: Sequence[str] | None = None,
    budget: float = 20.0,
    minimum: int = 5,
    seed: int = 0,
    compacted: bool = True,
) -> dict[str, Any]:
    """Measure one case. A contender that is wrong is reported as wrong and not timed.

    With ``compacted``, contenders that cannot skip unsupervised rows are measured without those rows too. Returns a
    JSON-ready mapping: the case, per contender seconds (median, quartiles), peak bytes and the ratio of
    medians to the floor of this same run, and for the others the reason why there is no figure.
    """
    torch._dynamo.reset()  # what was compiled for other cases would count against a limit of recompilations
    inputs = make(case, device, seed)
    emulation = None if case.logits_level else emulated_products(inputs)
    layouts = {"": inputs}
    if compacted and case.supervised < 1:
        layouts["compacted"] = inputs.compacted()
    steps: dict[str, Step] = {}
    absent: dict[str, str] = {}
    elsewhere: dict[str, dict[str, Any]] = {}
    for layout, given in layouts.items():
        expected = truths(given)
        for contender in CONTENDERS:
            if names is not None and contender.name not in names:
                continue
            if layout and contender.compacts:
                continue  # it compacts by itself; the gain of doing so is in its own time
            label = f"{contender.name} ({layout})" if layout else contender.name
            if case.contenders is not None and contender.name not in case.contenders:
                absent[label] = "left out of this case, where a round takes long; see the others"
                continue
            if emulation is not None and not contender.widens:
                seconds = emulation.seconds_per_row * (case.rows if contender.compacts else len(given.labels))
                if seconds > PATIENCE:
                    absent[label] = f"would take about {seconds:.0f} s a call: {emulation}"
                    continue
            if contender.apart is not None:
                found = apart.measured(contender, case, seed, layout)
                if isinstance(found, str):
                    absent[label] = found
                else:
                    elsewhere[label] = found
                continue
            padded = given.compacted(contender.multiple) if layout and contender.multiple > 1 else given
            outcome = checked_step(contender, padded, expected[contender.weighted])
            if isinstance(outcome, str):
                absent[label] = outcome
            else:
                steps[label] = outcome
        del expected
    gc.collect()
    if case.logits_level:
        steps[FLOOR] = field.copy(inputs)
    else:
        steps[FLOOR] = field.bare_gemms(inputs, dtype=torch.float32 if emulation else None)
    steps[FLOOR]()
    flush = _flush(device) if case.cold else None
    timings = interleave(steps, device, budget=budget, minimum=minimum, flush=flush, warm=True, failed=absent)
    if FLOOR not in timings:
        raise RuntimeError(f"the floor {absent[FLOOR]}")
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
        "floor": _floor_text(case, emulation),
        "contenders": {
            name: {**timing.as_dict(), "ratio_to_floor": timing.median / floor}
            for name, timing in timings.items()
        }
        | elsewhere,
        "absent": absent,
    }


@dataclass(frozen=True)
class Emulation:
    """Products in a type that the machine has no instructions for."""

    dtype: torch.dtype
    seconds_per_row: float  # of the three GEMMs
    slowdown: float  # against float32

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return f"products in {name} are emulated here and take {self.slowdown:.0f} x as long as in float32"


def emulated_products(inputs: LossInputs, rows: int = 16) -> Emulation | None:
    """How slow the GEMMs are in the case's type, where float32 is several times faster; else None, and on GPUs.

    torch multiplies bfloat16 matrices on CPUs without instructions for them one element at a time.
    """
    if inputs.case.dtype is torch.float32 or inputs.hidden.device.type != "cpu":
        return None
    rows = min(rows, inputs.case.rows)
    taken = {}
    for dtype in (inputs.case.dtype, torch.float32):
        step = field.bare_gemms(inputs, rows=rows, dtype=dtype)
        step()
        began = time.perf_counter()
        step()
        taken[dtype] = time.perf_counter() - began
    slowdown = taken[inputs.case.dtype] / taken[torch.float32]
    return Emulation(inputs.case.dtype, taken[inputs.case.dtype] / rows, slowdown) if slowdown > 4 else None


def _floor_text(case: LossCase, emulation: Emulation | None) -> str:
    if case.logits_level:
        return "one copy of the supervised logits"
    told = "the three GEMMs over the supervised rows"
    return told if emulation is None else f"{told}, in float32: {emulation}"


def _flush(device: torch.device) -> Callable[[], object]:
    """Overwrites more memory than any cache holds."""
    buffer = torch.empty(2**26, device=device)
    return buffer.zero_


def checked_step(contender: Contender, inputs: LossInputs, expected: Truth) -> Step | str:
    """The contender's step, or why it has none: unavailable here, failed, or wrong."""
    try:
        run = contender.build(inputs)
        inputs.clear()
        loss = run()
    except Unavailable as reason:
        return str(reason)
    except Exception as error:  # a contender that crashes is a result, not the end of the run
        return failure(error)
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
        try:
            results.append(run_case(case, device, **options))
        except Exception as error:  # no memory for the inputs, say: the other cases are still measured
            results.append(
                {"name": case.name, "contenders": {}, "absent": {"every contender": failure(error)}}
            )
        give_memory_back(device)
    return results


def failures(entries: Iterable[dict[str, Any]]) -> list[str]:
    """What must not be missed in a result: cases that failed, and where we failed or were wrong."""
    return [
        f"{entry['name']}: {name}: {reason}"
        for entry in entries
        for name, reason in entry.get("absent", {}).items()
        if name.startswith(("ours", "every contender", FLOOR)) and reason.startswith(("failed", "wrong"))
    ]
