"""The whole preparation under DeepSpeed's ZeRO, through the driver: what one process gives."""

import json
from pathlib import Path

import pytest
from support.units import launched

pytest.importorskip("deepspeed", reason="the package deepspeed is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.deepspeed]


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_gives_what_one_process_gives(prepared_alone: Path, tmp_path: Path, stage: int) -> None:
    settings = {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        # Every parameter is split, however small.
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    (tmp_path / "zero.json").write_text(json.dumps(settings))
    config = launched.write_job(
        tmp_path / "m", training={"deepspeed": str(tmp_path / "zero.json")}, launch={"processes": 2}
    )
    variables = {**launched.environment(tmp_path / "steps"), "DS_ACCELERATOR": "cpu"}
    launched.finish(launched.start(config, variables), config)
    launched.assert_same_result(config, prepared_alone, tolerance=2e-4)
    held = launched.held_by_ranks(tmp_path / "steps", "mini", launched.steps_in_all(config, "mini"))
    assert set(held) == {"0", "1"}, "two processes train together"
    trained = sum(tensor.numel() for tensor in launched.models(config)["mini"].values())
    # Split between them, and padded a little.
    assert all(0.3 * trained < each < 0.7 * trained for each in held.values()), (held, trained)
