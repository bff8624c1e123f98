"""TRL's trainer with task weights: the formula's gradients, TRL's own figures, and no setting that goes past them."""

from __future__ import annotations

import copy
import importlib
import re
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from PIL import Image
from support.models.tiny_models import tiny_llama, tiny_llava, tiny_qwen2_5_vl
from support.tune.recorded_steps import Recorder, training_arguments
from support.tune.step_oracle import largest_deviation, oracle_step, to_double
from transformers import set_seed
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, DataCollatorForVisionLanguageModeling

import cotbal
from cotbal.tune import balance, handle_of
from cotbal.tune.sft import TaskBalancedSFTTrainer

# TRL and peft use names that transformers has changed.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]

TASKS = ("caption", "vqa", "ocr")
WEIGHTS = (0.5, 2.0, 0.1)
ANSWER = "A red seven is left of a small blue four at the top between zero and two"
VISION = {"llava": tiny_llava, "qwen2_5_vl": tiny_qwen2_5_vl}
vision = pytest.mark.parametrize("family", VISION)

# As LLaVA's, with the answers and their end marked for assistant_only_loss.
MARKED_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | upper }}:{{ ' ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ part['text'] + '</s>' }}{% endgeneration %}"
    "{% else %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"
)


def rows(count=10, *, images=True, completion=False):
    """Conversations of uneven length; every third is a caption, the tasks come in turn."""
    made = []
    for number in range(count):
        question = {"role": "user", "content": "What number is in the picture?"}
        answer = {"role": "assistant", "content": " ".join(ANSWER.split()[: 2 + 5 * number % 13])}
        turns = (
            {"prompt": [question], "completion": [answer]} if completion else {"messages": [question, answer]}
        )
        made.append({**turns, "task": TASKS[number % 3]})
        if images:
            made[-1]["images"] = [Image.new("RGB", (28, 28 + 14 * (number % 2)), (20 * number, 90, 200))]
    return made


def settings(folder, **options):
    """Without what SFTConfig turns on by itself."""
    plain = {"bf16": False, "gradient_checkpointing": False, "loss_type": "nll"}
    sizes = {
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "gradient_accumulation_steps": 2,
    }
    return training_arguments(folder, kind=SFTConfig, **{**plain, **sizes, **options})


def make_trainer(
    folder, model, data, processor, *, trainer=TaskBalancedSFTTrainer, arguments=None, **options
):
    if trainer is TaskBalancedSFTTrainer:
        options = {"tasks": TASKS, "task_weights": WEIGHTS, **options}
        if "strategy" in options:
            del options["task_weights"]
    return trainer(
        model,
        args=settings(folder, **(arguments or {})),
        train_dataset=data if isinstance(data, Dataset) else Dataset.from_list(data),
        processing_class=processor,
        **options,
    )


def logged(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def grouped(batches, size):
    return [batches[first : first + size] for first in range(0, len(batches), size)]


def collated(data, collator, size=2):
    """Micro-batches as TRL's own collator makes them, with the tasks put beside them by hand."""
    batches = []
    for group in grouped(data, size):
        batch = dict(
            collator([{k: v for k, v in row.items() if k != "task"} for row in copy.deepcopy(group)])
        )
        batch["loss_task_index"] = torch.tensor([TASKS.index(row["task"]) for row in group])
        batches.append(batch)
    return batches


def check_steps(trainer, recorder, stock, batches, accumulation=2, limit=1e-10):
    """Every recorded step's gradients and logged loss against the oracle on these micro-batches."""
    groups = grouped(batches, accumulation)
    assert len(recorder.gradients) == len(groups) > 1
    for group, found, parameters, log in zip(
        groups, recorder.gradients, recorder.parameters, logged(trainer), strict=True
    ):
        stock.load_state_dict(parameters, strict=False)
        loss, gradients = oracle_step(stock, group, WEIGHTS)
        assert largest_deviation(found, gradients) < limit
        assert log["loss"] == pytest.approx(loss, rel=1e-6)  # the Trainer adds losses up in float32


@pytest.mark.parametrize(
    ("family", "labels"),
    [
        ("llava", "everything"),
        ("llava", "completion"),
        ("llava", "assistant"),
        ("qwen2_5_vl", "everything"),
        ("qwen2_5_vl", "completion"),
    ],
)
def test_five_lines_on_vision_data_are_the_formula(tmp_path, family, labels):
    model, processor = VISION[family]()
    if labels == "assistant":
        processor.chat_template = MARKED_TEMPLATE
    stock = copy.deepcopy(to_double(model).train())
    data = rows(completion=labels == "completion")
    dataset = Dataset.from_list(data)
    recorder = Recorder(keep_parameters=True)
    only = {"assistant_only_loss": True} if labels == "assistant" else {}

    trainer = cotbal.TaskBalancedSFTTrainer(
        model, args=settings(tmp_path, **only), train_dataset=dataset, processing_class=processor,
        tasks=TASKS, task_weights=WEIGHTS, callbacks=[recorder],
    )  # fmt: skip
    trainer.train()

    collator = DataCollatorForVisionLanguageModeling(
        processor, completion_only_loss=labels == "completion", **only
    )
    batches = collated(data, collator)
    supervised = sum(int((batch["labels"] != -100).sum()) for batch in batches)
    everything = sum(int(batch["attention_mask"].sum()) for batch in batches)
    assert (supervised == everything) == (labels == "everything")
    check_steps(trainer, recorder, stock, batches)


@pytest.mark.parametrize("completion", [False, True], ids=["messages", "completion"])
def test_text_data_are_the_formula(tmp_path, completion):
    model, tokenizer = tiny_llama()
    stock = copy.deepcopy(to_double(model).train())
    recorder = Recorder(keep_parameters=True)
    data = rows(images=False, completion=completion)
    trainer = make_trainer(tmp_path, model, data, tokenizer, callbacks=[recorder])
    trainer.train()
    prepared = list(trainer.train_dataset)
    assert [row["task"] for row in prepared] == [row["task"] for row in data]
    batches = collated(prepared, DataCollatorForLanguageModeling(tokenizer.pad_token_id))
    check_steps(trainer, recorder, stock, batches)
    log = logged(trainer)[0]
    assert sum(log[f"tokens/{task}"] for task in TASKS) == sum(
        int((batch["labels"][:, 1:] != -100).sum()) for batch in batches[:2]
    )


@pytest.mark.parametrize("packed", ["padding-free", "bfd", "bfd_split", "wrapped"])
def test_rows_of_several_samples_are_the_formula(tmp_path, packed):
    """The step's gradient is that of its samples one by one, in whatever rows they came."""
    model, tokenizer = tiny_llama()
    stock = copy.deepcopy(to_double(model).train())
    recorder = Recorder(keep_parameters=True)
    data = rows(12, images=False, completion=True)
    longest = 64
    arguments = {
        "padding-free": {"padding_free": True, "max_length": None},
        "wrapped": {"packing": True, "packing_strategy": "wrapped", "max_length": longest},
    }.get(packed, {"packing": True, "packing_strategy": packed, "max_length": longest})
    trainer = make_trainer(tmp_path, model, data, tokenizer, callbacks=[recorder], arguments=arguments)
    trainer.train()
    prepared = list(trainer.train_dataset)
    micro_batches = []
    for group in grouped(prepared, 2):
        samples = []
        for row in group:
            tasks = row["loss_task_index"] if "loss_task_index" in row else TASKS.index(row["task"])
            # "wrapped" cuts its rows without regard to samples: each is one long text.
            lengths = row.get("seq_lengths") or [len(row["input_ids"])]
            start = 0
            for length in lengths:
                part = slice(start, start + length)
                sample = {
                    "input_ids": torch.tensor([row["input_ids"][part]]),
                    "labels": torch.tensor([row["labels"][part]]),
                    "loss_task_index": torch.tensor([tasks[part]] if isinstance(tasks, list) else [tasks]),
                }
                samples.append(sample)
                start += length
        micro_batches.append(samples)
    seen = {
        int(task) for samples in micro_batches for s in samples for task in s["loss_task_index"].flatten()
    }
    assert seen == {0, 1, 2}
    assert (packed == "padding-free") == (len(prepared) == len(data))
    steps = [[sample for samples in group for sample in samples] for group in grouped(micro_batches, 2)]
    assert len(recorder.gradients) == len(steps)
    for step, found, parameters in zip(steps, recorder.gradients, recorder.parameters, strict=True):
        stock.load_state_dict(parameters, strict=False)
        _, gradients = oracle_step(stock, step, WEIGHTS)
        assert largest_deviation(found, gradients) < 1e-10


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "llama", "llama padding-free"])
def test_equal_weights_log_what_trl_logs(tmp_path, family):
    make = VISION.get(family, tiny_llama)
    arguments = {"logging_steps": 2, "num_train_epochs": 2, "eval_strategy": "epoch"}
    if family == "qwen2_5_vl":
        # It takes no number of items, so the stock loss under accumulation is a mean of means.
        arguments["gradient_accumulation_steps"] = 1
    if family == "llama padding-free":
        arguments |= {"padding_free": True, "max_length": None}
    data = rows(images=family in VISION)
    runs = []
    for kind, options in ((SFTTrainer, {}), (TaskBalancedSFTTrainer, {"strategy": "ew"})):
        model, processor = make()
        trainer = make_trainer(
            tmp_path / kind.__name__,
            model,
            data,
            processor,
            trainer=kind,
            arguments=arguments,
            eval_dataset=Dataset.from_list(data[:5]),
            **options,
        )
        trainer.train()
        runs.append((trainer.state.log_history, model))
    (theirs, their_model), (ours, our_model) = runs
    assert any(0 < entry["mean_token_accuracy"] < 1 for entry in theirs if "mean_token_accuracy" in entry)
    assert len(theirs) == len(ours)
    for stock, own in zip(theirs, ours, strict=True):
        kept = {name for name in stock if "runtime" not in name and "per_second" not in name}
        assert kept - set(own) <= {"entropy"}
        for name in kept - {"entropy"}:
            if "num_tokens" in name or "mean_token_accuracy" in name:
                assert own[name] == pytest.approx(stock[name], abs=1e-7), name
            else:
                assert own[name] == pytest.approx(stock[name], rel=2e-5), name
    for (name, one), other in zip(our_model.named_parameters(), their_model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=name)


