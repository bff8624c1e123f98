"""The Hugging Face Trainer with task weights that are exact over accumulation and ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from cotbal import strategies
from cotbal.method.weights import TaskWeights
from cotbal.strategies.base import Strategy
from cotbal.strategies.fixed import Fixed
from cotbal.tasks import check_task_names
from cotbal.tune.alignment import HeadDirection
from cotbal.tune.counts import batch_plan, check_normalization, reduce_over_ranks
from cotbal.tune.divergence import DivergenceWatch
from cotbal.tune.evaluation import EvaluationWatch
from cotbal.tune.head import BalanceHandle, balance, handle_of
from cotbal.tune.resuming import ResumableTrainer
from cotbal.tune.settings import check_not_patched, check_ranks, check_settings
from cotbal.tune.step import begin_step, end_step
from cotbal.tune.validation import ValidationDraws, validation_draws
from cotbal.tune.window import LogWindow

if TYPE_CHECKING:
    from cotbal.tune.head import Weights


class TaskBalancedTrainer(ResumableTrainer):
    """`transformers.Trainer` that minimises `sum_t w[task(t)] nll_t / sum_t w[task(t)]` over each optimizer step.

    Both sums run over the supervised tokens t of the step, across all accumulated micro-batches and ranks. The
    normalizer is known before the step's first forward, because it depends only on labels and on weights that are
    fixed by then. Everything else is the stock Trainer, with stock `TrainingArguments`. With equal weights the
    results equal the stock Trainer's up to rounding (under accumulation, where the stock loss is right).

    Each training log gains figures summed exactly over ranks and micro-batches since the last log: `loss/<task>`
    (unweighted mean over tokens), `accuracy/<task>` (share of tokens ranked first), `tokens/<task>`, and
    `weight/<task>` (mean over the steps). A task without tokens logs no loss and no accuracy. Evaluation adds
    `eval_loss/<task>`, `eval_accuracy/<task>` and `eval_tokens/<task>` to the stock `eval_loss`.

    Args:
        model: see `cotbal.balance`. The trainer balances it unless it already is, and leaves it balanced
            (`self.balance_handle`).
        args: transformers' `TrainingArguments`.
        task_weights: a `cotbal.TaskWeights` (put into the order of `tasks`), a mapping from task to weight, or one
            number per task.
        strategy: instead of `task_weights`, a `cotbal.strategies.Strategy` or the name of one without options. Its
            state is saved with the checkpoints and restored on resuming. One that aligns gradients (`fastmix`) takes
            validation samples from `eval_dataset`.
        tasks: names, in the order of `loss_task_index`. You may leave it out if `task_weights` names the tasks; the
            order is then that of the weights.
        normalize: "weights", or "tokens" to divide by the number of supervised tokens.
        head: the output head, see `cotbal.balance`.
        stop_on_divergence: whether a loss, gradient norm or parameter that is not finite stops the training; see
            `cotbal.tune.divergence.DivergenceWatch` for what looking at them costs. Either way NaN is logged as NaN:
            `logging_nan_inf_filter` of `args` is turned off.
        **trainer_options: of `transformers.Trainer` (train_dataset, eval_dataset, data_collator, callbacks, ...).

    Raises:
        ValueError: neither or both of task_weights and strategy are given, the weights do not fit `tasks`, neither
            `tasks` nor the weights name the tasks, the collator has other tasks or another order, or a setting would
            make the weights wrong or ignored (label_smoothing_factor, compute_loss_func, use_liger_kernel,
            average_tokens_across_devices=False or DataParallel beyond one rank, tensor, context or sequence
            parallelism). While training: a step that did not pass the fused head exactly once.
        DivergedError: while training, see `stop_on_divergence`.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments | None = None,
        *,
        tasks: Sequence[str] | None = None,
        task_weights: Weights | None = None,
        strategy: Strategy | str | None = None,
        normalize: str = "weights",
        head: nn.Module | str | None = None,
        stop_on_divergence: bool = True,
        **trainer_options: Any,
    ) -> None:
        self._given_head = head
        self.tasks = task_names(tasks, task_weights)
        chosen = choose_strategy(self.tasks, task_weights, strategy)
        check_normalization(normalize)
        if args is not None:
            check_settings(args, trainer_options.get("compute_loss_func"))
        check_not_patched(model)
        check_collator(trainer_options.get("data_collator"), self.tasks)
        super().__init__(model=model, args=args, **trainer_options)
        check_ranks(self.args, self.accelerator)
        self.strategy = chosen.to(self.args.device)
        self.balance_handle = self._balanced(normalize)
        # The stock value decides how evaluation computes its loss. In training every family gets True; otherwise the
        # Trainer would divide the loss by the number of micro-batches again.
        self._stock_accepts_loss_kwargs = self.model_accepts_loss_kwargs
        self.model_accepts_loss_kwargs = True
        self._window = LogWindow(self.tasks)
        # It would put the mean of the steps before, or 0.0, in place of a NaN.
        self.args.logging_nan_inf_filter = False
        self._divergence = DivergenceWatch(self.tasks) if stop_on_divergence else None
        self._gradient_norm: Any = None
        self._evaluation_watch = EvaluationWatch()
        self._validation = validation_draws(
            self.strategy,
            self.eval_dataset,
            self.args.data_seed if self.args.data_seed is not None else self.args.seed,
        )
        self.add_callback(_StepEnd(self))

    def _direction(self, draws: ValidationDraws) -> HeadDirection:
        """The head's gradient on this step's validation samples, the same ones on every rank."""
        size = self.args.per_device_eval_batch_size
        samples = draws.samples(self.state.global_step)
        collator: Any = self.data_collator
        batches = [
            self._prepare_inputs(collator(samples[start : start + size]))
            for start in range(0, len(samples), size)
        ]
        return self.balance_handle.head_direction(self.model_wrapped, batches)

    def _balanced(self, normalize: str) -> BalanceHandle:
        base = self.accelerator.unwrap_model(self.model)
        handle = handle_of(base)
        weights = self.strategy.weights.tolist()
        if handle is None:
            return balance(base, weights, normalize=normalize, head=self._given_head)
        if handle.num_tasks != len(self.tasks):
            raise ValueError(
                f"the model was balanced for {handle.num_tasks} tasks, but tasks names {len(self.tasks)}; call "
                "handle.remove() and let the trainer balance it"
            )
        handle.weights, handle.normalize = weights, normalize
        return handle

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Return the micro-batches of the next step, and fix their weights and normalizer."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches:
            handle = self.balance_handle
            for batch in batches:
                # One plan serves both the count here and the forward later; making it waits for the device.
                batch["loss_plan"] = batch_plan(batch, handle.num_tasks)
            # compute_loss undoes the mean over ranks, and the Trainer does not divide by the accumulation.
            self._counts = begin_step(handle, batches, strategy=self.strategy, averaged_over=1)
            if self._validation is not None and self._validation.due(self.state.global_step):
                handle.direction = self._direction(self._validation)
            if num_items is None:
                num_items = self._counts.tokens.sum()
        return batches, num_items

    def _remove_unused_columns(self, dataset: Any, description: str | None = None) -> Any:
        # A collator of whole records reads columns that the model does not know.
        if getattr(self.data_collator, "takes_whole_records", False):
            return dataset
        return super()._remove_unused_columns(dataset, description)

    def _get_collator_with_removed_columns(self, data_collator: Any, description: str | None = None) -> Any:
        if getattr(data_collator, "takes_whole_records", False):
            return data_collator
        return super()._get_collator_with_removed_columns(data_collator, description)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the task-weighted loss in training, and the stock loss in evaluation."""
        if not model.training:
            self.model_accepts_loss_kwargs = self._stock_accepts_loss_kwargs
            try:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            finally:
                self.model_accepts_loss_kwargs = True
        before = self.balance_handle.passes
        result = self._training_loss(model, inputs, return_outputs, num_items_in_batch)
        passes = self.balance_handle.passes - before
        if passes != 1:
            raise ValueError(
                f"a training step went through the task-weighted head {passes} times instead of once, so the task "
                "weights would be ignored or counted twice. Settings that do this: label_smoothing_factor, "
                "compute_loss_func, use_liger_kernel, loss_type='chunked_nll' of TRL, or a batch without labels "
                f"(this one has {', '.join(map(str, inputs))})"
            )
        return result

    def _training_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool, num_items_in_batch: Any
    ) -> Any:
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def finish_step(self) -> None:
        """Sum a finished optimizer step's statistics and hand them to the strategy; every rank calls it."""
        sums = end_step(self.balance_handle, strategy=self.strategy)
        self._window.add(sums, self.balance_handle.weights)
        if self._divergence is not None:
            norm, self._gradient_norm = self._gradient_norm, None
            self._divergence.note(self.state.global_step, sums, norm if self._norm_counts else None)
            self._divergence.check(together=self.args.world_size > 1)

    @property
    def _norm_counts(self) -> bool:
        # With float16's loss scaling gradients overflow now and then by design; such a step is left out.
        return self.accelerator.scaler is None

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        self._gradient_norm = super()._get_grad_norm(*args, **kwargs)  # type: ignore[no-untyped-call]
        return self._gradient_norm

    def check_finite(self) -> None:
        """Look at all steps so far and at the parameters; waits for the device. Every rank must call it.

        Raises:
            DivergedError: one of them is not finite.
        """
        if self._divergence is not None:
            self._divergence.check(wait=True)
            self._divergence.check_parameters(self.balance_handle.model, self.state.global_step)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as usual, with the per-task figures added to training logs."""
        if self.is_in_train and "loss" in logs:
            if self._divergence is not None:
                self._divergence.check(wait=True)
                self._divergence.check_log(self.state.global_step, logs, norm=self._norm_counts)
            logs = {**logs, **self._window.take()}
        super().log(logs, start_time)

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Run the stock loop, with the unweighted loss, accuracy and tokens of every task among its metrics."""
        self._evaluation_sums = torch.zeros(3, len(self.tasks), dtype=torch.float64)
        with self.balance_handle._watched() as self._evaluation_watch:
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        totals = self._evaluation_sums.to(self.args.device)
        reduce_over_ranks(totals)
        metrics: dict[str, float] = output.metrics  # type: ignore[assignment]  # never None here
        for task, loss, tokens, correct in zip(self.tasks, *totals.tolist(), strict=True):
            if tokens > 0:
                metrics[f"{metric_key_prefix}_loss/{task}"] = loss / tokens
                metrics[f"{metric_key_prefix}_accuracy/{task}"] = correct / tokens
                metrics[f"{metric_key_prefix}_tokens/{task}"] = int(tokens)
        return output

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Run the stock step, and add up the tasks' sums."""
        result: tuple[Tensor | None, Tensor | None, Tensor | None] = super().prediction_step(
            model, inputs, *args, **kwargs
        )
        sums = self._evaluation_watch.take()
        if sums is not None:
            rows = self._own_rows(sums.loss.shape[0])
            added = torch.stack([part[:rows].sum(dim=0).double() for part in sums])
            self._evaluation_sums = self._evaluation_sums.to(added.device) + added
        return result

    def _own_rows(self, rows: int) -> int:
        """Count the rows of an evaluation batch that do not merely repeat others to fill the ranks' last batches."""
        state = self.accelerator.gradient_state
        if self.args.world_size == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return rows
        before = int(self.args.process_index * self.args.per_device_eval_batch_size)
        return max(0, min(rows, int(state.remainder) - before))


