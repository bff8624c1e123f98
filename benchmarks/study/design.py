"""What the study trains: its mixtures, seeds, sizes and strategies. Nothing here trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotbal.config.schema import Config
from cotbal.demo.mixtures import MIXTURES, DemoMixture
from cotbal.demo.pretrain import Pretraining
from cotbal.demo.scenes import Split

__all__ = [
    "AGAIN",
    "CHEAPER",
    "DECLARED",
    "DESCRIBED",
    "FULL",
    "OF_CHEAPER",
    "SHORT",
    "SIZES",
    "VARIANTS",
    "Size",
    "mixtures",
    "study_config",
]

# What the declared contrasts need comes first, so that an interrupted study is whole in what it has.
DECLARED = ("ew", "cotbal", "cotbal-seeds", "cotbal-hybrid")
VARIANTS: Mapping[str, str] = {
    "cotbal": "CoTBal, weights of one preparation, another one for each seed as far as there are",
    "cotbal-outward": "of these only w_out",
    "cotbal-inward": "of these only w_in",
    "cotbal-difficulty": "of these only w_dif: without contributions",
    "cotbal-contributions": "without difficulty: the mean of w_out and w_in",
    "cotbal-without-outward": "the mean of w_in and w_dif",
    "cotbal-without-inward": "the mean of w_out and w_dif",
    "cotbal-plain": "contributions by the paper's formula, however small a denominator is (`weighing.plain`)",
    "cotbal-shrunk": "one preparation, `shrink`",
    "cotbal-hybrid": "one preparation, `preparation.estimator: hybrid`",
    "cotbal-seeds": "weights averaged over all preparations",
    "cotbal-seeds-shrunk": "these with `shrink`",
    "cotbal-half": "one preparation of half of everything",
    "cotbal-half-twice": "weights averaged over two of these, which train as much as a full one",
}
# Their weights come from the cheaper preparations.
OF_CHEAPER = ("cotbal-half", "cotbal-half-twice")
# Equal weights once more with seeds of their own: how far chance alone puts a strategy from `ew`.
AGAIN = "ew-again"
AGAIN_SEEDS_FROM = 200
DESCRIBED = (
    *(label for label in VARIANTS if label not in DECLARED),
    *("tla", "rlw", "dwa", "igb", "uw-so", "famo", "coba", "square", "fastmix"),
)


# Cheaper preparations beside the full ones, as settings of `preparation`: half of everything costs half.
CHEAPER: Mapping[str, Mapping[str, float]] = {"half": {"mini_fraction": 0.5, "plus_fraction": 0.5}}
# Seeds of their own, so that no full preparation shares an order or a subset with a cheaper one.
CHEAPER_SEEDS_FROM = 100


@dataclass(frozen=True)
class Size:
    """How large a version of the study is.

    Attributes:
        name: `short` or `full`.
        scenes: pictures of each split; a task of the uneven mixture asks about its share of those of training.
        seeds: of the tuned units.
        preparation_seeds: of each mixture's preparations; where they are fewer than the tuned seeds, they go round.
        pretraining: of the base model that all mixtures share.
        mini_fraction: of the preparation.
        batch: samples of a step.
        options: of strategies whose published windows are longer than these trainings.
        threads: of each process.
    """

    name: str
    scenes: Mapping[Split, int]
    seeds: tuple[int, ...]
    preparation_seeds: Mapping[str, tuple[int, ...]]
    pretraining: Pretraining
    mini_fraction: float
    batch: int
    options: Mapping[str, Mapping[str, Any]]
    threads: int = 1


# A base that describes well, so that even the smallest task is learned when it is tuned alone.
PRETRAINING = Pretraining(scenes=10_000, vision_steps=600, alignment_steps=6000)
SHORT = Size(
    "short",
    scenes={"train": 320, "validation": 300, "test": 800},
    seeds=(0, 1, 2, 3, 4),
    preparation_seeds={name: tuple(range(6)) for name in MIXTURES},
    pretraining=PRETRAINING,
    mini_fraction=0.25,
    batch=4,
    options={
        "dwa": {"window": 10},
        "igb": {"base_start": 30, "base_stop": 60},
        "coba": {"warmup": 30, "history": 60},
    },
)
FULL = Size(
    "full",
    scenes={"train": 800, "validation": 600, "test": 1600},
    seeds=tuple(range(10)),
    preparation_seeds={name: tuple(range(10)) for name in MIXTURES},
    pretraining=PRETRAINING,
    mini_fraction=0.125,
    batch=4,
    options={"dwa": {"window": 20}, "igb": {"base_start": 60, "base_stop": 120}},
)
SIZES: Mapping[str, Size] = {size.name: size for size in (SHORT, FULL)}


def study_config(
    folder: Path,
    mixture: DemoMixture,
    size: Size,
    *,
    strategies: Sequence[str],
    seeds: Sequence[int] | None = None,
    weights: Mapping[str, Mapping[str, float]] | None = None,
    single_task: bool = True,
    preparation: str = "",
) -> Config:
    """The config of one mixture's units.

    Args:
        folder: of the mixture, with `data` and `results`; the base model lies beside it.
        strategies: labels of `DECLARED` and `DESCRIBED`.
        seeds: of the tuned units; None: all.
        weights: of the variants of CoTBal that are tuned; None: 1, for a config that only reads results.
        single_task: whether tasks are tuned alone too.
        preparation: label of `CHEAPER`; its units have a folder of their own. Empty: the full one.
    """
    seeds_of_it = size.preparation_seeds[mixture.name]
    cheaper = CHEAPER.get(preparation, {})
    if cheaper:
        seeds_of_it = tuple(CHEAPER_SEEDS_FROM + seed for seed in seeds_of_it)
    values: dict[str, Any] = {
        "name": f"study-{mixture.name}",
        "model": {"name": str(folder.parent / "base"), "freeze": ["vision_tower"]},
        "output": str(folder / (f"results-{preparation}" if preparation else "results")),
        "seed": 0,
        "check": "quick",
        "tasks": [
            {
                "name": name,
                **{split: f"data/{split}/{name}.json" for split in ("train", "validation", "test")},
                "images": "data/images",
                "metric": task.metric,
                "max_new_tokens": task.max_new_tokens,
            }
            for name, task in mixture.tasks.items()
        ],
        "preparation": {
            "mini_fraction": size.mini_fraction * cheaper.get("mini_fraction", 1.0),
            "plus_fraction": cheaper.get("plus_fraction", 1.0),
            "seeds": list(seeds_of_it),
            "keep_models": not cheaper,
        },
        "training": {
            "num_train_epochs": 1,
            "learning_rate": 1.0e-3,
            "adam_beta2": 0.95,
            "weight_decay": 0.01,
            "per_device_train_batch_size": size.batch,
            "save_strategy": "no",
            "use_cpu": True,
        },
        "evaluation": {"batch_size": 400, "workers": 0},
        "comparison": {
            "strategies": [_strategy(label, mixture, size, weights) for label in strategies],
            "single_task": single_task,
            "keep_models": False,
            "seeds": list(size.seeds if seeds is None else seeds),
        },
        "launch": {"processes": 1},
    }
    return Config.model_validate(values, context={"base": folder})


def _strategy(
    label: str, mixture: DemoMixture, size: Size, weights: Mapping[str, Mapping[str, float]] | None
) -> dict[str, Any]:
    if label in VARIANTS:
        given = dict.fromkeys(mixture.tasks, 1.0) if weights is None else dict(weights[label])
        return {"name": "fixed", "label": label, "weights": given}
    return {"name": label, **size.options.get(label, {})}


def mixtures() -> tuple[DemoMixture, ...]:
    """The mixtures of the study, in order."""
    return tuple(MIXTURES.values())