def test_figures_of_every_task(tmp_path):
    model, processor = tiny_llava()
    data = rows(8)
    trainer = make_trainer(
        tmp_path,
        model,
        data,
        processor,
        arguments={"learning_rate": 0.0, "logging_steps": 2},
        eval_dataset=Dataset.from_list(data[:5]),
    )
    trainer.train()
    (log,) = logged(trainer)
    evaluated = trainer.evaluate()
    batches = collated(data, DataCollatorForVisionLanguageModeling(processor))
    model.eval()
    for number, task in enumerate(TASKS):
        for found, prefix, held in ((log, "", batches), (evaluated, "eval_", batches[:2] + batches[2:3])):
            loss, tokens, hits = 0.0, 0, 0
            for batch in held:
                with torch.no_grad():
                    inputs = {k: v for k, v in batch.items() if k not in ("labels", "loss_task_index")}
                    logits = model(**inputs).logits[:, :-1]
                own = (batch["loss_task_index"] == number)[:, None] & (batch["labels"][:, 1:] != -100)
                if prefix and batch is batches[2]:
                    own[1] = False  # five rows are evaluated
                targets = batch["labels"][:, 1:][own]
                loss += float(torch.nn.functional.cross_entropy(logits[own], targets, reduction="sum"))
                hits += int((logits[own].argmax(-1) == targets).sum())
                tokens += int(own.sum())
            assert found[f"{prefix}tokens/{task}"] == tokens
            assert found[f"{prefix}loss/{task}"] == pytest.approx(loss / tokens, rel=1e-5)
            assert found[f"{prefix}accuracy/{task}"] == hits / tokens
        assert log[f"weight/{task}"] == WEIGHTS[number]


