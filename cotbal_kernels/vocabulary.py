"""Output heads whose classes lie on several ranks: one exchange of three values per row; products stay local."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from cotbal_kernels import linear, products
from cotbal_kernels.backends.base import Backend, RowTerms
from cotbal_kernels.backends.registry import resolve
from cotbal_kernels.call import LinearBackwardCall, LinearCall, LinearResult, compute_dtype
from cotbal_kernels.reduction import reduced_loss, row_weight_gradient

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class Shard:
    """The classes of this rank.

    Attributes:
        start, stop: the first class, and the one after the last.
        group: the ranks that share the vocabulary; None: all.
    """

    start: int
    stop: int
    group: ProcessGroup | None


class Joined(NamedTuple):
    """What the exchange leaves on every rank, [R].

    Attributes:
        nll, hits: over the whole vocabulary.
        lse: the logsumexp over it.
        share: of the probability, this rank's classes'.
        owned: 1 where the target is one of this rank's classes, else 0.
    """

    nll: Tensor
    hits: Tensor
    lse: Tensor
    share: Tensor
    owned: Tensor


def local_targets(targets: Tensor, shard: Shard, share: Tensor | None = None) -> Tensor:
    """Targets among this rank's classes; 0 where another rank has the target, so that the row is read; -1 padding.

    Once the `share` of this rank's classes is known, a row where it is 0 and the target another's is padding, too:
    its gradient is 0, also where all classes are masked by -inf and have no softmax among themselves.
    """
    here = (targets >= shard.start) & (targets < shard.stop)
    elsewhere = torch.zeros_like(targets) if share is None else torch.where(share == 0, -1, 0)
    return torch.where(targets < 0, -1, torch.where(here, targets - shard.start, elsewhere))


def join(nll: Tensor, hits: Tensor, lse: Tensor, peak: Tensor, targets: Tensor, shard: Shard) -> Joined:
    """Join the rows of all ranks: one all-gather of three values per row.

    Of each row a rank sends the logsumexp over its classes, the nll among them (which counts where it has the
    target), and its largest logit (infinity where it has the target and a class of its own comes before it). In one
    more row go the ranges, so that gaps and overlaps are found, and everybody knows who has a target. A sum would
    not do: maxima and sums cannot travel in one reduction without losing the digits of what is far from the maximum.
    """
    owned = (targets >= shard.start) & (targets < shard.stop)
    # Classes that are all masked have no sum, no share of the whole, and no likely target.
    masked = peak == -torch.inf
    lse, nll = torch.where(masked, -torch.inf, lse), torch.where(masked, torch.inf, nll)
    mine = torch.stack((lse, nll, torch.where(owned & ~hits, torch.inf, peak)), dim=1)
    # Class numbers are exact in f32 up to 2^24; the first is sent in two halves to be exact beyond.
    frame = mine.new_tensor([[shard.start % 2**20, shard.start // 2**20, shard.stop - shard.start]])
    sent = torch.cat((mine, frame))
    received = [torch.empty_like(sent) for _ in range(dist.get_world_size(shard.group))]
    dist.all_gather(received, sent, group=shard.group)
    everyone = torch.stack(received)
    starts = everyone[:, -1, 0].to(torch.int64) + everyone[:, -1, 1].to(torch.int64) * 2**20
    stops = starts + everyone[:, -1, 2].to(torch.int64)
    whole = _tiles(starts, stops)
    outside = targets >= stops.max()
    if outside.device.type == "cpu" and bool(outside.any()):
        raise ValueError(
            f"labels hold {int(targets.max())}, but the ranks of the group have the classes 0 to "
            f"{int(stops.max()) - 1}"
        )
    lses, nlls, peaks = everyone[:, :-1].unbind(2)
    total = lses.logsumexp(0)
    has_target = (targets >= starts.unsqueeze(1)) & (targets < stops.unsqueeze(1))
    owner = has_target.to(torch.uint8).argmax(0, keepdim=True)
    its_lse, its_nll, its_peak = (each.gather(0, owner).squeeze(0) for each in (lses, nlls, peaks))
    # Before the owner a class as likely takes the hit away, after it only one that is likelier.
    before = starts.unsqueeze(1) < starts[owner.squeeze(0)]
    others = torch.arange(len(received), device=lse.device).unsqueeze(1) != owner
    beaten = others & torch.where(before, peaks >= its_peak, peaks > its_peak)
    real = targets >= 0
    # The logs of sums differ by what the other ranks add: exact near a probability of 1.
    added = torch.where(others, (lses - its_lse).exp(), 0).sum(0).log1p()
    broken = torch.where(whole & ~outside, 0.0, torch.nan).to(nll.dtype)
    return Joined(
        torch.where(real, its_nll + added + broken, 0),
        real & torch.isfinite(its_peak) & ~beaten.any(0),
        total,
        (lse - total).exp() + broken,
        owned.to(nll.dtype),
    )


def _tiles(starts: Tensor, stops: Tensor) -> Tensor:
    """Whether the ranges cover 0 up to the largest class once; on a CPU anything else is refused."""
    order = starts.argsort()
    first, last = starts[order], stops[order]
    whole = (first[0] == 0) & (first[1:] == last[:-1]).all() & (last > first).all()
    if whole.device.type == "cpu" and not bool(whole):
        ranges = ", ".join(
            f"({start}, {stop})" for start, stop in zip(first.tolist(), last.tolist(), strict=True)
        )
        raise ValueError(
            f"vocab_range: the ranks of the group have {ranges}; together they must cover 0 to V once"
        )
    return whole


def _terms(joined: Joined, lse_square_scale: float, scale: Tensor | None) -> RowTerms:
    """The gradient over the whole vocabulary, seen from this rank's classes, as terms of a row scale of 0."""
    softmax, target = joined.share, joined.owned
    if lse_square_scale:
        softmax = softmax * (1 + 2 * lse_square_scale * joined.lse)
    if scale is not None:
        softmax, target = softmax * scale, target * scale
    return RowTerms(softmax_shift=softmax, target_shift=target)


