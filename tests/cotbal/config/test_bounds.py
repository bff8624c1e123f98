"""Configs that would take forever, or all memory, are refused in under a second."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cotbal.config.schema import load_config
from cotbal.config.yaml_file import MAX_CHARACTERS, MAX_DEPTH, MAX_VALUES, ConfigError, parse_yaml
from cotbal.units.schedule import MAX_UNITS, make_schedule

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
BODY = "model: m\noutput: o\n"
TASK = "tasks: [{name: a, train: t.json, test: t.json, metric: exact_match, weight: 1}]\n"


def seconds_to_refuse(folder: Path, text: str) -> tuple[str, float]:
    path = folder / "mixture.yaml"
    path.write_text(text)
    started = time.process_time()
    with pytest.raises(ConfigError) as caught:
        make_schedule(load_config(path))
    return str(caught.value), time.process_time() - started


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, f"more than {MAX_VALUES} values once all aliases are written out"),
        (BODY + "a: &a [*a]\n", "an alias that holds itself"),
        (BODY + "a: &a {b: *a}\n", "an alias that holds itself"),
        (BODY + "tasks: " + "[" * 100_000, f"more than {MAX_DEPTH} levels of nesting"),
        (BODY + "tasks: " + "{a: " * 20_000, f"more than {MAX_DEPTH} levels of nesting"),
        (
            BODY + "".join(f"{' ' * n}a:\n" for n in range(600)),
            f"more than {MAX_DEPTH} levels of nesting",
        ),
        (BODY + TASK + f"seed: {'9' * 5_000}\n", "a number of 5000 digits"),
        (BODY + TASK + f"seed: -0x{'f' * 5_000}\n", "a number of 5003 digits"),
        (BODY + TASK + f"comparison: {{seeds: {list(range(200_000))}}}\n", "characters"),
        (BODY + TASK + f"comparison: {{seeds: {list(range(15_000))}}}\n", "comparison.seeds"),
        (
            BODY + TASK.replace("weight: 1", "weight: 1, max_new_tokens: 1000000000000000000"),
            "max_new_tokens",
        ),
        (BODY + TASK + "max_length: 1000000000000000000\n", "max_length"),
        (BODY + TASK + "evaluation: {batch_size: 1000000000000000000}\n", "evaluation.batch_size"),
        (BODY + TASK + "weighing: {replicates: 1000000000000000000}\n", "weighing.replicates"),
        (BODY + "#" * (MAX_CHARACTERS + 10), "characters"),
        (
            BODY
            + TASK
            + f"comparison: {{seeds: {list(range(900))}, strategies: "
            + f"[{', '.join(f'{{name: ew, label: e{n}}}' for n in range(100))}]}}\n",
            f"at most {MAX_UNITS}",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) and len(value) > 60 else value,
)
def test_what_would_take_forever_is_refused_at_once(tmp_path: Path, text: str, message: str) -> None:
    said, seconds = seconds_to_refuse(tmp_path, text)
    assert message in said
    assert "mixture.yaml" in said or "units" in said
    assert len(said) < 5_000
    assert seconds < 1.0


def test_aliases_that_people_use_are_read() -> None:
    text = "a: &files {train: t.json, images: i}\nb: [*files, *files]\n"
    assert parse_yaml(text, Path("f"))["b"] == [{"train": "t.json", "images": "i"}] * 2


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.text("ab: \n-#é", max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from("abcd"), values, max_size=4))
def test_what_is_bounded_is_read_as_it_was_written(content: dict[str, Any]) -> None:
    if content:
        assert parse_yaml(yaml.safe_dump(content), Path("f")) == content


@given(st.text("ab:[]{}&*-? \n\"'|>#!%@`,01.e+x", max_size=60))
def test_any_text_is_read_or_refused_in_our_own_words(text: str) -> None:
    said = ""
    try:
        read = parse_yaml(text, Path("mixture.yaml"))
    except ConfigError as error:
        read, said = {}, str(error)
    assert isinstance(read, dict)
    assert not said or said.startswith("mixture.yaml")


@pytest.mark.parametrize(
    "value", ['!!int ""', '!!int "_"', '!!float ""', "!!bool x", "!!timestamp x", "!!set [1]", "!!omap 3"]
)
def test_a_value_that_does_not_fit_its_tag_is_told(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^mixture\.yaml"):
        parse_yaml(f"a: {value}", Path("mixture.yaml"))
