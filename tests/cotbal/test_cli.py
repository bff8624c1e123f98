"""The command line: help that teaches, mistakes in plain words, exit codes."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cotbal.cli import app, main
from cotbal.method.weights import TaskWeights

COMMANDS = (
    "plan",
    "run",
    "prepare",
    "weigh",
    "import",
    "tune",
    "report",
    "status",
    "doctor",
    "demo",
    "unit",
    "export",
)
ROOT = Path(__file__).parents[2]


def output(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


@pytest.fixture
def config(tmp_path: Path) -> Path:
    task = {"name": "vqa", "train": "a.json", "validation": "v.json", "metric": "exact_match"}
    path = tmp_path / "mixture.yaml"
    path.write_text(yaml.safe_dump({"model": "some/model", "output": "out", "tasks": [task]}))
    return path


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    rows = [
        *("mini,a,0.5", "mini,b,0.4", "plus_a,a,0.7", "plus_a,b,0.45", "plus_b,a,0.6", "plus_b,b,0.8"),
    ]
    path = tmp_path / "scores.csv"
    path.write_text("\n".join(["model,task,score", *rows]) + "\n")
    return path


def test_every_command_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = output(capsys)
    for command in COMMANDS:
        assert f" {command} " in text
    named = {command.name or command.callback.__name__ for command in app.registered_commands}  # type: ignore[union-attr]
    assert named == {*COMMANDS}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help_says_what_it_does(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = output(capsys)
    assert f"Usage: cotbal {command}" in text
    if command != "doctor":
        assert (
            f"Example: {'torchrun --nproc-per-node 8 -m ' if command == 'unit' else ''}cotbal {command}"
            in text
        )


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert output(capsys).startswith("cotbal ")


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    assert "cotbal demo" in output(capsys)


@pytest.mark.parametrize("command", ["run", "prepare", "tune", "report", "status"])
def test_a_missing_config_is_a_mistake_of_the_user(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(tmp_path / "none.yaml")]) == 2
    text = output(capsys)
    assert "error:" in text
    assert "no such file" in text
    assert "Traceback" not in text


def test_debug_shows_the_traceback_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path / "none.yaml"), "--debug"]) == 2
    text = output(capsys)
    assert "Traceback" in text
    assert "no such file" in text


def test_an_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--fast"]) == 2
    assert "--fast" in output(capsys)


def test_missing_data_files_are_named_with_their_keys(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", str(config)]) == 2
    text = output(capsys)
    assert "tasks[0].train: no such file" in text
    assert "tasks[0].validation: no such file" in text
    assert not (config.parent / "out" / "units").exists()


@pytest.mark.parametrize(
    ("key", "value", "parts"),
    [
        ("training", {"learning_rat": 1}, ["training.learning_rat", "learning_rate"]),
        ("comparison", {"strategies": ["dwaa"]}, ["comparison.strategies[0]", "dwa"]),
        (
            "comparison",
            {"strategies": [{"name": "dwa", "windw": 1}]},
            ["comparison.strategies[0]", "windw", "window"],
        ),
    ],
)
def test_mistakes_are_found_before_anything_runs(
    config: Path, key: str, value: object, parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(config.read_text() + yaml.safe_dump({key: value}))
    assert main(["run", str(config)]) == 2
    text = output(capsys)
    for part in parts:
        assert part in text


def test_an_unknown_metric_is_found_before_anything_runs(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(config.read_text().replace("exact_match", "exactmatch"))
    assert main(["run", str(config)]) == 2
    text = output(capsys)
    assert "tasks[0].metric" in text
    assert "exact_match" in text


def test_status_of_nothing(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(config)]) == 0
    text = output(capsys)
    assert "plus_vqa" in text
    assert "0 of 3 units done" in text
    assert not (config.parent / "out").exists()


def test_weigh_takes_scores_made_elsewhere(scores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = scores.parent / "w.json"
    assert main(["weigh", str(scores), "--output", str(target), "--temperature", "1"]) == 0
    weights = TaskWeights.load(target)
    assert weights.temperature == 1.0
    assert sum(weights.values) == pytest.approx(2.0)
    assert f"a {weights.values[0]:.3f}" in output(capsys)


def test_weigh_honours_lower_is_better(scores: Path) -> None:
    assert main(["weigh", str(scores), "--output", str(scores.parent / "higher.json")]) == 0
    flipped = (
        scores.read_text().replace("plus_a,a,0.7", "plus_a,a,0.3").replace("plus_b,a,0.6", "plus_b,a,0.4")
    )
    scores.write_text(flipped)
    lower = scores.parent / "lower.json"
    assert main(["weigh", str(scores), "--output", str(lower), "--lower-is-better", "a"]) == 0
    higher = TaskWeights.load(scores.parent / "higher.json")
    # Contributions do not know a metric's direction: mirrored around mini they are the same.
    assert TaskWeights.load(lower).outward == pytest.approx(higher.outward)


def test_weigh_refuses_unknown_tasks_and_missing_files(
    scores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weigh", str(scores), "--lower-is-better", "c"]) == 2
    assert "no such task; it has a, b" in output(capsys)
    assert main(["weigh", str(scores.parent / "no.csv")]) == 2
    assert "no such file" in output(capsys)


def test_a_bad_temperature_is_a_mistake_of_the_user(scores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weigh", str(scores), "--temperature", "0"]) == 2
    assert "temperature" in output(capsys)


def test_errors_inside_are_shown_whole(
    monkeypatch: pytest.MonkeyPatch, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        {}["missing"]

    monkeypatch.setattr("cotbal.config.schema.load_config", broken)
    assert main(["status", str(config)]) == 1
    text = output(capsys)
    assert "Traceback" in text
    assert "error inside cotbal" in text


def test_it_is_a_module_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cotbal", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: " in done.stdout


def test_weights_go_into_a_folder_that_is_made_or_the_path_is_refused_at_once(
    scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new" / "deep" / "w.json"
    assert main(["weigh", str(scores), "-o", str(target)]) == 0
    assert TaskWeights.load(target).tasks == ("a", "b")
    capsys.readouterr()
    assert main(["weigh", str(scores), "-o", str(tmp_path)]) == 2
    assert "is a folder; give a file, such as" in output(capsys)
    assert main(["weigh", str(scores), "-o", str(scores / "w.json")]) == 2
    assert "its folder cannot be made (File exists)" in output(capsys)


def test_warnings_keep_their_brackets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(
        "model;task;score\nmini;a;,5\nmini;b;,5\nplus_a;a;,5\nplus_a;b;,6\nplus_b;a;,6\nplus_b;b;,8\n"
    )
    assert main(["weigh", str(path)]) == 0
    assert "V[mini] 0.5, V[plus_a] 0.5" in output(capsys)


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.ENOSPC, "Make room there"), (errno.EIO, "have it looked at")]
)
def test_a_disks_error_names_the_file_and_says_what_to_do(
    number: int,
    advice: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(path: Path) -> bytes:
        raise OSError(number, os.strerror(number))

    scores = tmp_path / "scores.csv"
    scores.write_text("model,task,score\n")
    monkeypatch.setattr(Path, "read_bytes", fail)
    assert main(["weigh", str(scores)]) == 2
    text = " ".join(output(capsys).split())
    assert str(scores) in text
    assert f"{advice}; the same command then goes on" in text
    assert "Traceback" not in text
