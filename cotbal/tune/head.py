"""The task-weighted fused loss inside a model's own forward: `balance`.

While the model trains, its output head computes the weighted loss from the hidden states, inside its own forward,
and returns that scalar instead of logits; the model's loss function then returns that very tensor. No model family
is patched, logits never exist, and engines that gather a sharded head around its forward keep working. Evaluation
and generation run the stock code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import cotbal_kernels as ck
from cotbal.tune.alignment import HeadDirection, head_gradient, task_alignments
from cotbal.tune.counts import StepSums, batch_plan, plan_counts
from cotbal.tune.effective_weight import HeadProduct, head_product
from cotbal.tune.evaluation import EvaluationWatch
from cotbal.tune.install import EXTRA_INPUTS, STATE, install, stock_forward, uninstall
from cotbal.tune.override import (
    BYPASSES,
    in_evaluation,
    kept_random_state,
    local_precision,
    output_head,
    replaced_head_and_loss,
)
from cotbal.tune.probe import find_transform
from cotbal.tune.quantized import keep_packing
from cotbal.tune.state import BalanceState
from cotbal.tune.verification import Verification, verify

if TYPE_CHECKING:
    from cotbal.method.arrays import FloatArray
    from cotbal.method.weights import TaskWeights

    Weights = TaskWeights | Mapping[str, float] | Sequence[float] | FloatArray | Tensor


def balance(
    model: nn.Module,
    weights: Weights,
    *,
    normalize: str = "weights",
    head: nn.Module | str | None = None,
) -> BalanceHandle:
    """Install the task-weighted fused loss on a Hugging Face causal language model or multimodal model.

    In training mode with labels, the model's loss becomes `sum_t w[task(t)] nll_t / D` over the supervised
    tokens t. D is `handle.normalizer`, which `begin_step` or `TaskBalancedTrainer` sets for a whole optimizer step.
    If it is not set, D is the sum of the weights (with `normalize="tokens"`, the number of tokens) of the forward's
    own batch. Batches carry `loss_task_index`, int64 [B] or [B, L]. Optionally they also carry a `loss_plan` from the
    collator, which saves a wait for the device, and `loss_token_weights` [B, L], which multiply in.
    Evaluation, generation, copies and saved checkpoints are those of the stock model.

    Args:
        model: the model, or a peft, DistributedDataParallel or compiled wrapper of it.
        weights: one per task, in the order of `loss_task_index`: a `cotbal.TaskWeights`, a mapping, or [T] numbers of
            at least 0.
        normalize: "weights" or "tokens", see `StepCounts.normalizer`.
        head: the output head, as a module of the model or by its name, for families whose `get_output_embeddings`
            gives None (default: what that gives).

    Returns:
        The handle, with `.weights`, `.normalizer`, `.statistics()`, `.verify(batch)` and `.remove()`.

    Raises:
        ValueError: a weight is negative or not finite; or the model has no output head, is an encoder-decoder, is
            wrapped in nn.DataParallel, uses prompt tuning, or is already balanced. At the first training forward: the
            head is quantised, tensor-parallel or has an adapter other than LoRA and DoRA, or the model changes its
            logits between head and loss in an unknown way.
    """
    base = _base_model(model)
    if STATE in base.__dict__:
        raise ValueError(
            f"this {type(base).__name__} is already balanced; set handle.weights (cotbal.tune.handle_of(model) "
            "finds the handle), or call handle.remove() first"
        )
    name = _head_name(base, head)
    if output_head(base, name) is None:
        raise ValueError(
            f"{type(base).__name__} has no output head (get_output_embeddings() gives None); a causal language "
            "model or a multimodal model with a language-model head is needed. If it has one, pass it: "
            "balance(model, weights, head=model.lm_head)"
        )
    if getattr(getattr(base, "config", None), "is_encoder_decoder", False):
        raise ValueError(
            f"{type(base).__name__} is an encoder-decoder model, whose labels are not shifted; a causal model is "
            "needed"
        )
    keep_packing(base)
    handle = BalanceHandle(base, weights, normalize)
    handle._head_name = name
    install(base, handle)
    return handle


def handle_of(model: nn.Module) -> BalanceHandle | None:
    """Return the handle of a balanced model (or of its wrapper or copy), or None if it is not balanced."""
    handle: BalanceHandle | None = _base_model(model).__dict__.get(STATE)
    return handle


class BalanceHandle(BalanceState):
    """What `balance` returns: the weights of a balanced model, its normalizer, and its statistics.

    See `cotbal.tune.state.BalanceState` for `.weights`, `.normalizer`, `.statistics()` and the rest.
    """

    def __init__(self, model: nn.Module, weights: Weights, normalize: str = "weights") -> None:
        super().__init__(model, weights, normalize)
        self._previous: Callable[..., Any] | None = model.__dict__.get("forward")
        self._watch: EvaluationWatch | None = None
        self._search: _Search | None = None

    def head_direction(self, run: nn.Module, batches: Sequence[Mapping[str, Any]]) -> HeadDirection:
        """The gradient of a validation loss with respect to the head: the mean over tasks of their mean losses.

        The model runs in evaluation mode without gradients. Every rank must call, with the same batches.

        Args:
            run: what the training loop calls: the model or its wrapper.
            batches: of the validation samples together, on the model's device.

        Raises:
            ValueError: no batch has a supervised token.
        """
        plans = [batch_plan(batch, self.num_tasks) for batch in batches]
        tokens = sum(
            (plan.task_tokens.cpu() for plan in plans), torch.zeros(self.num_tasks, dtype=torch.int64)
        )
        present = tokens > 0
        if not present.any():
            raise ValueError(
                "the validation samples have no supervised token, so there is no gradient to align with"
            )
        weights = torch.where(present, 1.0 / (tokens.clamp_min(1) * present.sum()).double(), 0.0)
        total: HeadDirection | None = None
        with torch.no_grad(), in_evaluation(run), kept_random_state(self.device):
            for batch, plan in zip(batches, plans, strict=True):
                self._search = _Search(weights, [])
                try:
                    run(**{**batch, "loss_plan": plan})
                    (found,) = self._search.found
                finally:
                    self._search = None
                total = found if total is None else total.plus(found)
        assert total is not None
        return total

    @contextmanager
    def _watched(self) -> Iterator[EvaluationWatch]:
        """While open, let evaluation forwards keep each task's sums."""
        self._watch = EvaluationWatch()
        try:
            yield self._watch
        finally:
            self._watch = None

    def verify(self, batch: Mapping[str, Any], **options: Any) -> Verification:
        """Prove on your own model and batch that the weights act; see `cotbal.tune.verify`."""
        return verify(self, batch, **options)

    def remove(self) -> None:
        """Take the fused loss off the model, which is then as before.

        Raises:
            ValueError: `model.forward` has been wrapped since; unwrap it first.
        """
        uninstall(self.model, self._previous)

    def _put_back(self) -> None:
        """Install the fused loss on the model again, around its current forward."""
        self._previous = self.model.__dict__.get("forward")
        install(self.model, self)

    def _forward(self, model: Any, inputs: dict[str, Any]) -> Any:
        """Run the balanced forward: the stock one, with the fused loss inside if it trains on labels."""
        forward = stock_forward(model, self._previous)
        extra = {name: inputs.pop(name, None) for name in EXTRA_INPUTS}
        if inputs.get("labels") is None or self._stock_only:
            return forward(**inputs)
        if self._search is not None:
            return self._seek(model, forward, inputs, extra, self._search)
        if not model.training:
            return self._evaluate(model, forward, inputs, extra)
        inputs.pop("num_items_in_batch", None)
        if self.transform is None:
            self.transform = find_transform(model, forward, inputs, self._head_name)
        plan = batch_plan({**inputs, **extra}, self.num_tasks)
        _check_shape(plan, inputs)
        passed: list[ck.LossOutput] = []
        handed: list[Tensor] = []

        def fused(head: nn.Module, hidden: Tensor) -> Tensor:
            passed.append(self._fused_loss(head, hidden, plan))
            return passed[-1].loss

        def captured(*args: Any, **kwargs: Any) -> Tensor:
            # Not the argument: some families scale or cap the head's scalar on its way here.
            handed.append(returned[-1].clone() if returned else torch.zeros(()))
            return handed[-1]

        with replaced_head_and_loss(model, fused, captured, self._head_name) as returned:
            outputs = forward(**inputs)
        if len(passed) != 1 or len(handed) != 1:
            raise ValueError(
                f"a training forward of {type(model).__name__} passed its output head {len(passed)} times and its "
                f"loss function {len(handed)} times, and each must happen exactly once for the task weights to be "
                f"right. Something bypasses them: {BYPASSES}"
            )
        self._note(passed[0])
        return _without_logits(_with_auxiliary_share(outputs, returned[-1], self.auxiliary_share))

    def _fused_loss(self, head: nn.Module, hidden: Tensor, plan: ck.Plan) -> ck.LossOutput:
        transform = self.transform
        if transform is None:  # pragma: no cover - _forward() has found it
            raise RuntimeError("the logit transform is not known yet")
        with local_precision(hidden) as dtype:
            self._head_dtype = dtype
            product = _product_in(dtype, head, hidden)
            device = product.weight.device
            plan = plan if plan.rows.device == device else plan.to(device, non_blocking=True)
            if self.direction is not None:
                self._alignments = self.alignments() + task_alignments(
                    product, plan, self.direction, transform
                )
            weights = self._weights = self._weights.to(device)
            normalizer = self.normalizer
            if normalizer is None:
                normalizer = plan_counts(plan).normalizer(weights, self.normalize)
            return ck.linear_cross_entropy(
                product.hidden,
                product.weight,
                None,
                None,
                weights.to(torch.float64 if dtype == torch.float64 else torch.float32),
                bias=product.bias,
                logit_scale=transform.logit_scale,
                softcap=transform.softcap,
                normalizer=normalizer.to(device),
                plan=plan,
            )

    def _seek(
        self,
        model: Any,
        forward: Callable[..., Any],
        inputs: dict[str, Any],
        extra: Mapping[str, Any],
        search: _Search,
    ) -> Any:
        """Run a forward for the head's gradient alone."""
        inputs.pop("num_items_in_batch", None)
        if self.transform is None:
            self.transform = find_transform(model, forward, inputs, self._head_name)
        transform = self.transform
        plan = batch_plan({**inputs, **extra}, self.num_tasks)
        _check_shape(plan, inputs)

        def seen(head: nn.Module, hidden: Tensor) -> Tensor:
            with local_precision(hidden) as dtype:
                product = _product_in(dtype, head, hidden)
                search.found.append(head_gradient(product, plan, search.task_weights, transform))
            return hidden.new_zeros(())

        def captured(*args: Any, **kwargs: Any) -> Tensor:
            return torch.zeros(())

        with replaced_head_and_loss(model, seen, captured, self._head_name):
            outputs = forward(**inputs)
        return _without_logits(outputs)

    def _note(self, out: ck.LossOutput) -> None:
        self.passes += 1
        self.last = out._replace(loss=out.loss.detach())
        wide = torch.float32 if out.task_loss_sum.device.type == "mps" else torch.float64
        new = StepSums(out.task_loss_sum.to(wide), out.task_tokens, out.task_correct)
        old = self._sums
        if old is not None:
            new = StepSums(old.loss + new.loss, old.tokens + new.tokens, old.correct + new.correct)
        self._sums = new

    def _evaluate(
        self,
        model: Any,
        forward: Callable[..., Any],
        inputs: dict[str, Any],
        extra: Mapping[str, Any],
    ) -> Any:
        known = extra["loss_plan"] is not None or extra["loss_task_index"] is not None or self.num_tasks == 1
        if self._watch is None or not known:
            return forward(**inputs)
        return self._watch.forward(model, forward, inputs, batch_plan({**inputs, **extra}, self.num_tasks))


