"""Whole jobs with adapters, as a user starts them: LoRA, and LoRA on a base of 8 and of 4 bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from support.units.adapter_jobs import adapter_mixture, cotbal, with_model
from torch.distributed.checkpoint.filesystem import FileSystemReader
from transformers import AutoModelForImageTextToText

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]
JOBS: dict[str, dict[str, Any]] = {"lora": {}, "8 bits": {"quantization": 8}, "4 bits": {"quantization": 4}}


def change_training(path: Path, *, processes: int = 1, **training: Any) -> Path:
    values = yaml.safe_load(path.read_text())
    values["training"] |= training
    values["launch"] = {"processes": processes}
    path.write_text(yaml.safe_dump(values))
    return path


def adapter_of(config: Path, unit: str = "mini") -> dict[str, torch.Tensor]:
    return load_file(config.parent / "run" / "units" / unit / "model" / "adapter_model.safetensors")


@pytest.fixture(scope="module", params=JOBS)
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if "quantization" in JOBS[request.param]:
        pytest.importorskip("bitsandbytes")
    config = adapter_mixture(tmp_path_factory.mktemp("job") / "m", **JOBS[request.param])
    done = cotbal("run", config)
    assert done.returncode == 0, done.stdout + done.stderr
    return config


def test_a_whole_job_keeps_trained_adapters_alone(job: Path) -> None:
    units = sorted((job.parent / "run" / "units").iterdir())
    assert [unit.name for unit in units] == ["cotbal-seed0", "mini", "plus_colour", "plus_count"]
    for unit in units:
        files = {path.name for path in (unit / "model").iterdir()}
        assert "adapter_model.safetensors" in files
        assert not {"model.safetensors", "config.json"} & files
        # LoRA's second factor starts at 0: whatever is not 0 was trained.
        seconds = {name: t for name, t in adapter_of(job, unit.name).items() if "lora_B" in name}
        used = {name: t for name, t in seconds.items() if "vision_tower" not in name}
        assert used
        assert all(tensor.abs().max() > 1e-3 for tensor in used.values())
        manifest = json.loads((unit / "manifest.json").read_text())
        assert manifest["state"] == "scored"
        assert manifest["training"]["model"]["adapter"]["r"] == 4
        norms = [
            json.loads(line)["grad_norm"]
            for line in (unit / "log.jsonl").read_text().splitlines()
            if "grad_norm" in line
        ]
        assert min(norms) > 0.05


def test_a_changed_adapter_or_quantisation_makes_units_stale(job: Path) -> None:
    before = job.read_text()
    try:
        with_model(job, adapter={"r": 8, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "up_proj"]})
        done = cotbal("run", job)
        assert done.returncode == 2
        assert "model.adapter.r: was 4, is 8" in done.stderr
    finally:
        job.write_text(before)


def test_export_merges_into_a_folder_that_plain_from_pretrained_loads(job: Path, tmp_path: Path) -> None:
    done = cotbal("export", job, "cotbal-seed0", "-o", tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    assert ("unquantised" in done.stdout) == ("quantization" in job.read_text())
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "whole")
    base = AutoModelForImageTextToText.from_pretrained(job.parent / "model")
    adapted = PeftModel.from_pretrained(base, job.parent / "run/units/cotbal-seed0/model")
    ids = torch.arange(20, 60).view(2, 20)
    with torch.no_grad():
        found, wanted = merged(input_ids=ids).logits, adapted(input_ids=ids).logits
        with adapted.disable_adapter():
            plain = adapted(input_ids=ids).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert (wanted - plain).abs().max() > 1e-2
    again = cotbal("export", job, "cotbal-seed0", "-o", tmp_path / "whole")
    assert again.returncode == 2
    assert "is there already" in again.stderr
    unknown = cotbal("export", job, "mimi", "-o", tmp_path / "other")
    assert unknown.returncode == 2
    assert "mimi is no unit of this config; units that have: cotbal-seed0, mini" in unknown.stderr
    assert not (tmp_path / "other").exists()


def test_an_adapter_with_a_missing_or_foreign_tensor_is_refused_by_name(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from cotbal.config.schema import load_config
    from cotbal.config.yaml_file import ConfigError
    from cotbal.models.loading import load_model

    config = adapter_mixture(tmp_path / "m")
    model = load_config(config).model
    load_model(model).save_pretrained(tmp_path / "saved")
    tensors = load_file(tmp_path / "saved" / "adapter_model.safetensors")
    first = next(iter(tensors))
    for changed in (
        {name: t for name, t in tensors.items() if name != first},
        {**tensors, "base_model.model.lm_foot.lora_A.weight": torch.zeros(4, 32)},
    ):
        save_file(changed, tmp_path / "saved" / "adapter_model.safetensors")
        with pytest.raises(ConfigError, match=f"not a whole adapter.*({first}|lm_foot)"):
            load_model(model, tmp_path / "saved")


def test_an_adapters_folder_as_model_is_trained_on(tmp_path: Path) -> None:
    config = adapter_mixture(tmp_path / "m")
    assert cotbal("unit", config, "mini").returncode == 0
    start = tmp_path / "start"
    (config.parent / "run/units/mini/model").rename(start)
    with_model(config, name=str(start))
    refused = cotbal("unit", config, "mini", "--output", tmp_path / "second")
    assert refused.returncode == 2
    assert "is an adapter already" in refused.stderr
    with_model(config, adapter=None)
    done = cotbal("unit", config, "mini", "--output", tmp_path / "second")
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "second/units/mini/model/adapter_model.safetensors")
    before = load_file(start / "adapter_model.safetensors")
    assert found.keys() == before.keys()
    moved = max(float((found[name] - before[name]).abs().max()) for name in found)
    # Ten steps of Adam at this rate from where it was; a new first factor would be further off.
    assert 1e-4 < moved < 0.1


def test_processes_sharding_and_checkpointing_do_not_change_an_adapter(tmp_path: Path) -> None:
    alone = change_training(adapter_mixture(tmp_path / "alone"))
    assert cotbal("unit", alone, "mini").returncode == 0
    wanted = adapter_of(alone)
    ways: dict[str, tuple[int, dict[str, Any]]] = {
        "checkpointing": (1, {"gradient_checkpointing": True}),
        "reentrant": (
            1,
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        ),
        "ddp": (2, {}),
        "fsdp2": (2, {"fsdp": True}),
    }
    for name, (processes, training) in ways.items():
        config = change_training(adapter_mixture(tmp_path / name), processes=processes, **training)
        launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
        done = cotbal("unit", config, "mini", launcher=launcher if processes > 1 else ())
        assert done.returncode == 0, name + done.stderr
        found = adapter_of(config)
        assert found.keys() == wanted.keys()
        for key, tensor in found.items():
            # Sums in another order; Adam's first steps divide by their size.
            torch.testing.assert_close(
                tensor, wanted[key], rtol=0, atol=5e-4, msg=lambda text, n=name, k=key: f"{n} {k}: {text}"
            )


@pytest.mark.parametrize("processes", [1, 2], ids=["alone", "fsdp2"])
def test_a_killed_unit_goes_on_to_the_same_adapter(tmp_path: Path, processes: int) -> None:
    sharded = {"fsdp": True} if processes > 1 else {}
    config = change_training(adapter_mixture(tmp_path / "m"), processes=processes, **sharded)
    values = yaml.safe_load(config.read_text())
    values["preparation"]["training"] = {"num_train_epochs": 6}
    config.write_text(yaml.safe_dump(values))
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    launcher = torchrun if processes > 1 else ()
    undisturbed = cotbal("unit", config, "mini", "--output", tmp_path / "undisturbed", launcher=launcher)
    assert undisturbed.returncode == 0, undisturbed.stderr
    killer = Path(__file__).parents[1] / "support" / "units" / "killed_run.py"
    words = [
        str(killer),
        "cotbal.output.checkpoints:write_text",
        "1",
        "after",
        "--",
        "unit",
        str(config),
        "mini",
    ]
    killed = subprocess.run(
        [sys.executable, *launcher, *words],
        capture_output=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    assert killed.returncode == (-9 if processes == 1 else 1), killed.stderr
    checkpoints = list((config.parent / "run/units/mini/checkpoints").glob("checkpoint-*"))
    assert len(checkpoints) == 1
    if processes == 1:
        kept = set(load_file(checkpoints[0] / "adapter_model.safetensors"))
        assert not list(checkpoints[0].glob("model*.safetensors"))
    else:
        kept = set(
            FileSystemReader(checkpoints[0] / "pytorch_model_fsdp_0").read_metadata().state_dict_metadata
        )
    assert kept
    assert all("lora_" in name for name in kept)
    done = cotbal("unit", config, "mini", launcher=launcher)
    assert done.returncode == 0, done.stderr
    wanted = load_file(tmp_path / "undisturbed/units/mini/model/adapter_model.safetensors")
    found = adapter_of(config)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0 if processes == 1 else 2e-4)
