"""How near the weights of cheaper preparations come to those that many full ones agree on, and what they cost."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.study.variants import Preparations, half_weights, quietly_measured, variant_weights
from cotbal.method.arrays import FloatArray
from cotbal.method.scores import ScoreTable

__all__ = ["estimator_values"]


def estimator_values(
    found: Preparations, seeds: Sequence[int], cheaper: Mapping[str, ScoreTable]
) -> dict[str, Any]:
    """Distances of every estimator's weights and contributions to a target.

    The target of an estimate that comes from a full preparation is the mean of the other full ones, that of a cheaper
    one the mean of all: their seeds are others.

    Args:
        found: the full preparations.
        seeds: of them.
        cheaper: label -> scores of its preparations.
    """
    weights: dict[str, list[list[float]]] = {}
    for seed in seeds:
        for label, row in variant_weights(found, seed).items():
            weights.setdefault(label, []).append([round(value, 5) for value in row.values()])
    full = np.array(weights["cotbal"])
    target = (full.sum(axis=0) - full) / (len(seeds) - 1)
    by_metric = _contributions(found.generated)
    by_tokens = _contributions(found.tokens)
    others = np.stack([_mean(np.delete(by_metric, row, axis=0)) for row in range(len(seeds))])
    distances: dict[str, dict[str, Any]] = {"equal": _distance(np.ones_like(full) - target)}
    for label, contributions in (
        ("cotbal", by_metric),
        ("cotbal-hybrid", by_tokens),
        ("cotbal-shrunk", None),
    ):
        distances[label] = _distance(np.array(weights[label]) - target)
        if contributions is not None:
            distances[label] |= _agreement(contributions, others)
    for label, table in cheaper.items():
        each = half_weights(table)
        pairs = np.stack([each[[a, b]].mean(axis=0) for a, b in itertools.combinations(range(len(each)), 2)])
        both = _contributions(table)
        distances[label] = _distance(each - full.mean(axis=0)) | _agreement(
            both, np.broadcast_to(_mean(by_metric), both.shape)
        )
        distances[f"{label} x 2"] = _distance(pairs - full.mean(axis=0))
    between = full - full.mean(axis=0)
    return {
        "weights": {label: np.mean(rows, axis=0).round(4).tolist() for label, rows in weights.items()},
        "by_seed": weights["cotbal"],
        "spread": round(float(np.sqrt((between**2).sum() / between.size * len(seeds) / (len(seeds) - 1))), 4),
        "distance": distances,
        "pulled": {
            f"{share:.2f}": round(float(np.sqrt(np.mean((1 + share * (full - 1) - target) ** 2))), 4)
            for share in np.arange(0, 1.01, 0.25)
        },
        "hybrid_from_full": _distance(np.array(weights["cotbal-hybrid"]) - full),
        "undefined": [len(quietly_measured(found.generated.of_seed(seed)).undefined) for seed in seeds],
    }


def _contributions(table: ScoreTable) -> FloatArray:
    """C of every seed, [S, N, N]; NaN on the diagonal and in undefined columns."""
    return np.stack([quietly_measured(table.of_seed(seed)).contributions for seed in table.seeds])


def _mean(values: FloatArray) -> FloatArray:
    """Over the first axis, of what is defined; NaN where nothing is."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=0)
    total = np.where(defined, values, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _agreement(contributions: FloatArray, target: FloatArray) -> dict[str, float]:
    """Correlations of C with its target, and of both with the means of their columns taken off."""
    raw, centred = [], []
    for one, wanted in zip(contributions, target, strict=True):
        there = ~(np.isnan(one) | np.isnan(wanted))
        raw.append((one[there], wanted[there]))
        one, wanted = (np.where(there, matrix, np.nan) for matrix in (one, wanted))
        centred.append(((one - _mean(one))[there], (wanted - _mean(wanted))[there]))
    return {"c": _correlation(raw), "c_centred": _correlation(centred)}


def _correlation(parts: Sequence[tuple[FloatArray, FloatArray]]) -> float:
    one, other = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    return round(float(np.corrcoef(one, other)[0, 1]), 3)


def _distance(apart: FloatArray) -> dict[str, float]:
    return {
        "rms": round(float(np.sqrt(np.mean(apart**2))), 4),
        "largest": round(float(np.abs(apart).max()), 4),
    }