def _head_name(base: nn.Module, head: nn.Module | str | None) -> str | None:
    """Return the name of a given head within the model, which holds for its copies too."""
    if head is None:
        return None
    modules: dict[str, nn.Module] = dict(base.named_modules())
    found = next(
        (name for name, module in modules.items() if name and (module is head or name == head)), None
    )
    if found is None:
        what = repr(head) if isinstance(head, str) else f"a {type(head).__name__}"
        linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)][-3:]
        raise ValueError(
            f"head is {what}, which is no module of this {type(base).__name__}; the last linear layers are: "
            f"{', '.join(linear)}"
        )
    return found


@dataclass(frozen=True)
class _Search:
    """A forward for the head's gradient: the weight of each task's tokens, and what the head's pass found."""

    task_weights: Tensor
    found: list[HeadDirection]


def _product_in(dtype: torch.dtype, head: nn.Module, hidden: Tensor) -> HeadProduct:
    """The head's product with everything in one dtype and on one device."""
    product = head_product(head, hidden.to(dtype))
    weight = product.weight.to(dtype)
    bias = None if product.bias is None else product.bias.to(dtype)
    return HeadProduct(product.hidden.to(weight.device), weight, bias)


def _base_model(model: Any) -> Any:
    """Return the Hugging Face model inside the wrappers that `balance` knows."""
    if isinstance(model, nn.DataParallel):
        raise ValueError(
            "the model is wrapped in torch.nn.DataParallel, which cannot train a balanced model; launch one process "
            "per device (torchrun or accelerate launch)"
        )
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return _base_model(model.module)
    if "_orig_mod" in model._modules:
        return _base_model(model._modules["_orig_mod"])
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
        kinds = [
            config for config in model.peft_config.values() if getattr(config, "is_prompt_learning", False)
        ]
        if kinds:
            raise ValueError(
                f"the peft adapter {type(kinds[0]).__name__} puts virtual tokens before the labels, which a plan "
                "made from the labels does not know about; use LoRA, DoRA or modules_to_save"
            )
        return _base_model(model.get_base_model())
    return model