@vision
def test_lora_by_peft_config_is_the_formula(tmp_path, family):
    model, processor = VISION[family]()
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    arguments = settings(tmp_path / "none", gradient_checkpointing=True)
    stock = VISION[family]()[0]
    set_seed(arguments.seed)
    stock = get_peft_model(stock, copy.deepcopy(config)).train()
    recorder = Recorder(keep_parameters=True)
    data = rows()
    trainer = make_trainer(
        tmp_path,
        model,
        data,
        processor,
        peft_config=config,
        arguments={"gradient_checkpointing": True},
        callbacks=[recorder],
    )
    trainer.train()
    assert handle_of(trainer.model) is trainer.balance_handle
    assert all("lora" in name for name in recorder.gradients[0])
    batches = collated(data, DataCollatorForVisionLanguageModeling(processor))
    check_steps(trainer, recorder, stock, batches, limit=1e-4)


def test_a_balanced_peft_model_keeps_its_handle(tmp_path):
    model, processor = tiny_llava()
    handle = balance(model, [1.0, 1.0, 1.0])
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    data = rows(6)
    trainer = make_trainer(tmp_path, model, data, processor, eval_dataset=Dataset.from_list(data))
    assert trainer.balance_handle is handle is handle_of(model)
    assert handle.weights.tolist() == list(WEIGHTS)
    trainer.train()
    assert {"eval_loss/vqa", "eval_entropy", "eval_mean_token_accuracy"} <= set(trainer.evaluate())
    with pytest.raises(ValueError, match="balanced for 3 tasks"):
        make_trainer(tmp_path, model, data, processor, tasks=(*TASKS, "other"), strategy="ew")
    assert handle_of(model) is handle
    with pytest.raises(ValueError, match="padding-free"):
        make_trainer(
            tmp_path,
            model,
            rows(6, images=False),
            processor.tokenizer,
            arguments={"padding_free": True, "max_length": None},
            data_collator=lambda examples: examples,
        )
    assert handle_of(model) is handle


