"""Row passes through an extension built with sanitizers, in a process of its own.

Run by test_sanitizers.py:

python sanitized_calls.py EXTENSION CALLS
"""

import importlib.util
import random
import sys

import torch
from hypothesis import HealthCheck, Phase, given, settings
from support.kernels.row_cases import Case, cases, forced

import cotbal_kernels as ck
from cotbal_kernels import small


def use_extension(path: str) -> None:
    from cotbal_kernels.backends import native

    spec = importlib.util.spec_from_file_location("cotbal_kernels.backends.native._native", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[spec.name] = module
    native._native = module  # type: ignore[attr-defined]


def small_losses() -> None:
    """Whole losses in one native call, some on rows that a plan's owner has spoilt."""
    dice = random.Random(0)
    for _ in range(200):
        shape, classes, tasks = (
            (dice.randint(1, 4), dice.randint(1, 9)),
            dice.randint(1, 70),
            dice.randint(1, 5),
        )
        labels = torch.where(torch.rand(shape) < 0.6, torch.randint(0, classes, shape), -100)
        labels[0, 0] = 0
        plan = ck.plan(
            labels,
            torch.randint(0, tasks, shape[:1]),
            torch.rand(tasks, dtype=dice.choice([torch.float32, torch.float64])),
            token_weights=torch.rand(shape) if dice.random() < 0.5 else None,
        )
        logits = torch.randn(*shape, classes, requires_grad=True)
        ck.cross_entropy(logits, plan=plan).loss.backward()
        hidden, weight = (
            torch.randn(*shape, 3, requires_grad=True),
            torch.randn(classes, 3, requires_grad=True),
        )
        ck.linear_cross_entropy(hidden, weight, plan=plan).loss.backward()
        spoilt = dice.choice([plan.rows, plan.targets, plan.tasks, plan.samples])
        spoilt[dice.randrange(len(spoilt))] = dice.choice([-1, 2**40, classes, tasks, labels.numel()])
        small.cross_entropy(logits, plan, None, None, None, "mean", 1, None, "auto")


def main(extension: str, calls: int) -> None:
    use_extension(extension)
    from cotbal_kernels.backends.native import _native
    from cotbal_kernels.backends.native import backend as native_backend

    assert _native.__file__ == extension
    sets = [name for name, supported in native_backend.instruction_sets().items() if supported]
    made = dict.fromkeys(sets, 0)

    def examples(number: int) -> settings:
        return settings(
            max_examples=number,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )

    @examples(-(-calls // len(sets)))
    @given(case=cases())
    def call(case: Case) -> None:
        # Exactly as large as its contents, so that one element past the end is past the allocation.
        storage = case.storage.clone()
        gradient = torch.empty_like(storage)
        for name in sets:
            with forced(name):
                native_backend.BACKEND.row_pass(
                    case.window(storage), case.targets, gradient=case.window(gradient), **case.options
                )
            made[name] += 1
        native_backend.BACKEND.row_pass(
            case.window(storage), case.targets, gradient=case.window(storage), **case.options
        )

    for threads in (1, 3):
        torch.set_num_threads(threads)
        call()
        small_losses()
    print(made)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