class _StepEnd(TrainerCallback):
    """Tells the trainer that an optimizer step is over, before anything is logged or saved."""

    def __init__(self, trainer: TaskBalancedTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.resume_logging()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.finish_step()


def task_names(tasks: Sequence[str] | None, task_weights: Any = None) -> tuple[str, ...]:
    """Return the tasks that a trainer's two arguments name, in order.

    Raises:
        ValueError: neither `tasks` nor the weights name the tasks.

    >>> task_names(None, {"vqa": 1.5, "caption": 0.5})
    ('vqa', 'caption')
    """
    if tasks is not None:
        return check_task_names(tasks)
    if isinstance(task_weights, Mapping):
        return check_task_names(task_weights)
    if hasattr(task_weights, "for_tasks"):
        return check_task_names(task_weights.tasks)
    raise ValueError(
        "tasks is missing, and task_weights does not name the tasks; give tasks=[...] in the order of "
        "loss_task_index, or task_weights as a cotbal.TaskWeights or a mapping from task to weight"
    )


def check_collator(collator: Any, tasks: Sequence[str]) -> None:
    """Refuse a collator whose task numbers mean other tasks than the trainer's.

    Raises:
        ValueError: `collator.tasks` is a list of names other than `tasks`.
    """
    theirs = getattr(collator, "tasks", None)
    if isinstance(theirs, (list, tuple)) and list(theirs) != list(tasks):
        raise ValueError(
            f"the data collator numbers the tasks {list(theirs)}, but the trainer's are {list(tasks)}: weights would "
            "go to the wrong tasks. Give both the same tasks in the same order"
        )


def choose_strategy(
    tasks: Sequence[str], task_weights: Weights | None = None, strategy: Strategy | str | None = None
) -> Strategy:
    """Return the strategy that a trainer's two arguments ask for.

    Raises:
        ValueError: neither or both are given, or there are not as many weights as tasks.

    >>> choose_strategy(["caption", "vqa"], {"vqa": 1.5, "caption": 0.5}).weights
    tensor([0.5000, 1.5000], dtype=torch.float64)
    """
    if task_weights is None and strategy is not None:
        chosen = strategies.get(strategy, len(tasks)) if isinstance(strategy, str) else strategy
        if chosen.num_tasks != len(tasks):
            raise ValueError(
                f"the strategy was made for {chosen.num_tasks} tasks, but tasks names {len(tasks)}"
            )
        return chosen
    if task_weights is None or strategy is not None:
        given = "neither" if strategy is None else "both"
        raise ValueError(
            f"{given} of task_weights and strategy given; give exactly one (strategy='ew' for equal weights)"
        )
    if isinstance(task_weights, TaskWeights):
        return Fixed(len(tasks), task_weights.for_tasks(tasks).values.tolist())
    if isinstance(task_weights, Mapping):
        unknown, missing = set(task_weights) - set(tasks), set(tasks) - set(task_weights)
        if unknown or missing:
            raise ValueError(
                f"task_weights must name each of the tasks {list(tasks)} once; missing: {sorted(missing)}, "
                f"unknown: {sorted(unknown)}"
            )
        task_weights = [task_weights[task] for task in tasks]
    return Fixed(len(tasks), task_weights)