def _forward(call: LinearCall, shard: Shard) -> tuple[LinearResult, Joined]:
    backend = _backend(call)
    count, dtype = call.targets.shape[0], compute_dtype(call.hidden.dtype)
    here = call._replace(targets=local_targets(call.targets, shard))
    nll, lse, peak = torch.empty((3, count), dtype=dtype, device=call.hidden.device).unbind()
    hits = torch.empty(count, dtype=torch.bool, device=call.hidden.device)
    described = RowTerms(lse=lse, peak=peak)
    kept = linear.empty_rows(
        call.hidden,
        count if call.mode == "keep" else 0,
        call.weight.shape[0],
        products.product_dtype(call.hidden.dtype, call.hidden.device),
    )
    for part, logits in linear.logits_by_chunk(backend, here, kept if call.mode == "keep" else None):
        nll[part], hits[part] = linear.row_pass(backend, here, logits, part, None, None, described)
    joined = join(nll, hits, lse, peak, call.targets, shard)
    if call.mode == "keep":
        none = torch.zeros(count, dtype=dtype, device=call.hidden.device)
        known = call._replace(targets=local_targets(call.targets, shard, joined.share))
        linear.row_pass(
            backend, known, kept, slice(None), kept, none, _terms(joined, call.lse_square_scale, None)
        )
    losses = None
    if call.lse_square_scale:
        real = (call.targets >= 0).to(dtype)
        losses = joined.nll + call.lse_square_scale * real * joined.lse.square()
    sums = backend.row_statistics(
        joined.nll,
        joined.hits,
        call.targets,
        call.tasks,
        call.samples,
        call.row_weights,
        call.normalizer,
        call.num_tasks,
        call.num_samples,
        call.reduction,
        losses,
    )
    minimised = joined.nll if losses is None else losses
    loss = reduced_loss(minimised, sums, call.rows, call.row_weights, call.reduction, call.hidden.shape[0])
    nothing = call.hidden.new_empty(0)
    result = LinearResult(
        loss,
        sums.normalizer,
        joined.nll,
        minimised,
        nothing,
        sums.task_loss_sum,
        sums.task_tokens,
        sums.task_correct,
        sums.sample_loss_sum,
        sums.sample_tokens,
        kept,
        nothing,
        nothing,
        nothing,
    )
    return result, joined