def test_resuming_is_the_uninterrupted_run(tmp_path):
    def run(folder, resume=None, **arguments):
        model, processor = tiny_llava()
        trainer = make_trainer(
            folder,
            model,
            rows(),
            processor,
            strategy="dwa",
            arguments={
                "optim": "adamw_torch",
                "learning_rate": 1e-3,
                "train_sampling_strategy": "random",
                "max_steps": 6,
                **arguments,
            },
        )
        trainer.train(resume_from_checkpoint=resume)
        return model, trainer

    whole, first = run(tmp_path / "whole", save_strategy="steps", save_steps=2)
    resumed, second = run(tmp_path / "again", str(tmp_path / "whole" / "checkpoint-4"))
    for (name, one), other in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other), name
    for one, other in zip(logged(first), logged(second), strict=True):
        assert {k: v for k, v in one.items() if "/" in k} == {k: v for k, v in other.items() if "/" in k}


def test_a_model_by_its_folder_and_its_own_collator(tmp_path):
    model, processor = tiny_llava()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    inner = DataCollatorForVisionLanguageModeling(processor)
    trainer = make_trainer(
        tmp_path / "out",
        str(tmp_path / "model"),
        rows(4),
        processor,
        data_collator=inner,
        arguments={"max_steps": 1},
    )
    assert trainer.data_collator.collator is inner
    trainer.train()
    assert logged(trainer)[0]["tokens/vqa"] > 0


