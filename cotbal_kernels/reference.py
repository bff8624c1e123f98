"""The losses and their gradients in NumPy float64, token by token, written from the formulas.

The oracle that every implementation is held to. It shares no code with them and is slow on purpose.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ReferenceLoss:
    """Loss, statistics and gradients; ``grad_scores`` is that of the hidden states or of the logits.

    Attributes:
        loss: scalar, or labels-shaped for reduction "none".
        task_loss_sum, task_tokens, task_correct: [T].
        sample_loss_sum, sample_tokens: [B].
        grad_scores: [..., H] or [..., V].
        grad_weight: [V, H]; ``None`` for logits.
        grad_bias: [V]; ``None`` for logits.
        token_log_probabilities, token_entropy: labels-shaped, 0 where unsupervised.
    """

    loss: Array
    task_loss_sum: Array
    task_tokens: Counts
    task_correct: Counts
    sample_loss_sum: Array
    sample_tokens: Counts
    grad_scores: Array
    grad_weight: Array | None = None
    grad_bias: Array | None = None
    token_log_probabilities: Array | None = None
    token_entropy: Array | None = None


@dataclass(frozen=True)
class Token:
    """One supervised token: where its hidden state is, what it must predict, what it counts."""

    index: tuple[int, ...]
    target: int
    task: int
    sample: int
    weight: float


def linear_cross_entropy(
    hidden: npt.ArrayLike,
    weight: npt.ArrayLike,
    labels: npt.ArrayLike,
    task_ids: npt.ArrayLike | None = None,
    task_weights: npt.ArrayLike | None = None,
    *,
    bias: npt.ArrayLike | None = None,
    **options: Any,
) -> ReferenceLoss:
    """Loss, statistics and gradients of an output head; the options are those of :func:`cross_entropy`.

    >>> import cotbal_kernels as ck
    >>> made = ck.reference.linear_cross_entropy([[1.0], [2.0]], [[0.0], [0.0]], [0, -100])
    >>> round(float(made.loss), 6), made.grad_weight.tolist()
    (0.693147, [[-0.5], [0.5]])
    """
    states, head = np.asarray(hidden, np.float64), np.asarray(weight, np.float64)
    offset = np.zeros(len(head)) if bias is None else np.asarray(bias, np.float64)
    scores = np.zeros((*states.shape[:-1], len(head)))
    # States of unsupervised tokens may hold infinities; their logits are never looked at.
    with np.errstate(all="ignore"):
        for index in np.ndindex(states.shape[:-1]):
            scores[index] = head @ states[index] + offset
    made = cross_entropy(scores, labels, task_ids, task_weights, **options)
    grad_hidden, grad_weight, grad_bias = np.zeros_like(states), np.zeros_like(head), np.zeros_like(offset)
    for index in np.ndindex(states.shape[:-1]):
        slopes = made.grad_scores[index]
        if slopes.any():
            grad_hidden[index] = head.T @ slopes
            grad_weight += np.outer(slopes, states[index])
            grad_bias += slopes
    return replace(made, grad_scores=grad_hidden, grad_weight=grad_weight, grad_bias=grad_bias)


def cross_entropy(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    task_ids: npt.ArrayLike | None = None,
    task_weights: npt.ArrayLike | None = None,
    *,
    num_tasks: int | None = None,
    sample_ids: npt.ArrayLike | None = None,
    token_weights: npt.ArrayLike | None = None,
    ignore_index: int = -100,
    shift: bool = False,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    reduction: str = "mean",
    normalizer: float | None = None,
    class_weights: npt.ArrayLike | None = None,
    label_smoothing: float = 0.0,
    lse_square_scale: float = 0.0,
    upstream: npt.ArrayLike = 1.0,
    upstream_log_probabilities: npt.ArrayLike = 0.0,
    upstream_entropy: npt.ArrayLike = 0.0,
) -> ReferenceLoss:
    """Loss, statistics and gradient of logits.

    Args:
        upstream: gradient of the loss: a scalar, or labels-shaped for reduction "none".
        upstream_log_probabilities, upstream_entropy: gradients of the two outputs per token, labels-shaped.

    >>> import cotbal_kernels as ck
    >>> made = ck.reference.cross_entropy([[2.0, 0.0], [0.0, 2.0]], [0, 0], reduction="sum")
    >>> round(float(made.loss), 4), made.task_correct.tolist()
    (2.2539, [1])
    """
    scores, classes = np.asarray(logits, np.float64), np.asarray(labels, np.int64)
    weights = None if task_weights is None else np.asarray(task_weights, np.float64)
    tasks = 1
    if task_ids is not None:
        tasks = len(weights) if weights is not None else int(num_tasks or 0)
    samples = int(np.prod(classes.shape[:-1]))
    if sample_ids is not None:
        samples = int(np.max(np.asarray(sample_ids), initial=-1)) + 1
    by_class = None if class_weights is None else np.asarray(class_weights, np.float64)
    tokens = [
        token if by_class is None else replace(token, weight=token.weight * float(by_class[token.target]))
        for token in supervised_tokens(
            classes, task_ids, weights, sample_ids, token_weights, ignore_index, shift
        )
    ]

    total = sum(token.weight for token in tokens)
    divided_by = 1.0
    if reduction == "mean":
        divided_by = total if normalizer is None else float(normalizer)
        if divided_by == 0 and total == 0:
            divided_by = 1.0
    losses = np.zeros(classes.shape)
    task_loss_sum, sample_loss_sum = np.zeros(tasks), np.zeros(samples)
    task_tokens, task_correct = np.zeros(tasks, np.int64), np.zeros(tasks, np.int64)
    sample_tokens = np.zeros(samples, np.int64)
    slopes = np.zeros_like(scores)
    incoming = np.broadcast_to(np.asarray(upstream, np.float64), classes.shape if reduction == "none" else ())
    log_probabilities, entropies = np.zeros(classes.shape), np.zeros(classes.shape)
    to_log_probabilities = np.broadcast_to(np.asarray(upstream_log_probabilities, np.float64), classes.shape)
    to_entropy = np.broadcast_to(np.asarray(upstream_entropy, np.float64), classes.shape)
    for token in tokens:
        row = scores[token.index], token.target, logit_scale, softcap
        nll, hit, slope = token_loss(*row)
        loss, loss_slope, entropy, entropy_slope = token_terms(*row, label_smoothing, lse_square_scale)
        losses[token.index] = token.weight * loss
        log_probabilities[token.index], entropies[token.index] = -nll, entropy
        task_loss_sum[token.task] += nll
        task_tokens[token.task] += 1
        task_correct[token.task] += hit
        sample_loss_sum[token.sample] += nll
        sample_tokens[token.sample] += 1
        arriving = incoming[token.index] if reduction == "none" else incoming[()]
        slopes[token.index] = (
            arriving * token.weight / divided_by * loss_slope
            - to_log_probabilities[token.index] * slope
            + to_entropy[token.index] * entropy_slope
        )
    total_loss = losses if reduction == "none" else np.asarray(losses.sum() / divided_by)
    return ReferenceLoss(
        total_loss,
        task_loss_sum,
        task_tokens,
        task_correct,
        sample_loss_sum,
        sample_tokens,
        slopes,
        token_log_probabilities=log_probabilities,
        token_entropy=entropies,
    )


def supervised_tokens(
    labels: npt.NDArray[np.int64],
    task_ids: npt.ArrayLike | None,
    task_weights: Array | None,
    sample_ids: npt.ArrayLike | None,
    token_weights: npt.ArrayLike | None,
    ignore_index: int,
    shift: bool,
) -> Iterator[Token]:
    """The supervised tokens in order of position."""
    rows = list(np.ndindex(labels.shape[:-1]))
    for number, row in enumerate(rows):
        for place in range(1 if shift else 0, labels.shape[-1]):
            here = (*row, place)
            if labels[here] == ignore_index:
                continue
            sample = number if sample_ids is None else int(np.asarray(sample_ids)[here])
            task = 0
            if task_ids is not None:
                ids = np.asarray(task_ids)
                if ids.shape == labels.shape:
                    task = int(ids[here])
                elif sample_ids is not None:
                    task = int(ids[sample])
                else:
                    task = int(ids[row])
            weight = 1.0 if task_weights is None else float(task_weights[task])
            if token_weights is not None:
                weight *= float(np.asarray(token_weights, np.float64)[here])
            index = (*row, place - 1) if shift else here
            yield Token(index, int(labels[here]), task, sample, weight)


def token_loss(
    raw: Array, target: int, logit_scale: float, softcap: float | None
) -> tuple[float, bool, Array]:
    """nll, whether the first largest logit is the target's, and the gradient of the raw logits."""
    scores = logit_scale * raw
    slope = np.full_like(scores, logit_scale)
    if softcap is not None:
        bent = np.tanh(scores / softcap)
        scores = softcap * bent
        slope = slope * (1 - bent**2)
    largest = scores.max()
    log_sum = np.log(np.exp(scores - largest).sum())
    nll = float(largest - scores[target] + log_sum)
    probabilities = np.exp(scores - largest - log_sum)
    probabilities[target] = np.expm1(-nll)
    return nll, int(scores.argmax()) == target, slope * probabilities


