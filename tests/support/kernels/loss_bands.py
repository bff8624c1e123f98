"""How far an exact computation in working precision may be off: a priori error bounds of every result of a case."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from support.kernels.budgets import TINY, UNIT, Array, exact
from support.kernels.loss_strategies import LossCase
from torch import Tensor

from cotbal_kernels import reference


def tokens_of(case: LossCase) -> list[reference.Token]:
    def array(value: Tensor | None) -> Any:
        return None if value is None else value.numpy()

    by_class = case.class_weights
    return [
        token if by_class is None else replace(token, weight=token.weight * float(by_class[token.target]))
        for token in reference.supervised_tokens(
            case.labels.numpy(),
            array(case.task_ids),
            array(case.task_weights),
            array(case.sample_ids),
            array(case.token_weights),
            case.ignore_index,
            case.shift,
        )
    ]


def loss_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass(frozen=True, eq=False)
class Bands:
    """What one rounding in the inputs' dtype, and the working precision, may change in each result."""

    nll: Array
    loss: Array
    scores: Array
    weight: Array
    bias: Array
    near_ties: list[bool]
    entropy: Array


def bands(case: LossCase, expected: reference.ReferenceLoss, rounded_logits: bool) -> Bands:
    """A priori error bounds.

    With ``rounded_logits`` an output head's logits, their bias added, are rounded once to the inputs' dtype: each is
    off by half an ulp of itself, whatever the plain computation's happen to be. What follows is as sensitive to that
    as to any other error of a logit: the nll by at most twice the largest, a probability by that times itself.
    """
    u, unit, tiny = UNIT[loss_dtype(case.dtype)], UNIT[case.dtype], TINY[case.dtype]
    tokens = tokens_of(case)
    classes = case.classes
    scores = exact(case.scores)
    weight = None if case.weight is None else exact(case.weight)
    count, positions = len(tokens), case.labels.shape
    total = sum(token.weight for token in tokens)
    normalizer = 1.0
    if case.reduction == "mean":
        normalizer = total if case.normalizer is None else case.normalizer
    upstream = exact(case.upstream.to(loss_dtype(case.dtype)))
    nll_band, near_ties = np.zeros(count), []
    entropy_band = np.zeros(count)
    arrivals = {
        name: exact(case.token_upstreams[name].to(loss_dtype(case.dtype)))
        if name in case.token_upstreams
        else np.zeros(positions)
        for name in ("log_probabilities", "entropy")
    }
    loss_band = np.zeros(positions if case.reduction == "none" else ())
    score_band = np.zeros(scores.shape)
    weight_band = np.zeros(0) if weight is None else np.zeros(weight.shape)
    bias_band = np.zeros(classes)
    for number, token in enumerate(tokens):
        state = scores[token.index]
        if weight is None:
            raw, raw_error = state, np.zeros(classes)
        else:
            offset = np.zeros(classes) if case.bias is None else exact(case.bias)
            raw = weight @ state + offset
            raw_error = (state.size + 2) * u * (np.abs(weight) @ np.abs(state) + np.abs(offset))
            if rounded_logits:
                raw_error = raw_error + unit * (np.abs(raw) + raw_error) + tiny
        z = case.logit_scale * raw
        error = abs(case.logit_scale) * raw_error
        transformed = case.logit_scale != 1.0 or case.softcap is not None or weight is not None
        slope = abs(case.logit_scale) * np.ones(classes)
        if case.softcap is not None:
            bent = np.tanh(z / case.softcap)
            z, slope = case.softcap * bent, slope * (1 - bent**2)
        with np.errstate(invalid="ignore"):
            error = np.where(np.isfinite(z), error + (6 * u * np.abs(z) if transformed else 0.0), 0.0)
        delta = float(error.max(initial=0.0))
        row = raw, token.target, case.logit_scale, case.softcap
        nll, _, nll_slopes = reference.token_loss(*row)
        loss, loss_slopes, entropy, entropy_slopes = reference.token_terms(
            *row, case.label_smoothing, case.lse_square_scale
        )
        others = np.delete(z, token.target)
        near_ties.append(bool(others.size and delta > 0 and abs(others.max() - z[token.target]) <= 4 * delta))
        nll_band[number] = 2 * delta + (classes + 16) * u + 4 * u * (abs(nll) + abs(float(z[token.target])))
        arriving = float(upstream[token.index] if case.reduction == "none" else upstream)
        scale = abs(arriving * token.weight / normalizer) if normalizer else 0.0
        to_nll, to_entropy = (float(arrivals[name][token.index]) for name in arrivals)
        largest = z.max()
        lse = float(largest + np.log(np.exp(z - largest).sum()))
        # Every term below is a sum over classes, and each of its errors one of a logit's or of working precision.
        entropy_band[number] = 2 * delta * (1 + entropy) + (classes + 16) * u * (4 + entropy)
        penalty_band = case.lse_square_scale * 2 * abs(lse) * (delta + 8 * u * (1 + abs(lse)))
        if case.label_smoothing:
            penalty_band += case.label_smoothing * (
                2 * delta + (classes + 16) * u * (1 + abs(lse) + float(np.abs(z).mean()))
            )
        probability = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        onto = np.zeros(classes)
        onto[token.target] = 1.0
        relative = 2 * delta + (classes + 24) * u
        cap_error = (
            0.0 if case.softcap is None else (2 * delta / case.softcap + 8 * u) * abs(case.logit_scale)
        )
        dz = (
            scale * np.abs(loss_slopes)
            + abs(to_nll) * np.abs(nll_slopes)
            + abs(to_entropy) * np.abs(entropy_slopes)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            surprise = np.where(probability > 0, np.abs(np.log(probability)), 0.0)
        share = scale * (1 + 2 * case.lse_square_scale * abs(lse)) + abs(to_nll)
        parts = (
            probability * (share + abs(to_entropy) * (surprise + entropy))
            + onto * (scale + abs(to_nll))
            + scale * case.label_smoothing / classes
        )
        coefficient = scale * 2 * case.lse_square_scale * (delta + 8 * u * (1 + abs(lse))) + abs(
            to_entropy
        ) * (2 * delta + entropy_band[number] + 16 * u * (1 + abs(lse)))
        dz_error = (
            parts * (slope * relative + cap_error)
            + probability * slope * coefficient
            + (count + 16) * u * (dz + slope * parts)
        )
        rounding = unit * dz + dz_error + tiny * max(1.0, scale)
        if weight is None:
            score_band[token.index] += rounding
        else:
            summed = rounding + (classes + count + 8) * u * dz
            grad = np.abs(expected.grad_scores[token.index])
            score_band[token.index] += summed @ np.abs(weight) + unit * grad + tiny
            weight_band += np.outer(summed, np.abs(state) + tiny)
            bias_band += summed
        size = token.weight * (nll_band[number] + penalty_band + 4 * u * (abs(nll) + abs(loss)))
        if case.reduction == "none":
            loss_band[token.index] += size
        elif normalizer:
            loss_band = loss_band + (size + (count + 8) * u * token.weight * abs(loss)) / abs(normalizer)
    if weight is not None and expected.grad_weight is not None and expected.grad_bias is not None:
        weight_band += unit * np.abs(expected.grad_weight) + tiny
        bias_band += unit * np.abs(expected.grad_bias) + tiny
    return Bands(nll_band, loss_band, score_band, weight_band, bias_band, near_ties, entropy_band)


def raw_scores(case: LossCase, token: reference.Token) -> Array:
    state = exact(case.scores)[token.index]
    if case.weight is None:
        return state
    raw: Array = exact(case.weight) @ state
    return raw if case.bias is None else raw + exact(case.bias)
