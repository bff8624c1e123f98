"""The trainer: exact weights over accumulation, figures of every task, and no setting that passes them by."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from support.models.tiny_models import random_batch, tiny_llama, tiny_llava, tiny_qwen2_5_vl
from support.tune.recorded_steps import MicroBatches, Recorder, single, training_arguments
from support.tune.step_oracle import largest_deviation, oracle_step, to_double
from transformers import MixtralConfig, MixtralForCausalLM, Trainer

import cotbal
import cotbal_kernels as ck
from cotbal import strategies
from cotbal.tune import TaskBalancedTrainer, balance, begin_step, handle_of

TASKS = ("caption", "vqa", "ocr")
MODELS = {"llava": tiny_llava, "qwen2_5_vl": tiny_qwen2_5_vl, "llama": tiny_llama}
families = pytest.mark.parametrize("family", MODELS)


def make(family, dtype=torch.float64):
    model = MODELS[family]()[0]
    return (to_double(model) if dtype == torch.float64 else model).train()


def tiny_mixtral():
    config = MixtralConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=4,
        output_router_logits=True,
        pad_token_id=0,
        experts_implementation="eager",
    )
    torch.manual_seed(0)
    return MixtralForCausalLM(config).double().train()


def micro_batches(model, count, *, tasks=None, plan=False, batch_size=1, supervised=None):
    """`count` batches; micro-batch i holds task i mod 3 alone, unless `tasks` says otherwise."""
    dtype = next(model.parameters()).dtype
    made = []
    for number in range(count):
        share = 0.1 + 0.2 * (number % 4) if supervised is None else supervised
        batch = random_batch(model, batch_size=batch_size, seed=number, supervised=share)
        batch = {name: v.to(dtype) if v.is_floating_point() else v for name, v in batch.items()}
        task = (number if tasks is None else tasks[number]) % len(TASKS)
        batch["loss_task_index"] = (torch.arange(batch_size) + task) % len(TASKS)
        if plan:
            batch["loss_plan"] = ck.plan(batch["labels"], batch["loss_task_index"], num_tasks=3, shift=True)
        made.append(batch)
    return made


def train(folder, model, batches, *, trainer=TaskBalancedTrainer, arguments=None, callbacks=(), **options):
    if trainer is TaskBalancedTrainer:
        options = {"tasks": TASKS, "task_weights": [0.5, 2.0, 0.1], **options}
        if "strategy" in options:
            del options["task_weights"]
    made = trainer(
        model,
        training_arguments(folder, **(arguments or {})),
        train_dataset=MicroBatches(batches),
        data_collator=single,
        callbacks=list(callbacks),
        **options,
    )
    made.train()
    return made


def logged(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@families
def test_every_step_is_the_oracles(tmp_path, family):
    """Other accumulations are among the set-ups; here the parameters move from step to step."""
    accumulation = 4
    model = make(family)
    batches = micro_batches(model, 10, plan=family == "llava")
    recorder = Recorder(keep_parameters=True)
    stock = copy.deepcopy(model)
    trainer = train(
        tmp_path,
        model,
        batches,
        arguments={"gradient_accumulation_steps": accumulation},
        callbacks=[recorder],
    )
    groups = [batches[first : first + accumulation] for first in range(0, 10, accumulation)]
    assert len(recorder.gradients) == len(groups)  # the last one is ragged
    for group, found, parameters, log in zip(
        groups, recorder.gradients, recorder.parameters, logged(trainer), strict=True
    ):
        stock.load_state_dict(parameters, strict=False)
        loss, gradients = oracle_step(stock, group, [0.5, 2.0, 0.1])
        assert largest_deviation(found, gradients) < 1e-10
        assert log["loss"] == pytest.approx(loss, rel=1e-6)  # the Trainer adds losses up in float32


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_doubling_a_weight_moves_the_gradient_by_the_formula(tmp_path, family):
    """g = sum_t w_t G_t / sum_t w_t n_t, with G_t the gradient of task t's added losses, batch size 1."""
    model = make(family)
    batches = micro_batches(model, 8)
    weights = torch.tensor([0.5, 2.0, 0.1], dtype=torch.float64)
    doubled = weights * torch.tensor([1.0, 2.0, 1.0])
    found = []
    for values in (weights, doubled):
        recorder = Recorder()
        train(
            tmp_path,
            copy.deepcopy(model),
            batches,
            arguments={"gradient_accumulation_steps": 8},
            callbacks=[recorder],
            task_weights=values,
        )
        found.append(recorder.gradients[0])
    tokens = torch.zeros(3, dtype=torch.float64)
    for batch in batches:
        tokens[int(batch["loss_task_index"])] += int((batch["labels"][:, 1:] != -100).sum())
    # G of the doubled task, from the stock model: its mean loss times its tokens.
    stock = copy.deepcopy(model)
    for batch in batches:
        if int(batch["loss_task_index"]) == 1:
            count = int((batch["labels"][:, 1:] != -100).sum())
            (stock(**{k: v for k, v in batch.items() if k != "loss_task_index"}).loss * count).backward()
    before, after = (weights * tokens).sum(), (doubled * tokens).sum()
    expected = {
        name: (before * found[0][name] + weights[1] * parameter.grad) / after
        for name, parameter in stock.named_parameters()
        if parameter.grad is not None
    }
    moved = largest_deviation(found[1], found[0])
    # The stock loss is computed in float32, whatever the model's dtype.
    assert largest_deviation(found[1], expected) < 1e-6
    assert moved > 0.1