def _backend(call: LinearCall) -> Backend:
    device = call.hidden.device
    return resolve(call.impl, device, products.product_dtype(call.hidden.dtype, device))


class VocabularyParallelFunction(torch.autograd.Function):
    """The loss over a sharded head; the hidden states' gradient is summed over the group, the head's stays local."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, row_weights: Tensor | None, rest: Any
    ) -> tuple[Tensor, ...]:
        call, shard = rest
        call = call._replace(hidden=hidden, weight=weight, bias=bias, row_weights=row_weights)
        with torch.autocast(hidden.device.type, enabled=False):
            made, joined = _forward(call, shard)
        ctx.call = type(call)._make(None if isinstance(each, Tensor) else each for each in call)
        ctx.shard = shard
        ctx.divided_by_weights = call.reduction == "mean" and call.normalizer is None
        ctx.trains_weights = row_weights is not None and row_weights.requires_grad
        ctx.save_for_backward(
            hidden, weight, bias, row_weights, call.rows, call.targets, made.normalizer, made.losses, made.loss,
            made.logits_gradient, *joined,
        )  # fmt: skip
        ctx.mark_non_differentiable(*made[1:])
        ctx.set_materialize_grads(False)
        return tuple(made)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        if upstream is None:
            return (None,) * 5
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "create_graph=True: the gradients of cotbal_kernels' losses are not themselves differentiable"
            )
        (hidden, weight, bias, row_weights, rows, targets, normalizer, losses, loss, kept, *joined) = (
            ctx.saved_tensors
        )
        call: LinearCall = ctx.call
        shard: Shard = ctx.shard
        wide = compute_dtype(hidden.dtype)
        backend = resolve(call.impl, hidden.device, products.product_dtype(hidden.dtype, hidden.device))
        scale = backend.row_scale(upstream, rows, row_weights, normalizer, call.reduction, wide)
        keeps = call.mode == "keep"
        here = LinearBackwardCall(
            upstream,
            hidden,
            weight,
            bias,
            rows,
            local_targets(targets, shard, Joined._make(joined).share),
            row_weights,
            normalizer,
            kept,
            call.padded,
            call.logit_scale,
            call.softcap,
            call.reduction,
            call.mode,
            call.wants_hidden and not keeps,
            call.wants_weight,
            call.wants_bias,
            call.memory_budget,
            call.impl,
        )
        to_hidden: Tensor | None = None
        with torch.autocast(hidden.device.type, enabled=False):
            if keeps:
                made = linear.gradients_from_kept(backend, here, scale)
                if call.wants_hidden:
                    partial = products.hidden_gradient(kept, weight).to(wide)
                    # In f32, before the one rounding; of the supervised rows alone.
                    dist.all_reduce(partial, group=shard.group)
                    to_hidden = backend.scatter_rows(
                        partial, rows, targets, scale, hidden.shape[0], hidden.dtype
                    )
            else:
                terms = _terms(Joined._make(joined), call.lse_square_scale, scale)
                made = linear.chunked_gradients(
                    backend, here, torch.zeros_like(scale), wide, None, None, terms
                )
                if call.wants_hidden:
                    dist.all_reduce(made.hidden, group=shard.group)
                    to_hidden = made.hidden.to(hidden.dtype)
        to_weights = None
        if ctx.trains_weights:
            to_weights = row_weight_gradient(
                upstream, rows, targets, row_weights, losses, loss, normalizer, call.reduction,
                ctx.divided_by_weights,
            )  # fmt: skip
        return (
            to_hidden,
            made.weight.to(weight.dtype) if call.wants_weight else None,
            made.bias.to(weight.dtype) if call.wants_bias else None,
            to_weights,
            None,
        )


def linear_cross_entropy(call: LinearCall, shard: Shard) -> LinearResult:
    """As `ops.linear_cross_entropy`, of this rank's part of a head; every rank of the group must call it."""
    tensors = (call.hidden, call.weight, call.bias, call.row_weights)
    rest = (call._replace(hidden=None, weight=None, bias=None, row_weights=None), shard)  # type: ignore[arg-type]
    return LinearResult._make(VocabularyParallelFunction.apply(*tensors, rest))  # type: ignore[no-untyped-call]
