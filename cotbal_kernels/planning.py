"""From labels, task ids and weights to the rows a loss has to compute."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal

import torch
from torch import Tensor

from cotbal_kernels import checks
from cotbal_kernels.token_ids import MOST_SAMPLES, count_tasks, ranked_samples, tasks_of_tokens

IGNORE_INDEX: Final = -100
PADDING: Final = -1
_WORD: Final = 2**63


@dataclass(frozen=True, eq=False)
class Plan:
    """The supervised tokens of a batch, with the target, task and sample of each; made by :func:`plan`.

    A plan made on the CPU (by a collator, say) lets the loss run without reading anything back from the
    device. Rows are in ascending order of position; a plan padded to a capacity ends in rows of target -1 that
    all point at one unsupervised position.

    Attributes:
        rows: flat position of each row in the hidden states, i64 [R].
        targets: class each row must predict, i64 [R]; -1 marks padding.
        tasks: task of each row, i64 [R].
        samples: sample of each row, i64 [R]: its id, or where there are `sample_ids` its place among them.
        token_weights: factor of each row's weight, f32 or f64 [R]; ``None`` means ones.
        task_weights: weight of each task, f32 or f64 [T], used where a call brings none; ``None`` means ones.
        label_shape: shape of the labels the plan was made from.
        num_supervised: number of supervised tokens; R where the plan is not padded.
        num_tasks: T.
        num_samples: entries of the sample statistics: the number of samples, or the largest sample id plus 1.
        max_target: the largest target, -1 where there is none; checked against the vocabulary at each call.
        padded: whether the plan was padded to a capacity.
        sample_ids: the ids of the samples that have supervised tokens, ascending, i64 [S], where ids were given that
            are not 0 .. S-1 and the plan is not padded (its shapes must not depend on the ids); else `None`. Sums
            are made over S samples, however large their ids.
        label_digest: tells the labels the plan was made from from others.
    """

    rows: Tensor
    targets: Tensor
    tasks: Tensor
    samples: Tensor
    token_weights: Tensor | None
    task_weights: Tensor | None
    label_shape: tuple[int, ...]
    num_supervised: int
    num_tasks: int
    num_samples: int
    max_target: int
    padded: bool
    sample_ids: Tensor | None = None
    label_digest: int | None = None

    def _tensors(self) -> dict[str, Tensor]:
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in values if isinstance(value, Tensor)}

    def _with(self, moved: dict[str, Any]) -> Plan:
        return replace(self, **moved)

    def __getstate__(self) -> dict[str, Any]:
        # What is prepared of a plan for one process stays there.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Plan:
        """The same plan with its tensors on ``device``; itself when they are there already."""
        if self.rows.device == torch.device(device):
            return self
        tensors = self._tensors()
        return self._with(
            {name: each.to(device, non_blocking=non_blocking) for name, each in tensors.items()}
        )

    def made_from(self, labels: Tensor) -> bool:
        """Whether these may be the labels the plan was made from; labels on an accelerator are not looked at."""
        if self.label_digest is None or labels.device.type != "cpu" or torch.compiler.is_compiling():
            return True
        return self.label_digest == int(_digest(labels.reshape(-1).to(torch.int64)))

    def pin_memory(self) -> Plan:
        """The same plan in page-locked memory, so that ``.to(device, non_blocking=True)`` does not wait."""
        return self._with({name: each.pin_memory() for name, each in self._tensors().items()})

    @property
    def task_tokens(self) -> Tensor:
        """Number of supervised tokens of each task, i64 [T]."""
        counts = torch.zeros(self.num_tasks, dtype=torch.int64, device=self.rows.device)
        return counts.scatter_add_(0, self.tasks, (self.targets >= 0).to(torch.int64))

    def row_weights(
        self,
        task_weights: Tensor | Sequence[float] | None = None,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """Weight of each row, f32 [R] (f64 for f64 weights); padding 0.

        It is ``task_weights[task] * token_weight * class_weights[target]``, and what is left out is 1.

        Args:
            task_weights: [T]; the plan's own where ``None``.
            class_weights: [V], on the plan's device.
        """
        table = self.task_weights
        if task_weights is not None:
            table = checks.task_table(task_weights, self.num_tasks, self.rows.device)
        if table is None:
            values = torch.ones(self.rows.shape, dtype=torch.float32, device=self.rows.device)
        else:
            values = table[self.tasks]
        if self.token_weights is not None:
            values = values * self.token_weights
        if class_weights is not None:
            values = values * checks.as_weights(class_weights)[self.targets.clamp_min(0)]
        return torch.where(self.targets >= 0, values, 0) if self.padded else values

    def normalizer(
        self,
        task_weights: Tensor | Sequence[float] | None = None,
        normalize: Literal["weights", "tokens"] = "weights",
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """What the summed weighted loss is divided by: the sum of the row weights, or the number of tokens.

        Sum it over the micro-batches and ranks of an optimizer step and pass it as ``normalizer=``.

        Returns:
            A scalar f64 tensor on the plan's device; 0 where there is no weight, so that sums over micro-batches and
            ranks are right. (The losses take 0 over 0 for 0.)
        """
        if normalize == "tokens":
            return (self.targets >= 0).sum().to(torch.float64)
        if normalize != "weights":
            raise ValueError(f"normalize is {normalize!r}; accepted are 'weights' and 'tokens'")
        return self.row_weights(task_weights, class_weights).detach().to(torch.float64).sum()


def plan(
    labels: Tensor,
    task_ids: Tensor | None = None,
    task_weights: Tensor | Sequence[float] | None = None,
    *,
    num_tasks: int | None = None,
    sample_ids: Tensor | None = None,
    token_weights: Tensor | None = None,
    shift: bool = False,
    ignore_index: int = IGNORE_INDEX,
    vocab_size: int | None = None,
    capacity: int | None = None,
) -> Plan:
    """Find the supervised tokens of a batch, and the target, task and sample of each; check every value.

    Labels on the CPU cost no synchronisation. Labels on an accelerator cost exactly one.

    Args:
        labels: classes, integer [..., L]; ``ignore_index`` where a position is not supervised.
        task_ids: task of each sample, integer [...] (the labels' shape without its last dimension; with
            ``sample_ids``, [S]), or of each token, integer [..., L]. 1-D labels take one task id per token.
            ``None``: everything belongs to one task. Ids of unsupervised positions are not looked at.
        task_weights: weight of each task, finite and not negative, [T].
        num_tasks: T, at most 2^20; needed when ``task_ids`` come without ``task_weights``.
        sample_ids: sample of each token, integer [..., L], for rows that hold several samples; negative at
            positions that belong to none, below 2^24. ``None``: each row of the labels is a sample.
        token_weights: factor of each token's weight, finite and not negative, [..., L].
        shift: the label of a position is the class of the *next* position's input, as in ``labels`` of a
            causal language model: labels, task ids, sample ids and token weights move together by one
            position inside each row, and the first label of a row is not used.
        ignore_index: the label of unsupervised positions.
        vocab_size: number of classes, to check the labels against now; each call checks them anyway.
        capacity: pad the plan to this many rows, for shapes that must not change (CUDA graphs).

    Raises:
        TypeError: an argument is not a tensor of the kind accepted.
        ValueError: shapes or devices do not fit, or a value is out of range; the message names the
            argument, the position and the value.

    >>> import torch, cotbal_kernels as ck
    >>> labels = torch.tensor([[-100, 5, 7], [-100, -100, 3]])
    >>> made = ck.plan(labels, torch.tensor([0, 1]), num_tasks=2, shift=True)
    >>> made.rows.tolist(), made.targets.tolist(), made.tasks.tolist()
    ([0, 1, 4], [5, 7, 3], [0, 0, 1])
    """
    checks.integer("labels", labels)
    if labels.dim() == 0:
        raise ValueError("labels is a scalar; at least one dimension is needed, [..., L]")
    for name, companion in (("sample_ids", sample_ids), ("token_weights", token_weights)):
        if companion is not None:
            checks.same_shape_and_device(name, companion, "labels", labels)
    if sample_ids is not None:
        checks.integer("sample_ids", sample_ids)
    if token_weights is not None:
        checks.floating("token_weights", token_weights)
    if not -_WORD <= ignore_index < _WORD:
        raise ValueError(f"ignore_index is {ignore_index}; a 64-bit number is needed")
    if vocab_size is not None and not 1 <= vocab_size < _WORD:
        raise ValueError(f"vocab_size is {vocab_size}; a 64-bit number of at least 1 is needed")
    num_tasks = count_tasks(task_ids, task_weights, num_tasks)
    table = None if task_weights is None else checks.task_table(task_weights, num_tasks, labels.device)

    if torch.compiler.is_compiling():
        return _traced(
            labels,
            task_ids,
            table,
            num_tasks,
            sample_ids,
            token_weights,
            shift,
            ignore_index,
            vocab_size,
            capacity,
        )
    length = max(labels.shape[-1], 1)
    tasks = None if task_ids is None else tasks_of_tokens(labels, task_ids, sample_ids)
    samples = None if sample_ids is None else sample_ids.reshape(-1).to(torch.int64)
    # Wide before they are compared: in 8 bits, ignore_index would be some other number.
    classes = labels.reshape(-1).to(torch.int64)
    supervised = (classes != ignore_index).view(labels.shape)
    if shift:
        supervised[..., :1] = False
    flat = supervised.reshape(-1)

    bad_label = classes < 0 if vocab_size is None else (classes < 0) | (classes >= vocab_size)
    nothing = torch.full((), -1, dtype=torch.int64, device=labels.device)
    ranked = None if samples is None or capacity is not None else ranked_samples(samples, flat)
    facts = torch.stack(
        (
            flat.sum(),
            _largest(torch.where(flat, classes, PADDING)),
            nothing if samples is None else _largest(samples),
            _first(flat & bad_label),
            nothing if tasks is None else _first(flat & ((tasks < 0) | (tasks >= num_tasks))),
            nothing if samples is None else _first(flat & (samples < 0)),
            nothing if token_weights is None else _first(flat & ~checks.is_weight(token_weights.reshape(-1))),
            nothing if table is None else _first(~checks.is_weight(table)),
            nothing if ranked is None else ranked.begins.sum(),
            _digest(classes),
        )
    )
    # The one place that waits for the device.
    (
        count,
        max_target,
        max_sample,
        label_at,
        task_at,
        sample_at,
        token_at,
        weight_at,
        distinct,
        digest,
    ) = facts.tolist()

    if label_at >= 0:
        limits = "negative" if vocab_size is None else f"outside [0, {vocab_size})"
        checks.refuse("labels", labels, label_at, f"{limits} and not ignore_index ({ignore_index})")
    if task_at >= 0 and tasks is not None:
        checks.refuse("task_ids", tasks.reshape(labels.shape), task_at, f"outside [0, {num_tasks})")
    if sample_at >= 0 and sample_ids is not None:
        checks.refuse("sample_ids", sample_ids, sample_at, "negative at a supervised token")
    if max_sample >= MOST_SAMPLES and sample_ids is not None and samples is not None:
        checks.refuse(
            "sample_ids",
            sample_ids,
            int(samples.argmax()),
            f"statistics have an entry for each id up to the largest; accepted: up to {MOST_SAMPLES - 1}, so number "
            "the samples of the batch from 0",
        )
    if token_at >= 0 and token_weights is not None:
        checks.refuse("token_weights", token_weights, token_at, "not a finite number >= 0")
    if weight_at >= 0 and table is not None:
        checks.refuse("task_weights", table, weight_at, "not a finite number >= 0")
    if capacity is not None and not count <= capacity <= flat.numel():
        raise ValueError(
            f"capacity is {capacity} for {count} supervised tokens among {flat.numel()} positions; "
            f"give one between the two"
        )

    padding = 0 if capacity is None else capacity - count
    sources = torch.nonzero_static(flat, size=count).reshape(-1)
    rows = sources - 1 if shift else sources
    if padding:
        unsupervised = torch.ones_like(flat).index_fill_(0, rows, False).to(torch.uint8).argmax()
        rows = torch.cat((rows, unsupervised.expand(padding)))
    known: Tensor | None = None
    if samples is not None and ranked is not None and distinct < max_sample + 1:
        known = ranked.ids(distinct)
        samples = ranked.places()
    factors = None if token_weights is None else checks.as_weights(token_weights).reshape(-1)[sources]
    return Plan(
        rows=rows,
        targets=_padded(classes[sources], padding, PADDING),
        tasks=_padded(torch.zeros_like(sources) if tasks is None else tasks[sources], padding, 0),
        samples=_padded(
            torch.div(sources, length, rounding_mode="floor") if samples is None else samples[sources],
            padding,
            0,
        ),
        token_weights=None if factors is None else _padded(factors, padding, 0),
        task_weights=table,
        label_shape=tuple(labels.shape),
        num_supervised=count,
        num_tasks=num_tasks,
        num_samples=math.prod(labels.shape[:-1]) if samples is None else max_sample + 1,
        max_target=max_target,
        padded=capacity is not None,
        sample_ids=known,
        label_digest=digest,
    )


def _traced(
    labels: Tensor,
    task_ids: Tensor | None,
    table: Tensor | None,
    num_tasks: int,
    sample_ids: Tensor | None,
    token_weights: Tensor | None,
    shift: bool,
    ignore_index: int,
    vocab_size: int | None,
    capacity: int | None,
) -> Plan:
    """The plan in a graph that a compiler traces: one operator finds the rows, and checks, when the graph runs."""
    for name, given in (("sample_ids", sample_ids), ("capacity", capacity)):
        if given is not None:
            raise NotImplementedError(
                f"{name} under torch.compile: shapes would depend on its values; make the plan outside of the graph"
            )
    tasks = None if task_ids is None else tasks_of_tokens(labels, task_ids, None)
    weights = None if table is None else table.detach()
    factors = None if token_weights is None else token_weights.detach()
    sources = torch.ops.cotbal_kernels.supervised_positions(
        labels,
        task_ids,
        weights,
        num_tasks,
        factors,
        shift,
        ignore_index,
        -1 if vocab_size is None else vocab_size,
    )
    return Plan(
        rows=sources - 1 if shift else sources,
        targets=labels.reshape(-1).to(torch.int64)[sources],
        tasks=torch.zeros_like(sources) if tasks is None else tasks[sources],
        samples=torch.div(sources, max(labels.shape[-1], 1), rounding_mode="floor"),
        token_weights=None
        if token_weights is None
        else checks.as_weights(token_weights).reshape(-1)[sources],
        task_weights=table,
        label_shape=tuple(labels.shape),
        num_supervised=sources.shape[0],
        num_tasks=num_tasks,
        num_samples=math.prod(labels.shape[:-1]),
        # The operator has compared the labels with the vocabulary.
        max_target=PADDING,
        padded=False,
    )


def _digest(classes: Tensor) -> Tensor:
    """A number that changes with any label and with their order; it wraps around at 64 bits."""
    odd = 2 * torch.arange(classes.shape[0], device=classes.device) + 1
    return ((classes + 1_000_003) * (odd * 0x5851F42D4C957F2D)).sum()


def _largest(values: Tensor) -> Tensor:
    if values.numel() == 0:
        return torch.full((), -1, dtype=torch.int64, device=values.device)
    return values.max()


def _first(found: Tensor) -> Tensor:
    """Index of the first true entry, -1 where there is none, as a 0-d tensor."""
    if found.numel() == 0:
        return torch.full((), -1, dtype=torch.int64, device=found.device)
    return torch.where(found.any(), found.to(torch.uint8).argmax(), -1)


def _padded(values: Tensor, padding: int, fill: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, padding), value=fill) if padding else values