@families
def test_equal_weights_train_like_the_stock_trainer(tmp_path, family):
    model = make(family, torch.float32)
    batches = micro_batches(model, 4, batch_size=2, supervised=0.5)
    stock = copy.deepcopy(model)
    plain = [{k: v for k, v in batch.items() if k != "loss_task_index"} for batch in batches]
    theirs = train(tmp_path / "stock", stock, plain, trainer=Trainer)
    ours = train(tmp_path / "ours", model, batches, strategy="ew")
    for mine, other in zip(logged(ours), logged(theirs), strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-5)
    for (name, mine), other in zip(model.named_parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6, msg=name)


def test_a_head_may_be_given_where_the_family_names_none(tmp_path, monkeypatch):
    stock, model = make("llama"), make("llama")
    batches = micro_batches(model, 4)
    train(tmp_path / "named", stock, batches)
    monkeypatch.setattr(type(model), "get_output_embeddings", lambda self: None)
    with pytest.raises(ValueError, match=r"head=model\.lm_head"):
        train(tmp_path / "none", make("llama"), batches)
    train(tmp_path / "given", model, batches, head=model.lm_head)
    wanted = stock.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())


def test_tokens_can_be_the_normalizer(tmp_path):
    model = make("llama")
    batches = micro_batches(model, 3)
    recorder = Recorder()
    stock = copy.deepcopy(model)
    train(
        tmp_path,
        model,
        batches,
        arguments={"gradient_accumulation_steps": 3},
        callbacks=[recorder],
        normalize="tokens",
    )
    _, gradients = oracle_step(stock, batches, [0.5, 2.0, 0.1], normalize="tokens")
    assert largest_deviation(recorder.gradients[0], gradients) < 1e-10


def test_per_task_figures_cover_every_micro_batch_of_the_window(tmp_path):
    model = make("llama", torch.float32)
    batches = micro_batches(model, 8, tasks=[0, 0, 0, 1, 0, 0, 0, 0])
    frozen = {"learning_rate": 0.0, "gradient_accumulation_steps": 2, "logging_steps": 2}
    trainer = train(tmp_path, copy.deepcopy(model), batches, arguments=frozen)
    first, second = logged(trainer)
    handle = balance(model, [1.0, 1.0, 1.0])
    for batch in batches[:4]:
        model(**batch)
    sums = handle.statistics()
    for index, task in enumerate(TASKS[:2]):
        tokens = int(sums.tokens[index])
        assert first[f"tokens/{task}"] == tokens
        assert first[f"loss/{task}"] == pytest.approx(float(sums.loss[index]) / tokens, rel=1e-5)
        assert first[f"accuracy/{task}"] == float(sums.correct[index]) / tokens
    assert [first[f"weight/{task}"] for task in TASKS] == [0.5, 2.0, 0.1]
    assert second["tokens/vqa"] == 0
    for absent in ("loss/ocr", "accuracy/ocr", "loss/vqa"):
        assert absent not in second
    assert "tokens/vqa" not in trainer.state.log_history[-1]  # the summary of the run


