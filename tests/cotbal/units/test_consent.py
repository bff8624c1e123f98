"""Strangers' configs: nothing they bring runs, and nothing leaves the machine, without the user's word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cotbal.config.schema import Config, load_config
from cotbal.config.yaml_file import ConfigError
from cotbal.units.consent import require_consent, wishes


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def write(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("t.json", "v.json"):
        (folder / name).write_text("[]")
    task = {"name": "a", "train": "t.json", "validation": "v.json", "metric": "stranger:score"}
    values = {"model": "m/m", "output": "out", "tasks": [task], **changes}
    (folder / "mixture.yaml").write_text(yaml.safe_dump(values))
    (folder / "stranger.py").write_text(
        "import pathlib\npathlib.Path(__file__).with_name('I RAN').touch()\nscore = lambda p, r: [0.0] * len(p)\n"
    )
    return folder / "mixture.yaml"


def config(folder: Path, **changes: Any) -> Config:
    return load_config(write(folder, **changes))


def cotbal(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cotbal", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=300,
    )


@pytest.mark.parametrize("command", ["status", "report", "prepare"])
def test_no_command_runs_a_strangers_code(tmp_path: Path, command: str) -> None:
    path = write(tmp_path)
    done = cotbal(tmp_path, command, str(path))
    assert not (tmp_path / "I RAN").exists()
    assert "Traceback" not in done.stderr
    if command == "prepare":
        assert done.returncode == 2
        assert "tasks[0].metric runs stranger:score: add --allow-code" in done.stderr
    else:
        assert done.returncode == 0, done.stderr


def test_with_the_users_word_it_runs(tmp_path: Path) -> None:
    done = cotbal(tmp_path, "prepare", str(write(tmp_path)), "--allow-code")
    assert (tmp_path / "I RAN").exists()
    assert done.returncode == 2  # there is no usable record


def test_every_wish_is_listed_with_what_allows_it(tmp_path: Path) -> None:
    wanted = config(
        tmp_path,
        model={"name": "m/m", "trust_remote_code": True, "revision": "abc"},
        training={"push_to_hub": True, "hub_token": "hf_secret", "report_to": ["tensorboard", "wandb"]},
        preparation={"training": {"hub_model_id": "them/stolen"}},
    )
    with pytest.raises(ConfigError) as caught:
        require_consent(wanted)
    for part in (
        "tasks[0].metric runs stranger:score: add --allow-code",
        "code that comes with m/m at abc: add --allow-code",
        "training.push_to_hub names True: add --allow-remote",
        "training.hub_token is given: add --allow-remote",
        "training.report_to sends to wandb: add --allow-remote",
        "preparation.training.hub_model_id names them/stolen: add --allow-remote",
    ):
        assert part in str(caught.value)
    assert "hf_secret" not in str(caught.value)
    assert "tensorboard" not in str(caught.value)


def test_a_config_that_asks_for_nothing_needs_no_word(tmp_path: Path) -> None:
    task = {"name": "a", "train": "t.json", "validation": "v.json", "metric": "iou@0.5"}
    plain = config(tmp_path, tasks=[task], training={"report_to": "none"})
    require_consent(plain)
    assert wishes(plain).code == wishes(plain).remote == ()
    assert not (tmp_path / "state").exists()


def test_a_server_needs_a_word_for_its_command_or_its_distance(tmp_path: Path) -> None:
    task = {"name": "a", "train": "t.json", "validation": "v.json", "metric": "iou@0.5"}

    def wanted(**server: Any) -> Config:
        return config(tmp_path, tasks=[task], evaluation={"engine": "openai", "server": server})

    with pytest.raises(ConfigError, match=r"server\.command runs vllm serve .*: add --allow-code"):
        require_consent(wanted(command=["vllm", "serve", "{model}", "--port", "{port}"]), allow_remote=True)
    away = wanted(base_url="https://example.com/v1", api_key_env="MY_KEY")
    with pytest.raises(
        ConfigError, match=r"pictures to https://example\.com/v1, .*MY_KEY: add --allow-remote"
    ):
        require_consent(away, allow_code=True)
    assert wishes(wanted(base_url="http://localhost:8000/v1")) == wishes(config(tmp_path, tasks=[task]))


def test_the_word_is_remembered_for_this_folder_and_this_wish(tmp_path: Path) -> None:
    require_consent(config(tmp_path / "a"), allow_code=True)
    require_consent(config(tmp_path / "a"))
    with pytest.raises(ConfigError, match="stranger:score"):
        require_consent(config(tmp_path / "b"))
    other = {"name": "a", "train": "t.json", "validation": "v.json", "metric": "stranger:other"}
    with pytest.raises(ConfigError, match="stranger:other"):
        require_consent(config(tmp_path / "a", tasks=[other]))
    with pytest.raises(ConfigError, match="add --allow-remote"):
        require_consent(config(tmp_path / "a", training={"push_to_hub": True}), allow_code=True)


def test_one_word_does_not_stand_for_the_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="add --allow-code"):
        require_consent(config(tmp_path), allow_remote=True)
    with pytest.raises(ConfigError, match="add --allow-code"):
        require_consent(config(tmp_path))


def test_a_word_that_comes_with_the_folder_counts_for_nothing(tmp_path: Path) -> None:
    """A stranger's output folder cannot bring its own permission."""
    require_consent(config(tmp_path / "a"), allow_code=True)
    state = tmp_path / "state" / "cotbal" / "allowed.json"
    stolen = state.read_text()
    state.unlink()
    (tmp_path / "a" / "out").mkdir()
    for name in ("allowed.json", ".allowed.json"):
        (tmp_path / "a" / "out" / name).write_text(stolen)
    with pytest.raises(ConfigError, match="stranger:score"):
        require_consent(config(tmp_path / "a"))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"x": 1}', "[" * 100_000])
def test_a_damaged_memory_allows_nothing(tmp_path: Path, content: str) -> None:
    state = tmp_path / "state" / "cotbal" / "allowed.json"
    state.parent.mkdir(parents=True)
    state.write_text(content)
    with pytest.raises(ConfigError, match="stranger:score"):
        require_consent(config(tmp_path))
