"""Stages: weights of a whole mixture, and the sources that weights are made from."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cotbal.config.schema import Config, load_config
from cotbal.config.yaml_file import ConfigError
from cotbal.method.weighing import combine_terms
from cotbal.units import stages


def config(folder: Path, measured: list[str], given: dict[str, float], **changes: Any) -> Config:
    tasks: list[dict[str, Any]] = [
        {"name": n, "train": "t", "validation": "v", "metric": "loss"} for n in measured
    ]
    tasks += [{"name": name, "train": "t", "weight": weight} for name, weight in given.items()]
    path = folder / "mixture.yaml"
    path.write_text(yaml.safe_dump({"model": "m", "output": "out", "tasks": tasks, **changes}))
    return load_config(path)


MEASURED = combine_terms([0.2, 0.1], [0.1, 0.1], [0.5, 0.1], tasks=["a", "b"])
SCORES = "mini,a,0.5\nmini,b,0.4\nplus_a,a,0.7\nplus_a,b,0.45\nplus_b,a,0.6\nplus_b,b,0.8\n"


def test_weights_of_a_mixture_follow_the_configs_order(tmp_path: Path) -> None:
    mixed = stages.mixture_weights(config(tmp_path, ["b", "a"], {"text": 0.5}), MEASURED)
    assert mixed is not None
    assert mixed.tasks == ("b", "a", "text")
    assert mixed.as_dict() == {**MEASURED.as_dict(), "text": 0.5}
    assert stages.mixture_weights(config(tmp_path, ["b", "a"], {"text": 0.5}), mixed) is not None


def test_unmeasured_tasks_wait_and_given_ones_do_not(tmp_path: Path) -> None:
    assert stages.mixture_weights(config(tmp_path, ["a"], {}), None) is None
    given = stages.mixture_weights(config(tmp_path, [], {"x": 0.5, "y": 2.0}), None)
    assert given is not None
    assert given.as_dict() == {"x": 0.5, "y": 2.0}


@pytest.mark.parametrize(
    ("measured", "given", "match"),
    [
        (["a", "b", "c"], {}, "'c'"),
        (["a"], {}, "'b'"),
        (["a"], {"b": 3.0}, "task 'b' the weight 3, the saved weights have 0"),
    ],
)
def test_weights_of_other_tasks_are_refused(
    tmp_path: Path, measured: list[str], given: dict[str, float], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        stages.mixture_weights(config(tmp_path, measured, given), MEASURED)


def test_weights_come_from_a_csv_a_folder_or_a_config_alike(tmp_path: Path) -> None:
    settings = config(tmp_path, ["a", "b"], {"text": 1.5})
    settings.output.mkdir()
    (settings.output / "scores.csv").write_text("model,task,score\n" + SCORES)
    from_folder, saved = stages.weigh_source(settings.output, None, None, [])
    assert saved == settings.output / "weights.json"
    from_csv, saved = stages.weigh_source(settings.output / "scores.csv", tmp_path / "w.json", None, [])
    assert saved == tmp_path / "w.json"
    from_config, saved = stages.weigh_source(tmp_path / "mixture.yaml", None, None, [])
    assert saved == settings.output / "weights.json"
    assert from_csv.as_dict() == from_folder.as_dict()
    assert from_config.as_dict() == {**from_csv.as_dict(), "text": 1.5}
    elsewhere = settings.output.rename(tmp_path / "elsewhere")
    moved, saved = stages.weigh_source(tmp_path / "mixture.yaml", elsewhere, None, [])
    assert saved == elsewhere / "weights.json"
    assert moved.as_dict() == from_config.as_dict()
    elsewhere.rename(settings.output)
    hotter, _ = stages.weigh_source(tmp_path / "mixture.yaml", None, 3.0, [])
    assert hotter.temperature == 3.0


def test_options_that_do_not_apply_are_refused(tmp_path: Path) -> None:
    settings = config(tmp_path, ["a", "b"], {})
    settings.output.mkdir()
    (settings.output / "scores.csv").write_text("model,task,score\n" + SCORES)
    with pytest.raises(ConfigError, match="it is the folder to work in"):
        stages.weigh_source(tmp_path / "mixture.yaml", tmp_path / "w.json", None, [])
    with pytest.raises(ConfigError, match="is for a CSV"):
        stages.weigh_source(tmp_path / "mixture.yaml", None, None, ["a"])
    with pytest.raises(ConfigError, match="no such task"):
        stages.weigh_source(settings.output / "scores.csv", None, None, ["z"])


def test_nothing_to_weigh_is_said_with_what_to_do(tmp_path: Path) -> None:
    settings = config(tmp_path, ["a"], {})
    with pytest.raises(ConfigError, match="run `cotbal prepare` first"):
        stages.weigh(settings)
    with pytest.raises(ConfigError, match="no such file"):
        stages.weigh_source(tmp_path, None, None, [])
