"""What an optimizer step sees: the same samples on any number of processes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotbal.config.yaml_file import ConfigError
from cotbal.units.batches import BatchLayout, StepSampler, batch_layout


def dealt(order: list[int], layout: BatchLayout) -> list[list[int]]:
    """The samples of each step, as the Trainer deals micro-batches out to the processes in turn."""
    micro = [order[start : start + layout.per_device] for start in range(0, len(order), layout.per_device)]
    own = [micro[rank :: layout.processes] for rank in range(layout.processes)]
    steps = []
    for start in range(0, len(own[0]), layout.accumulation):
        parts = [part for each in own for part in each[start : start + layout.accumulation]]
        steps.append(sorted(index for part in parts for index in part))
    return steps


LAYOUTS = [(1, 4, 4), (2, 4, 2), (2, 2, 4), (4, 1, 4), (1, 16, 1)]


@given(count=st.integers(1, 90), seed=st.integers(0, 5), epoch=st.integers(0, 3), data=st.data())
def test_steps_do_not_depend_on_the_layout(count: int, seed: int, epoch: int, data: st.DataObject) -> None:
    lengths = data.draw(st.none() | st.lists(st.integers(1, 9), min_size=count, max_size=count))
    found = []
    for processes, per_device, accumulation in LAYOUTS:
        layout = BatchLayout(16, per_device, processes, accumulation)
        sampler = StepSampler(count, 16, seed, lengths)
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert len(order) == len(sampler)
        found.append(dealt(order, layout))
    assert all(steps == found[0] for steps in found)
    samples = [index for step in found[0] for index in step]
    assert sorted(samples)[:count] == list(range(count))
    # Blanks fill up the last step and no other.
    assert all(index < count for step in found[0][:-1] for index in step)
    assert samples.count(count) == -count % 16


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        sampler = StepSampler(50, 5, seed)
        sampler.set_epoch(epoch)
        return tuple(sampler)

    orders = {order(seed, epoch) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16
    assert order(1, 2) == order(1, 2)


def test_steps_of_similar_length_begin_with_the_longest() -> None:
    lengths = [index % 37 for index in range(100)]
    order = list(StepSampler(100, 5, 0, lengths))
    steps = [[lengths[index] for index in order[start : start + 5]] for start in range(0, 100, 5)]
    assert max(max(step) - min(step) for step in steps) <= 2
    assert max(steps[0]) == 36


def test_the_order_of_the_data_is_kept_where_it_is_asked_for() -> None:
    assert list(StepSampler(5, 4, 3, shuffled=False)) == [0, 1, 2, 3, 4, 5, 5, 5]


@given(processes=st.integers(1, 8), per_device=st.integers(1, 8), accumulation=st.integers(1, 8))
def test_accumulation_follows_from_the_global_batch(
    processes: int, per_device: int, accumulation: int
) -> None:
    total = processes * per_device * accumulation
    settings = {"global_batch_size": total, "per_device_train_batch_size": per_device}
    assert batch_layout(settings, processes) == BatchLayout(total, per_device, processes, accumulation)


@pytest.mark.parametrize(
    ("settings", "processes", "message"),
    [
        (
            {"global_batch_size": 10, "per_device_train_batch_size": 4},
            1,
            r"10 samples cannot be spread over 1 process of 4 .*can be 1, 2, 5, 10 here",
        ),
        (
            {"global_batch_size": 6, "per_device_train_batch_size": 1},
            4,
            r"6 samples cannot be spread over 4 processes of 1 .*must be a multiple of 4",
        ),
        (
            {"global_batch_size": 8, "gradient_accumulation_steps": 2},
            1,
            r"gradient_accumulation_steps: given beside global_batch_size",
        ),
    ],
)
def test_what_cannot_be_spread_is_refused(settings: dict[str, int], processes: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        batch_layout(settings, processes)
