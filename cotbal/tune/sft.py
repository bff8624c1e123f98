"""TRL's SFTTrainer with task weights that are exact over accumulation and ranks."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from cotbal.data.task_column import INDEX_COLUMN, TaskColumnCollator, check_task_column, task_of
from cotbal.strategies.base import Strategy
from cotbal.tune.counts import reduce_over_ranks
from cotbal.tune.head import BalanceHandle, handle_of
from cotbal.tune.settings import check_sft_settings
from cotbal.tune.trainer import TaskBalancedTrainer, task_names

try:
    from trl.data_utils import pack_dataset
    from trl.trainer.sft_trainer import SFTTrainer
except ImportError as error:
    raise ImportError(
        f"TaskBalancedSFTTrainer needs TRL, which cannot be imported ({error}); pip install 'cotbal[trl]'"
    ) from error


class TaskBalancedSFTTrainer(TaskBalancedTrainer, SFTTrainer):
    """`trl.SFTTrainer` minimising ``sum_t w[task(t)] nll_t / sum_t w[task(t)]`` over each optimizer step.

    `TaskBalancedTrainer` says what is exact and what is logged; data sets, collators, templates, peft and everything
    else are TRL's. Vision and text data sets take one more column, `task`, with the name of each example's task (or
    `loss_task_index`, its position in `tasks`), which TRL would drop and which this trainer carries through its
    preparation, packing and collators, one's own included::

        trainer = cotbal.TaskBalancedSFTTrainer(
            model, SFTConfig("out"), train_dataset=dataset, processing_class=processor,
            tasks=["caption", "vqa"], task_weights=weights,
        )
        trainer.train()

    `mean_token_accuracy` and `num_tokens` are logged as TRL's, from the fused head's own counts. `entropy` is logged
    in evaluation only: it would need the whole distribution of every token. Evaluation is TRL's own, with every
    task's loss, accuracy and tokens besides.

    Args:
        model: a model, a PeftModel, or a name or folder that TRL loads. Balanced here, around TRL's own forward.
        args: TRL's `SFTConfig` (or `TrainingArguments`, which TRL converts).
        tasks, task_weights, strategy, normalize: see `TaskBalancedTrainer`.
        task_column: the column with the names of tasks.
        **trainer_options: of `trl.SFTTrainer` (train_dataset, processing_class, peft_config, ...).

    Raises:
        ValueError: what `TaskBalancedTrainer` raises; a data set without tasks or with others than `tasks`;
            loss_type other than "nll"; a router's auxiliary loss. TRL itself refuses an adapter on the head.
        ImportError: TRL is not installed.
    """

    def __init__(
        self,
        model: Any,
        args: Any = None,
        *,
        tasks: Sequence[str] | None = None,
        task_weights: Any = None,
        strategy: Strategy | str | None = None,
        normalize: str = "weights",
        task_column: str = "task",
        **trainer_options: Any,
    ) -> None:
        tasks = task_names(tasks, task_weights)
        check_sft_settings(args)
        if trainer_options.get("data_collator") is None:  # another may know the tasks otherwise
            for name in ("train_dataset", "eval_dataset"):
                for part, dataset in _parts(name, trainer_options.get(name)):
                    check_task_column(dataset, tasks, task_column, part)
        self.task_column = task_column
        # Counts of the step's micro-batches, then of the finished steps: hits, supervised tokens, all tokens.
        self._micro_batch_counts: list[Tensor] = []
        self._step_counts: list[Tensor] = []
        with _set_aside(model) as earlier:
            self._earlier_handle = earlier
            super().__init__(
                model=model,
                args=args,
                tasks=tasks,
                task_weights=task_weights,
                strategy=strategy,
                normalize=normalize,
                **trainer_options,
            )
        self.data_collator = TaskColumnCollator(self.data_collator, tasks, task_column)

    def _balanced(self, normalize: str) -> BalanceHandle:
        check_sft_settings(self.args)  # those that TRL made of None or of TrainingArguments
        if getattr(self, "aux_loss_enabled", False):
            raise ValueError(
                "router_aux_loss_coef is not 0: the router's loss would be added once per micro-batch to a loss that "
                "is divided over the whole step. Set router_aux_loss_coef=0.0 in SFTConfig"
            )
        if self._earlier_handle is not None:
            self._earlier_handle._put_back()
        return super()._balanced(normalize)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()  # type: ignore[no-untyped-call]
        kept = [*(self._signature_columns or []), self.task_column, INDEX_COLUMN]
        self._signature_columns = list(dict.fromkeys(kept))  # type: ignore[assignment]

    def _prepare_dataset(
        self,
        dataset: Any,
        processing_class: Any,
        args: Any,
        packing: bool,
        formatting_func: Any,
        dataset_name: str,
    ) -> Any:
        """TRL's preparation; where it packs, the tasks of the tokens are packed beside them."""
        prepare = super()._prepare_dataset
        if not packing or args.max_length is None:
            return prepare(dataset, processing_class, args, packing, formatting_func, dataset_name)
        whole = copy.copy(args)
        whole.max_length, whole.shuffle_dataset = None, False
        dataset = prepare(dataset, processing_class, whole, False, formatting_func, dataset_name)
        # A streamed data set has no number of processes.
        options = {"num_proc": args.dataset_num_proc} if hasattr(dataset, "unique") else {}
        named = {"tasks": self.tasks, "task_column": self.task_column}
        with PartialState().main_process_first():  # the others read what it has cached
            dataset = dataset.map(_tasks_of_tokens, fn_kwargs=named, **options)
            dataset = dataset.select_columns(["input_ids", "labels", INDEX_COLUMN])
            if args.shuffle_dataset:
                dataset = dataset.shuffle(seed=args.seed)
            dataset = pack_dataset(dataset, args.max_length, args.packing_strategy, options)
            return dataset.shuffle(seed=args.seed) if args.shuffle_dataset else dataset

    def _reject_skip_prepare_without_labels(self, datasets: Any, data_collator: Any) -> None:
        inner = data_collator.collator if isinstance(data_collator, TaskColumnCollator) else data_collator
        super()._reject_skip_prepare_without_labels(datasets, inner)

    def _training_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool, num_items_in_batch: Any
    ) -> Any:
        # Not TRL's own: it takes the loss, the hits and the entropy from the log-probabilities of every token.
        inputs = {**inputs, "use_cache": False}
        result = Trainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)
        out = self.balance_handle.last
        if out is not None:
            tokens = _tokens(inputs).to(out.task_tokens.device)
            self._micro_batch_counts.append(
                torch.stack([out.task_correct.sum(), out.task_tokens.sum(), tokens])
            )
        return result

    def finish_step(self) -> None:
        """Also sum the counts of the step's micro-batches over the ranks."""
        super().finish_step()
        if self._micro_batch_counts:
            counts = torch.stack(self._micro_batch_counts)
            self._micro_batch_counts = []
            reduce_over_ranks(counts)
            self._step_counts.append(counts)

    def _take_counts(self) -> None:
        """Hand the counts of the finished steps to TRL's metrics, in TRL's terms: one accuracy a micro-batch."""
        if not self._step_counts:
            return
        metrics = self._metrics["train"]
        for correct, supervised, tokens in torch.cat(self._step_counts).tolist():
            metrics["mean_token_accuracy"].append(correct / supervised if supervised else 0.0)
            self._total_train_tokens += tokens
        metrics["num_tokens"] = [self._total_train_tokens]
        self._step_counts = []

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's logging, with the per-task figures added to training logs."""
        if self.model is not None and self.model.training:
            self._take_counts()
        super().log(logs, start_time)

    def evaluation_loop(self, dataloader: DataLoader[Any], *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """TRL's loop, with the unweighted loss, accuracy and tokens of every task among its metrics."""
        self._take_counts()
        return super().evaluation_loop(dataloader, *args, **kwargs)


@contextmanager
def _set_aside(model: Any) -> Iterator[BalanceHandle | None]:
    """Take the fused loss off a balanced model while TRL wraps its forward; ours must go around TRL's.

    The trainer puts it back; here that is done only where it did not get so far.
    """
    handle = None if isinstance(model, str) else handle_of(model)
    if handle is not None:
        handle.remove()
    try:
        yield handle
    except BaseException:
        if handle is not None and handle_of(model) is None:
            handle._put_back()
        raise


def _parts(name: str, dataset: Any) -> list[tuple[str, Any]]:
    if isinstance(dataset, Mapping):
        return [(f"{name}[{part!r}]", value) for part, value in dataset.items()]
    return [] if dataset is None else [(name, dataset)]


def _tasks_of_tokens(example: Mapping[str, Any], tasks: Sequence[str], task_column: str) -> dict[str, Any]:
    index, length = task_of(example, tasks, task_column), len(example["input_ids"])
    return {INDEX_COLUMN: index if isinstance(index, list) else [index] * length}


def _tokens(inputs: Mapping[str, Any]) -> Tensor:
    """How many tokens a batch has, as TRL counts them: without padding, except in a row of several samples."""
    mask = inputs.get("attention_mask")
    if mask is not None:
        total: Tensor = mask.sum()
        return total
    return torch.tensor(inputs["labels"].numel())