@pytest.mark.parametrize("model", ["llama", "peft"])
def test_settings_that_pass_the_weights_by_are_refused(tmp_path, model):
    base, tokenizer = tiny_llama()
    if model == "peft":
        base = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"]))
    data = rows(2, images=False)
    chunked = settings(tmp_path)
    chunked.loss_type = "chunked_nll"  # the default of some versions, an alias of nll in others
    for args, options, message in [
        (settings(tmp_path, loss_type="dft"), {}, "loss_type is 'dft'"),
        (chunked, {}, "loss_type is 'chunked_nll'"),
        (settings(tmp_path, label_smoothing_factor=0.1), {}, "label_smoothing_factor is 0.1"),
        (settings(tmp_path, use_liger_kernel=True), {}, "use_liger_kernel=True"),
        (settings(tmp_path), {"compute_loss_func": lambda *a, **k: None}, "compute_loss_func is given"),
        (
            settings(tmp_path),
            {"tasks": ("caption", "vqa")},
            r"train_dataset: column 'task' has .*tasks names",
        ),
        (settings(tmp_path), {"task_column": "source"}, "neither a column 'source' nor loss_task_index"),
        (
            settings(tmp_path),
            {"eval_dataset": {"a": Dataset.from_list([{"messages": []}])}},
            "eval_dataset.'a'",
        ),
        (settings(tmp_path), {"task_weights": [1.0]}, "3"),
    ]:
        with pytest.raises(ValueError, match=message):
            TaskBalancedSFTTrainer(
                base,
                args=args,
                train_dataset=Dataset.from_list(rows(3, images=False) if "tasks" in options else data),
                processing_class=tokenizer,
                **{"tasks": TASKS, "task_weights": WEIGHTS, **options},
            )
        assert handle_of(base) is None


def test_a_router_loss_is_refused(tmp_path):
    from transformers import MixtralConfig, MixtralForCausalLM

    _, tokenizer = tiny_llama()
    config = MixtralConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
    )
    data = rows(2, images=False)
    with pytest.raises(ValueError, match="router_aux_loss_coef is not 0"):
        make_trainer(tmp_path, MixtralForCausalLM(config), data, tokenizer)
    model = MixtralForCausalLM(config)
    trainer = make_trainer(tmp_path, model, data, tokenizer, arguments={"router_aux_loss_coef": 0.0})
    trainer.train()
    assert logged(trainer)[0]["tokens/caption"] > 0


def test_the_docs_example_runs(tmp_path, monkeypatch):
    model, processor = tiny_llava()
    model.save_pretrained(tmp_path / "my-model")
    processor.save_pretrained(tmp_path / "my-model")
    data = [{**row, "task": ("reading", "counting")[n % 2]} for n, row in enumerate(rows(4, completion=True))]
    Dataset.from_list(data).save_to_disk(tmp_path / "my-data")
    weights = cotbal.combine_terms([0.1, 0.2], [0.2, 0.1], [0.5, 0.8], tasks=["reading", "counting"])
    weights.save(tmp_path / "weights.json")
    page = Path(__file__).parents[3] / "docs" / "trl.md"
    (block,) = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M)
    monkeypatch.chdir(tmp_path)
    variables = {}
    exec(block.replace("report_to=[]", "report_to=[], use_cpu=True"), variables)  # bf16 wants a GPU or this
    assert len(variables["trainer"].state.log_history) >= 1
    assert list((tmp_path / "out").iterdir())


def test_without_trl_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "trl"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "cotbal.tune.sft")
    with pytest.raises(ImportError, match=r"pip install 'cotbal\[trl\]'"):
        _ = cotbal.TaskBalancedSFTTrainer
    assert "TaskBalancedSFTTrainer" in dir(cotbal)
    assert "TaskBalancedSFTTrainer" not in cotbal.__all__  # `from cotbal import *` works without TRL
    monkeypatch.undo()
    importlib.import_module("cotbal.tune.sft")