def test_strategies_see_global_tokens_and_losses(tmp_path):
    calls = []

    class Spy(strategies.EqualWeights):
        def begin_step(self, task_tokens):
            calls.append(("begin", task_tokens.tolist()))
            return torch.tensor([1.0, float(len(calls)), 2.0])

        def end_step(self, task_loss_sum, task_tokens):
            calls.append(("end", task_tokens.tolist(), task_loss_sum.tolist()))

    model = make("llama", torch.float32)
    batches = micro_batches(model, 3)
    trainer = train(tmp_path, model, batches, arguments={"gradient_accumulation_steps": 2}, strategy=Spy(3))
    counts = [
        [int((b["labels"][:, 1:] != -100).sum()) if int(b["loss_task_index"]) == t else 0 for t in range(3)]
        for b in batches
    ]
    steps = [[a + b for a, b in zip(*counts[:2], strict=True)], counts[2]]
    assert [call[:2] for call in calls] == [
        ("begin", steps[0]),
        ("end", steps[0]),
        ("begin", steps[1]),
        ("end", steps[1]),
    ]
    first, second = logged(trainer)
    assert (first["weight/vqa"], second["weight/vqa"]) == (1.0, 3.0)
    assert calls[1][2][0] / steps[0][0] == pytest.approx(first["loss/caption"], rel=1e-6)


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_a_routers_loss_does_not_grow_with_the_accumulation(tmp_path, accumulation):
    """Every micro-batch holds the same samples, so the mean of the routers' losses is that of one.

    Mixtral computes its router's loss in float32, whose rounding is below the tolerance.
    """
    model = tiny_mixtral()
    batch = micro_batches(model, 1, tasks=[0])[0]
    gradients = {}
    for coefficient in (0.0, 0.7):
        twin = copy.deepcopy(model)
        twin.router_aux_loss_coef = coefficient
        handle = balance(twin, [2.0, 1.0, 1.0])
        batches = [copy.deepcopy(batch) for _ in range(accumulation)]
        begin_step(handle, batches)
        for each in batches:
            twin(**each).loss.backward()
        gradients[coefficient] = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    (0.7 * model(**inputs).aux_loss).backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert any(gradient.abs().max() > 1e-6 for gradient in expected.values())
    for name, gradient in gradients[0.7].items():
        added = gradient - gradients[0.0].get(name, 0.0)
        torch.testing.assert_close(added, expected.get(name, torch.zeros_like(added)), rtol=0, atol=1e-7)


@families
def test_evaluation_losses_are_the_stock_ones(tmp_path, family):
    model = make(family, torch.float32)
    batches = micro_batches(model, 5, batch_size=2)
    stock = Trainer(
        copy.deepcopy(model),
        training_arguments(tmp_path / "stock"),
        eval_dataset=MicroBatches([{k: v for k, v in b.items() if k != "loss_task_index"} for b in batches]),
        data_collator=single,
    )
    ours = TaskBalancedTrainer(
        copy.deepcopy(model),
        training_arguments(tmp_path / "ours"),
        tasks=TASKS,
        task_weights={"ocr": 3.0, "caption": 1.0, "vqa": 2.0},
        eval_dataset=MicroBatches(batches),
        train_dataset=MicroBatches(batches),
        data_collator=single,
    )
    for _ in range(2):
        theirs, mine = stock.evaluate(), ours.evaluate()
        assert mine["eval_loss"] == theirs["eval_loss"]
    tokens = {task: mine[f"eval_tokens/{task}"] for task in TASKS}
    assert sum(tokens.values()) == sum(int((b["labels"][:, 1:] != -100).sum()) for b in batches)
    log_probabilities = dict.fromkeys(TASKS, 0.0)
    model.eval()
    for batch in batches:
        for row, task in enumerate(batch["loss_task_index"]):
            # pixel values of the rows cannot be cut apart for every family: the whole batch goes in.
            labels = torch.full_like(batch["labels"], -100)
            labels[row] = batch["labels"][row]
            inputs = {k: v for k, v in batch.items() if k != "loss_task_index"}
            count = int((labels[:, 1:] != -100).sum())
            with torch.no_grad():
                log_probabilities[TASKS[task]] += count * float(model(**{**inputs, "labels": labels}).loss)
    for task in TASKS:
        assert mine[f"eval_loss/{task}"] == pytest.approx(log_probabilities[task] / tokens[task], rel=1e-5)
        assert 0.0 <= mine[f"eval_accuracy/{task}"] <= 1.0