def token_terms(
    raw: Array,
    target: int,
    logit_scale: float,
    softcap: float | None,
    label_smoothing: float,
    lse_square_scale: float,
) -> tuple[float, Array, float, Array]:
    """The loss of a token with its penalties, the entropy, and the gradients of both by the raw logits."""
    nll, _, nll_slope = token_loss(raw, target, logit_scale, softcap)
    scores = logit_scale * raw
    inner = np.full_like(scores, logit_scale)
    if softcap is not None:
        bent = np.tanh(scores / softcap)
        scores = softcap * bent
        inner = inner * (1 - bent**2)
    largest = scores.max()
    lse = float(largest + np.log(np.exp(scores - largest).sum()))
    logs = scores - lse
    probabilities = np.exp(logs)
    surprise = np.where(probabilities > 0, probabilities * np.where(probabilities > 0, logs, 0.0), 0.0)
    entropy = -float(surprise.sum())
    loss, slope = (1 - label_smoothing) * nll, (1 - label_smoothing) * nll_slope
    if label_smoothing:
        loss += label_smoothing * (lse - float(scores.mean()))
        slope = slope + label_smoothing * inner * (probabilities - 1 / len(scores))
    loss += lse_square_scale * lse**2
    slope = slope + 2 * lse_square_scale * lse * inner * probabilities
    return loss, slope, entropy, -inner * (surprise + entropy * probabilities)
