"""`cotbal doctor --config`: the weights of a real mixture are shown to act, in one process and on ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from support.models.tiny_mixture import write_mixture
from support.units.adapter_jobs import adapter_mixture

from cotbal.cli import main
from cotbal.config.schema import load_config
from cotbal.tune import BalanceHandle
from cotbal.units import stages
from cotbal.units.self_check import check_weights, first_records

ROOT = Path(__file__).parents[3]
WRAP = {"transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]}


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixture(tmp_path_factory.mktemp("mixture") / "made")


def test_weights_of_a_config_act_and_nothing_is_left_behind(mixture: Path) -> None:
    config = load_config(mixture)
    before = sorted(mixture.parent.rglob("*"))
    weights = {"colour": 0.5, "count": 2.0, "text": 0.1}
    found, task = check_weights(config, weights)
    assert found.passed, str(found)
    assert task in weights
    assert found.task_share > 0.01
    assert found.stock_loss is not None
    assert sorted(mixture.parent.rglob("*")) == before


def test_weights_that_do_not_act_are_found(mixture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that takes no weight above 1."""
    original = BalanceHandle.__setattr__

    def deaf(handle: BalanceHandle, name: str, value: object) -> None:
        if name == "weights":
            value = torch.as_tensor(value, dtype=torch.float64).clamp(max=1.0)
        original(handle, name, value)

    monkeypatch.setattr(BalanceHandle, "__setattr__", deaf)
    found, _ = check_weights(load_config(mixture))
    assert not found.passed
    assert found.gradient_deviation > 0.1


def test_a_batch_has_every_task_in_turn(mixture: Path) -> None:
    records = first_records(load_config(mixture), 4)
    assert [record.task for record in records] == ["colour", "count", "text", "colour"]
    assert records[0] != records[3]
    assert len(first_records(load_config(mixture), 1)) == 3


def test_the_command_says_what_it_found(mixture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--config", str(mixture)]) == 0
    shown = capsys.readouterr().out
    assert "task weights act by the formula" in shown
    assert "normalizer of this step: rank 0: " in shown
    assert "Loss kernels" in shown


def test_the_command_fails_where_weights_do_not_act(
    mixture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found, task = check_weights(load_config(mixture))
    monkeypatch.setattr(
        stages, "check_weights", lambda config: (replace(found, gradient_deviation=0.5), task)
    )
    assert main(["doctor", "--config", str(mixture)]) == 1
    assert "DO NOT ACT" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{}, {"fsdp": "full_shard", "fsdp_config": {"version": 2, **WRAP}}],
    ids=["DDP", "FSDP2"],
)
def test_on_two_ranks(mixture: Path, settings: dict[str, object], tmp_path: Path) -> None:
    config = yaml.safe_load(mixture.read_text())
    config["training"] |= settings
    path = mixture.with_name(f"{tmp_path.name}.yaml")
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "cotbal", "doctor", "--config", str(path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert done.stdout.count("task weights act by the formula") == 1
    assert ", rank 1: " in done.stdout


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_a_configs_adapters_are_checked_too(tmp_path: Path) -> None:
    found, _ = check_weights(
        load_config(adapter_mixture(tmp_path / "made")), {"colour": 0.5, "count": 2.0, "text": 0.1}
    )
    assert found.passed, str(found)
    assert found.adapter_deviation is not None
    assert found.adapter_deviation < 1e-4
