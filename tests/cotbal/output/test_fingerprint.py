"""Fingerprints: equal content is equal, and what changed is said by path."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cotbal.output.fingerprint import differences, folder_digest, versions

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_a_value_does_not_differ_from_itself(value: object) -> None:
    assert differences(value, value) == []


@given(st.dictionaries(st.text(max_size=3), values), st.dictionaries(st.text(max_size=3), values))
def test_no_difference_means_equal(old: dict[str, object], new: dict[str, object]) -> None:
    if not differences(old, new):
        assert old == new


def test_changes_are_named_by_path() -> None:
    old = {
        "training": {"learning_rate": 1e-3, "seed": 1},
        "data": {"vqa": ["sha256:a", "sha256:b"]},
        "list": [1],
    }
    new = {
        "training": {"learning_rate": 1e-4, "bf16": True},
        "data": {"vqa": ["sha256:a", "sha256:c"]},
        "list": [1, 2],
    }
    assert differences(old, new) == [
        "data.vqa[1]: its content has changed",
        "list: was [1], is [1, 2]",
        "training.bf16: is new: True",
        "training.learning_rate: was 0.001, is 0.0001",
        "training.seed: was 1, is gone",
    ]


def test_a_folders_digest_depends_on_names_and_contents(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "x").write_text("1")
    (tmp_path / "b" / "x").write_text("1")
    (tmp_path / "c" / "y").write_text("1")
    assert folder_digest(tmp_path / "a") == folder_digest(tmp_path / "b") != folder_digest(tmp_path / "c")


def test_versions_name_what_results_depend_on() -> None:
    assert {"torch", "transformers", "cotbal"} <= set(versions())
