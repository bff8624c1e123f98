"""Runs the set-ups of `setups.py`.

`run(setup)` trains a set-up's steps and measures the largest deviation of loss and gradients from `step_oracle`,
which computes every step in one process, in float64, from full logits. Those with several ranks run inside
`setup_worker.py`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from support.models.tiny_families import FAMILIES, tiny_family
from support.models.tiny_models import tiny_llama, tiny_llava, tiny_qwen2_5_vl
from support.tune import engines
from support.tune.setup_data import make_batch
from support.tune.setups import ADAPTERS, SetUp
from support.tune.step_oracle import Gradients, largest_deviation, oracle_step, plain_step, to_double

WEIGHTS = (0.5, 2.0, 0.1)
LIMITS = {"float64": 1e-10, "float32": 1e-5}
MODELS: dict[str, Callable[..., Any]] = {
    "llava": lambda **options: tiny_llava(**options)[0],
    "qwen2_5_vl": lambda **options: tiny_qwen2_5_vl(**options)[0],
    "llama": lambda **options: tiny_llama(**options)[0],
    **{name: (lambda name=name: tiny_family(name)) for name in FAMILIES},
}


@dataclass(frozen=True)
class Outcome:
    """Largest relative deviations from the oracle over the steps of a set-up, and what is accepted."""

    name: str
    loss: float
    gradient: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.loss <= self.limit and self.gradient <= self.limit


def build(setup: SetUp, *, balance: Callable[[Any], Any] = lambda model: None) -> Any:
    """The model of a set-up, alike on every call; `balance` is applied where its order among the adapters is."""
    options = {"tie_word_embeddings": True} if setup.change == "tied embeddings" else {}
    model = MODELS[setup.model](**options)
    if setup.precision == "float64":
        to_double(model)
    if setup.change == "frozen head":
        model.get_output_embeddings().requires_grad_(False)
    if setup.balanced_first:
        balance(model)
    if setup.adapter:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(4)
        # Random B as well: with the usual zeros the adapter would add nothing.
        config = LoraConfig(r=3, lora_alpha=5, init_lora_weights=False, **ADAPTERS[setup.adapter])
        model = get_peft_model(model, config, autocast_adapter_dtype=False)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_magnitude_vector" in name:  # starts where DoRA changes nothing
                    parameter.mul_(torch.rand_like(parameter) + 0.5)
        if setup.precision == "float64":
            model.double()
    if not setup.balanced_first:
        balance(model)
    if setup.checkpointing:
        enable = (
            getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        )
        enable({"use_reentrant": False})
    return model.train()


def run(setup: SetUp, folder: Path) -> Outcome | None:
    """Train the steps of a set-up and compare each with the oracle; None on ranks other than 0."""
    # Without checkpointing: it computes again outside the part of the model that `to_double` keeps double.
    stock = build(dataclasses.replace(setup, checkpointing=False))
    batches = [
        [make_batch(stock, setup.data, rank, number) for number in range(setup.micro_batches)]
        for rank in range(setup.ranks)
    ]
    rank = dist.get_rank() if setup.ranks > 1 else 0
    steps = engines.ENGINES[setup.engine](setup, build, batches[rank], WEIGHTS, folder)
    if rank > 0:
        return None
    worst = Outcome(setup.name, 0.0, 0.0, LIMITS.get(setup.precision, 0.0))
    for number, (loss, gradients) in enumerate(steps):
        first = number * setup.accumulation
        together = [batch for own in batches for batch in own[first : first + setup.accumulation]]
        expected = oracle_step(stock, together, WEIGHTS, normalize=setup.normalize)
        found = _deviation(loss, gradients, *expected)
        limit = worst.limit
        if setup.precision == "bf16":
            plain = plain_step(stock, together, WEIGHTS, dtype=torch.bfloat16)
            limit = max(limit, 2 * max(_deviation(*plain, *expected)) + 2.0**-8)
        worst = dataclasses.replace(
            worst, loss=max(worst.loss, found[0]), gradient=max(worst.gradient, found[1]), limit=limit
        )
    return worst


def _deviation(loss: float, gradients: Gradients, true_loss: float, true: Gradients) -> tuple[float, float]:
    return abs(loss - true_loss) / abs(true_loss), largest_deviation(gradients, true)


def run_on_ranks(
    names: Sequence[str],
    ranks: int,
    *,
    launcher: str = "torchrun",
    extra: Mapping[str, str] | None = None,
    timeout: float = 900,
) -> list[Outcome]:
    """Run set-ups, and checks of `rank_checks`, in one job of `ranks` processes, one after the other.

    One rank is a process of its own, started by no launcher. `extra` are environment variables.
    """
    environment = {**os.environ, **(extra or {}), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        wanted, found = Path(folder, "wanted.json"), Path(folder, "found.json")
        wanted.write_text(json.dumps(list(names)))
        job = [
            sys.executable,
            *_launch(launcher, ranks),
            str(here / "setup_worker.py"),
            str(wanted),
            str(found),
        ]
        paths = os.pathsep.join(
            [str(here.parents[1]), str(here.parents[2]), environment.get("PYTHONPATH", "")]
        )
        done = subprocess.run(
            job,
            env={**environment, "PYTHONPATH": paths},
            timeout=timeout,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{ranks} ranks failed with {done.returncode}:\n{done.stderr[-8000:]}")
        return [Outcome(**entry) for entry in json.loads(found.read_text())]


def _launch(launcher: str, ranks: int) -> list[str]:
    if ranks == 1:
        return []
    if launcher == "torchrun":
        return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    # --cpu would start a single process; that no GPU is used, the script says.
    several = [
        "--multi_gpu",
        "--num_processes",
        str(ranks),
        "--num_machines",
        "1",
        "--main_process_port",
        "0",
    ]
    return ["-m", "accelerate.commands.launch", *several]
