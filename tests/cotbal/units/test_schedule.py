"""Schedules: the units a config asks for."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotbal.config.schema import Config, load_config
from cotbal.config.yaml_file import ConfigError
from cotbal.units.schedule import make_schedule

EXAMPLE = Path(__file__).parents[3] / "examples" / "llava-1.5-7b.yaml"


def config(measured: int, weighted: int = 0, **changes: Any) -> Config:
    tasks = [
        {"name": f"m{i}", "train": "t", "validation": "v", "test": "e", "metric": "loss"}
        for i in range(measured)
    ]
    tasks += [{"name": f"w{i}", "train": "t", "weight": 1.0} for i in range(weighted)]
    return Config.model_validate({"model": "m", "output": "o", "tasks": tasks, **changes})


@given(
    measured=st.integers(1, 5),
    weighted=st.integers(0, 2),
    strategies=st.lists(st.sampled_from(["ew", "cotbal", "dwa"]), min_size=1, unique=True),
    single=st.booleans(),
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True),
)
def test_counts_and_tasks_of_every_unit(
    measured: int, weighted: int, strategies: list[str], single: bool, seeds: list[int]
) -> None:
    schedule = make_schedule(
        config(
            measured, weighted, comparison={"strategies": strategies, "single_task": single, "seeds": seeds}
        )
    )
    preparation, comparison = schedule.of("prepare"), schedule.of("tune")
    assert len(preparation) == measured + 1
    assert len(comparison) == len(seeds) * (len(strategies) + measured * single)
    assert len({unit.name for unit in schedule.units}) == len(schedule.units)
    names = tuple(f"m{i}" for i in range(measured))
    for unit in preparation:
        assert unit.train_tasks == unit.scored_tasks == names
        assert unit.split == "validation"
    for unit in comparison:
        assert unit.split == "test"
        if unit.strategy is None:
            assert unit.train_tasks == unit.scored_tasks == (unit.model.removeprefix("single_"),)
        else:
            assert len(unit.train_tasks) == measured + weighted
            assert unit.scored_tasks == names
            assert unit.needs_weights == (unit.model == "cotbal")


@pytest.mark.parametrize(
    ("vary", "orders"), [(["order"], [3, 0, 5]), (["subsets"], [3, 3, 3]), (["order", "subsets"], [3, 0, 5])]
)
def test_a_preparation_is_repeated_for_every_seed(vary: list[str], orders: list[int]) -> None:
    schedule = make_schedule(config(1, seed=3, preparation={"seeds": [3, 0, 5], "vary": vary}))
    units = schedule.of("prepare")
    assert [unit.name for unit in units] == [
        "mini", "plus_m0", "mini-seed0", "plus_m0-seed0", "mini-seed5", "plus_m0-seed5",
    ]  # fmt: skip
    assert [unit.preparation for unit in units] == [3, 3, 0, 0, 5, 5]
    assert [unit.seed for unit in units[::2]] == orders
    assert [unit.model for unit in units] == ["mini", "plus_m0"] * 3
    # The seed that was there first keeps its units as they are.
    assert make_schedule(config(1, seed=3)).of("prepare")[0].name == "mini"


@pytest.mark.parametrize(
    ("preparation", "message"),
    [
        ({"seeds": [1, 1]}, "seed '1' appears more than once"),
        ({"seeds": []}, "seeds"),
        ({"vary": ["x"]}, "vary"),
    ],
)
def test_preparations_that_cannot_be_are_refused(preparation: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(1, preparation=preparation)


def test_units_are_found_by_name_and_others_refused() -> None:
    schedule = make_schedule(config(2))
    assert schedule.unit("plus_m1").model == "plus_m1"
    with pytest.raises(ConfigError, match=r"no unit 'plus_m9'.*plus_m0"):
        schedule.unit("plus_m9")


def test_names_that_would_share_a_folder_are_refused() -> None:
    strategies = ["ew", {"name": "dwa", "label": "single_m0"}]
    with pytest.raises(ConfigError, match="single_m0-seed0"):
        make_schedule(config(1, comparison={"strategies": strategies, "single_task": True}))


def test_a_mixture_of_given_weights_has_no_preparation() -> None:
    assert make_schedule(config(0, 2)).of("prepare") == ()


def test_the_llava_example_loads_and_makes_the_schedule_it_describes() -> None:
    loaded = load_config(EXAMPLE)
    schedule = make_schedule(loaded)
    tasks = ("caption", "vqa", "ocr-vqa", "grounding")
    assert [unit.name for unit in schedule.of("prepare")] == ["mini", *(f"plus_{task}" for task in tasks)]
    models = [*(f"single_{task}" for task in tasks), "ew", "cotbal"]
    assert [unit.name for unit in schedule.of("tune")] == [
        f"{model}-seed{seed}" for seed in (0, 1) for model in models
    ]
    assert schedule.unit("cotbal-seed1").train_tasks == (*tasks, "sharegpt")
    assert loaded.model.name == "llava-hf/llava-1.5-7b-hf"
    assert loaded.training["learning_rate"] == 2e-5
    assert {key for key, _ in loaded.missing_paths()} >= {"tasks[0].train"}