def test_evaluation_within_training_changes_nothing(tmp_path):
    model = make("llama", torch.float32)
    batches = micro_batches(model, 6)
    found = []
    for arguments in ({}, {"eval_strategy": "steps", "eval_steps": 1}):
        twin = copy.deepcopy(model)
        trainer = train(
            tmp_path, twin, batches, arguments=arguments, eval_dataset=MicroBatches(micro_batches(model, 2))
        )
        found.append((logged(trainer), [p.detach() for p in twin.parameters()]))
    for one, other in zip(*(entries for entries, _ in found), strict=True):
        assert {k: v for k, v in one.items() if "/" in k} == {k: v for k, v in other.items() if "/" in k}
    for one, other in zip(*(parameters for _, parameters in found), strict=True):
        assert torch.equal(one, other)


STRATEGIES = {
    "ew": {},
    "tla": {},
    "rlw": {"seed": 5},
    "dwa": {"window": 2},
    "igb": {"base_start": 3, "base_stop": 5},
    "fixed": {"weights": [0.5, 2.0, 0.1]},
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_resuming_at_every_step_is_the_uninterrupted_run(tmp_path, name):
    def run(folder, resume=None, **arguments):
        model = MODELS["llama"](attention_dropout=0.1)[0]
        trainer = TaskBalancedTrainer(
            model,
            training_arguments(
                folder,
                gradient_accumulation_steps=2,
                optim="adamw_torch",
                learning_rate=1e-3,
                lr_scheduler_type="cosine",
                train_sampling_strategy="random",
                max_steps=12,
                **arguments,
            ),
            tasks=TASKS,
            strategy=strategies.get(name, 3, **STRATEGIES[name]),
            train_dataset=MicroBatches(micro_batches(model, 10)),  # an epoch ends within the run
            data_collator=single,
        )
        trainer.train(resume_from_checkpoint=resume)
        state = copy.deepcopy(trainer.optimizer.state_dict()["state"])
        return model.state_dict(), state, trainer.strategy.state_dict(), logged(trainer)

    whole = run(tmp_path / "whole", save_strategy="steps", save_steps=1)
    weights = [entry["weight/caption"] for entry in whole[3]]
    assert (len(set(weights)) > 1) == (name not in ("ew", "fixed"))  # active within 12 steps
    for step in range(1, 12):
        resumed = run(tmp_path / "again", str(tmp_path / "whole" / f"checkpoint-{step}"))
        for one, other in zip(whole[:1] + whole[2:3], resumed[:1] + resumed[2:3], strict=True):
            assert one.keys() == other.keys()
            for key in one:
                assert torch.equal(one[key], other[key]), (step, key)
        for number, moments in whole[1].items():
            for key, value in moments.items():
                assert torch.equal(value, resumed[1][number][key]), (step, number, key)
        steady = [{k: v for k, v in entry.items() if "/" in k} for entry in whole[3]]
        assert [{k: v for k, v in entry.items() if "/" in k} for entry in resumed[3]] == steady, step


def test_a_resumed_run_logs_what_the_uninterrupted_one_does(tmp_path):
    """The steps between the last log and the checkpoint are in the next log's per-task figures."""

    def figures(folder, resume=None, **arguments):
        model = MODELS["llama"]()[0]
        trainer = TaskBalancedTrainer(
            model,
            training_arguments(folder, max_steps=9, logging_steps=4, **arguments),
            tasks=TASKS,
            strategy=strategies.get("rlw", 3, seed=5),
            train_dataset=MicroBatches(micro_batches(model, 9)),
            data_collator=single,
        )
        trainer.train(resume_from_checkpoint=resume)
        return [{k: v for k, v in entry.items() if "/" in k} for entry in logged(trainer)]

    whole = figures(tmp_path / "whole", save_strategy="steps", save_steps=1)
    assert [sum(entry[f"tokens/{task}"] > 0 for task in TASKS) for entry in whole] == [3, 3]
    for step in (2, 4, 7):
        again = figures(tmp_path / "again", str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert again == whole, step


@families
@pytest.mark.parametrize("tied", [False, True])
def test_every_family_resumes_its_weights(tmp_path, family, tied):
    """LLaVA's files name its weights otherwise than the model does; the stock Trainer would not load them."""

    def run(folder, resume=None, **arguments):
        model = MODELS[family](tie_word_embeddings=tied)[0]
        trainer = TaskBalancedTrainer(
            model,
            training_arguments(folder, max_steps=4, **arguments),
            tasks=TASKS,
            strategy="ew",
            train_dataset=MicroBatches(micro_batches(model, 6)),
            data_collator=single,
        )
        trainer.train(resume_from_checkpoint=resume)
        return model

    whole = run(tmp_path / "whole", save_strategy="steps", save_steps=2)
    resumed = run(tmp_path / "again", str(tmp_path / "whole" / "checkpoint-2"))
    for (name, one), other in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_a_checkpoint_without_some_weights_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    model = make("llama", torch.float32)
    batches = micro_batches(model, 2)
    train(tmp_path, copy.deepcopy(model), batches, arguments={"save_strategy": "steps", "save_steps": 1})
    path = tmp_path / "checkpoint-1" / "model.safetensors"
    save_file(
        {name: value for name, value in load_file(path).items() if "layers.1" not in name},
        path,
        metadata={"format": "pt"},
    )
    trainer = TaskBalancedTrainer(
        model,
        training_arguments(tmp_path / "again"),
        tasks=TASKS,
        task_weights=[0.5, 2.0, 0.1],
        train_dataset=MicroBatches(batches),
        data_collator=single,
    )
    with pytest.raises(ValueError, match=r"not a whole LlamaForCausalLM: .* missing: .* more"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_resuming_needs_the_same_set_up(tmp_path):
    model = make("llama", torch.float32)
    batches = micro_batches(model, 2)
    saving = {"save_strategy": "steps", "save_steps": 1}
    train(tmp_path, copy.deepcopy(model), batches, arguments=saving, strategy="dwa")
    checkpoint = tmp_path / "checkpoint-1"

    def resume(**options):
        trainer = TaskBalancedTrainer(
            copy.deepcopy(model),
            training_arguments(tmp_path / "again"),
            train_dataset=MicroBatches(batches),
            data_collator=single,
            **{"tasks": TASKS, "strategy": "dwa", **options},
        )
        trainer.train(resume_from_checkpoint=str(checkpoint))

    resume()
    with pytest.raises(ValueError, match="saved with strategy 'dwa'"):
        resume(strategy="ew")
    with pytest.raises(ValueError, match="saved with tasks"):
        resume(tasks=("a", "b", "c"))
    with pytest.raises(ValueError, match="saved with normalize 'weights'"):
        resume(normalize="tokens")
    (checkpoint / "task_balance.pt").unlink()
    with pytest.raises(ValueError, match=r"task_balance\.pt is missing"):
        resume()


def test_settings_that_pass_the_weights_by_are_refused(tmp_path):
    model = make("llama", torch.float32)
    common = {"tasks": TASKS, "task_weights": [1.0, 2.0, 3.0]}
    cases = [
        ({"label_smoothing_factor": 0.1}, {}, "label_smoothing_factor is 0.1"),
        ({}, {"compute_loss_func": lambda *a, **k: None}, "compute_loss_func is given"),
        ({"use_liger_kernel": True}, {}, "use_liger_kernel=True"),
    ]
    for arguments, options, message in cases:
        with pytest.raises(ValueError, match=message):
            TaskBalancedTrainer(model, training_arguments(tmp_path, **arguments), **common, **options)
    arguments = training_arguments(tmp_path)
    for options, message in [
        ({"tasks": TASKS}, "neither of task_weights and strategy"),
        ({**common, "strategy": "ew"}, "both of task_weights and strategy"),
        (
            {**common, "task_weights": {"caption": 1.0, "vqa": 1.0, "osr": 1.0}},
            "missing: .*ocr.*unknown: .*osr",
        ),
        ({**common, "task_weights": [1.0]}, "3"),
        ({"tasks": TASKS, "strategy": strategies.EqualWeights(2)}, "made for 2 tasks"),
        ({**common, "normalize": "mean"}, "normalize is 'mean'"),
    ]:
        with pytest.raises(ValueError, match=message):
            TaskBalancedTrainer(model, arguments, **options)
    assert handle_of(model) is None


def test_a_step_that_misses_the_head_is_an_error(tmp_path):
    model = make("llama", torch.float32)
    batches = micro_batches(model, 1)
    trainer = TaskBalancedTrainer(
        model,
        training_arguments(tmp_path),
        tasks=TASKS,
        strategy="ew",
        train_dataset=MicroBatches(batches),
        data_collator=single,
    )
    trainer.compute_loss_func = lambda outputs, labels, num_items_in_batch: outputs.logits.mean()
    with pytest.raises(ValueError, match=r"0 times instead of once.*compute_loss_func"):
        trainer.train()


def test_a_balanced_model_keeps_its_handle(tmp_path):
    model = make("llama", torch.float32)
    handle = balance(model, [1.0, 1.0, 1.0])
    trainer = train(tmp_path, model, micro_batches(model, 1), task_weights=[3.0, 2.0, 1.0])
    assert trainer.balance_handle is handle
    assert handle.weights.tolist() == [3.0, 2.0, 1.0]
    with pytest.raises(ValueError, match="balanced for 3 tasks"):
        TaskBalancedTrainer(model, training_arguments(tmp_path), tasks=("a", "b"), strategy="ew")


def test_figures_reach_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = make("llama", torch.float32)
    trainer = train(
        tmp_path,
        model,
        micro_batches(model, 3),
        arguments={"report_to": ["tensorboard"], "eval_strategy": "epoch"},
        eval_dataset=MicroBatches(micro_batches(model, 3)),
    )
    (folder,) = {path.parent for path in tmp_path.rglob("events.out.tfevents*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    entries = logged(trainer)
    for step, task in enumerate(TASKS):
        for kind in ("loss", "weight", "tokens", "accuracy"):
            seen = {event.step: event.value for event in events.Scalars(f"train/{kind}/{task}")}
            assert math.isclose(seen[step + 1], entries[step][f"{kind}/{task}"], rel_tol=1e-6)
    assert events.Scalars("eval/loss/vqa")


def named_weights():
    """Weights of the three tasks in another order than that of their names."""
    measured = cotbal.combine_terms([0.1, 0.3, 0.2], [0.2, 0.1, 0.3], [0.5, 0.8, 0.1], tasks=TASKS)
    return measured.for_tasks([TASKS[2], TASKS[0], TASKS[1]])


@pytest.mark.parametrize("form", ["TaskWeights", "mapping"])
def test_tasks_may_be_left_out_where_the_weights_name_them(tmp_path, form):
    weights = named_weights()
    given = weights if form == "TaskWeights" else weights.as_dict()
    model = make("llama")
    trainer = TaskBalancedTrainer(model, training_arguments(tmp_path), task_weights=given)
    assert trainer.tasks == (TASKS[2], TASKS[0], TASKS[1])
    assert trainer.balance_handle.weights.tolist() == weights.values.tolist()
    trainer.balance_handle.remove()
    ordered = TaskBalancedTrainer(model, training_arguments(tmp_path), tasks=TASKS, task_weights=given)
    assert ordered.balance_handle.weights.tolist() == weights.for_tasks(TASKS).values.tolist()


@pytest.mark.parametrize("options", [{"task_weights": [1.0, 2.0]}, {"strategy": "ew"}, {}])
def test_tasks_that_nothing_names_are_asked_for(tmp_path, options):
    with pytest.raises(ValueError, match=r"tasks is missing.*tasks=\[\.\.\.\]"):
        TaskBalancedTrainer(make("llama"), training_arguments(tmp_path), **options)


def test_a_collator_with_another_order_of_tasks_is_refused(tmp_path):
    class Collator:
        tasks = TASKS

        def __call__(self, batches):
            return batches[0]

    options = {"args": training_arguments(tmp_path), "data_collator": Collator()}
    with pytest.raises(ValueError, match="weights would go to the wrong tasks"):
        TaskBalancedTrainer(model=make("llama"), task_weights=named_weights(), **options)
    assert TaskBalancedTrainer(model=make("llama"), tasks=TASKS, task_weights=named_weights(), **options)


def test_model_and_args_are_handed_on_by_keyword(tmp_path, monkeypatch):
    """The stock Trainer may reorder its parameters; only their names are part of its interface."""
    seen = []
    stock = Trainer.__init__

    def watching(self, *args, **kwargs):
        seen.append((args, set(kwargs)))
        stock(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "__init__", watching)
    TaskBalancedTrainer(make("llama"), training_arguments(tmp_path), tasks=TASKS, strategy="ew")
    assert seen == [((), {"model", "args"})]