def _check_shape(plan: ck.Plan, inputs: Mapping[str, Any]) -> None:
    labels = inputs.get("shift_labels")
    shape = tuple((inputs["labels"] if labels is None else labels).shape)
    if tuple(plan.label_shape) != shape:
        raise ValueError(
            f"loss_plan was made from labels of shape {tuple(plan.label_shape)}, but the labels have shape {shape}; "
            "make it from the labels that the model receives (prompt tuning and padding after collation change them)"
        )


def _with_auxiliary_share(outputs: Any, own: Tensor, share: float) -> Any:
    """Return the outputs with `share` of what the model has added to its own loss: a router's auxiliary loss."""
    if share == 1.0 or (not isinstance(outputs, tuple) and getattr(outputs, "aux_loss", None) is None):
        return outputs
    whole = outputs[0] if isinstance(outputs, tuple) else outputs.loss
    loss = own.to(whole) * (1.0 - share) + whole * share
    return (loss, *outputs[1:]) if isinstance(outputs, tuple) else dataclasses.replace(outputs, loss=loss)


def _without_logits(outputs: Any) -> Any:
    """Return the model's outputs without the scaled or capped scalar that replaces the logits."""
    if isinstance(outputs, tuple):
        return (outputs[0], *outputs[2:])
    return dataclasses.replace(outputs, logits=None)
