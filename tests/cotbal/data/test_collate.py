"""Batches: labels stand on answers and nowhere else, whatever the template, the images and the truncation."""

import copy
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.models import tiny_models
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from cotbal.data import BadRecordsError, PromptCollator, Record, TaskCollator, Turn
from cotbal.data.packed import mixes_images
from cotbal.tune import TaskBalancedTrainer, balance

KINDS = ("llava", "qwen", "llama")
TASKS = ("a", "b")
# An example takes some 20 ms of templates and tokenizers.
FEWER = settings(max_examples=min(60, settings.default.max_examples))
STOPS = {"llava": "</s>", "qwen": "<|im_end|>", "llama": "<|eot_id|>"}

# Words with no white space at their ends: templates that trim and templates that do not then agree.
texts = st.text(st.sampled_from("abc seven.?!é\n7"), min_size=1, max_size=20).map(str.strip).filter(bool)


@pytest.fixture(scope="module")
def made() -> dict[str, tuple[Any, Any]]:
    return {
        "llava": tiny_models.tiny_llava(),
        "qwen": tiny_models.tiny_qwen2_5_vl(),
        "llama": tiny_models.tiny_llama(),
    }


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Image.effect_noise((30 + 40 * number, 50), 40).save(path)
    return paths


def record(
    exchanges: Sequence[tuple[str, str]],
    images: Sequence[Path] = (),
    task: str = "a",
    index: int = 0,
    system: str | None = None,
) -> Record:
    turns = [Turn("system", system)] if system else []
    for number, (question, answer) in enumerate(exchanges):
        # All images but the first come with the last question, so that some stand behind an answer.
        here = images[:1] if number == 0 else images[1:] if number == len(exchanges) - 1 else ()
        here = images if len(exchanges) == 1 else here
        turns += [Turn("user", "<image>\n" * len(here) + question), Turn("assistant", answer)]
    return Record(str(index), task, tuple(images), tuple(turns), (turns[-1].text,), Path("x.json"), index)


def tokenizer_of(processor: Any) -> Any:
    return getattr(processor, "tokenizer", processor)


def answers_in(labels: torch.Tensor, processor: Any) -> list[str]:
    """The texts of the runs of supervised tokens of one row."""
    runs: list[list[int]] = [[]]
    for label in labels.tolist():
        if label >= 0:
            runs[-1].append(label)
        elif runs[-1]:
            runs.append([])
    return [tokenizer_of(processor).decode(run) for run in runs if run]


conversations = st.lists(
    st.tuples(
        st.lists(st.tuples(texts, texts), min_size=1, max_size=3),
        st.integers(0, 3),
        st.sampled_from(TASKS),
        st.none() | texts,
    ),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize("kind", KINDS)
@FEWER
@given(drawn=conversations)
def test_labels_are_the_answers_with_their_stop_and_nothing_else(
    made: dict[str, tuple[Any, Any]], images: list[Path], kind: str, drawn: list[Any]
) -> None:
    processor = made[kind][1]
    records = [
        record(exchanges, images[: count if kind != "llama" else 0], task, index, system)
        for index, (exchanges, count, task, system) in enumerate(drawn)
    ]
    batch = TaskCollator(processor, TASKS)(records)
    labels, ids = batch["labels"], batch["input_ids"]
    assert torch.equal(labels[labels >= 0], ids[labels >= 0])
    assert not (labels[batch["attention_mask"] == 0] >= 0).any()
    for row, (exchanges, *_) in enumerate(drawn):
        found = [text.lstrip() for text in answers_in(labels[row], processor)]
        assert found == [answer + STOPS[kind] for _, answer in exchanges]
    assert batch["loss_task_index"].tolist() == [TASKS.index(task) for _, _, task, _ in drawn]
    assert batch["loss_plan"].num_supervised == int((labels[:, 1:] >= 0).sum())


@pytest.mark.parametrize("kind", KINDS)
@FEWER
@given(drawn=conversations)
def test_a_prompt_is_what_stands_before_the_last_answer_in_training(
    made: dict[str, tuple[Any, Any]], images: list[Path], kind: str, drawn: list[Any]
) -> None:
    processor = made[kind][1]
    records = [
        record(exchanges, images[: count if kind != "llama" else 0], task, index, system)
        for index, (exchanges, count, task, system) in enumerate(drawn)
    ]
    batch = TaskCollator(processor, TASKS)(records)
    prompts = PromptCollator(processor)(records)
    for row in range(len(records)):
        prompt = prompts["input_ids"][row, prompts["attention_mask"][row].bool()]
        start = len(prompt)
        assert torch.equal(batch["input_ids"][row, :start], prompt)
        answer = batch["labels"][row, start:]
        assert answer[0] >= 0  # the first token to generate is the first one of the last answer
        assert len(answers_in(answer, processor)) == 1
        assert bool(prompts["attention_mask"][row, -1])  # padded on the left


def test_an_independent_mask_agrees(made: dict[str, tuple[Any, Any]]) -> None:
    """Templates that mark answers themselves let transformers make the mask."""
    tokenizer = copy.deepcopy(made["llama"][1])
    plain = tokenizer.chat_template
    content = "{{ message['content'] | trim + '<|eot_id|>' }}"
    assert content in plain
    marked = plain.replace(
        content,
        "{% if message['role'] == 'assistant' %}{% generation %}" + content + "{% endgeneration %}"
        "{% else %}" + content + "{% endif %}",
    )
    spoken = record([("How many?", "Two digits."), ("Which?", " seven and one ")], system="Be brief.")
    messages = [{"role": turn.role, "content": turn.text} for turn in spoken.turns]
    expected = tokenizer.apply_chat_template(
        messages, chat_template=marked, return_dict=True, return_assistant_tokens_mask=True
    )
    batch = TaskCollator(tokenizer, TASKS)([spoken])
    assert batch["input_ids"][0].tolist() == expected["input_ids"]
    assert (batch["labels"][0] >= 0).int().tolist() == expected["assistant_masks"]


# Truncation, images that cannot be read, batches without anything left.


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


TWO = [("How many?", "Two digits."), ("Which?", "A seven and a one, as far as one can see from here.")]


def test_truncation_that_cuts_an_answer_is_refused_or_the_whole_answers_are_kept(
    made: dict[str, tuple[Any, Any]], kind: str
) -> None:
    processor = made[kind][1]
    spoken = record(TWO, index=5)
    full = TaskCollator(processor, TASKS)([spoken])
    length = full["input_ids"].shape[1]
    supervised = (full["labels"][0] >= 0).nonzero().flatten()
    last_end = int(supervised[-1]) + 1
    whole = TaskCollator(processor, TASKS, max_length=last_end)([spoken])
    assert torch.equal(whole["labels"], full["labels"][:, :last_end])
    cut = last_end - 1
    with pytest.raises(
        BadRecordsError, match=rf"x\.json, record 5: truncation to max_length={cut} cuts away 1 of 2"
    ):
        TaskCollator(processor, TASKS, max_length=cut)([spoken])
    collate = TaskCollator(processor, TASKS, max_length=cut, on_bad="skip")
    batch = collate([spoken])
    assert batch["input_ids"].shape == (1, cut)
    assert [text.strip() for text in answers_in(batch["labels"][0], processor)] == [
        "Two digits." + STOPS[kind]
    ]
    assert (collate.skipped, collate.shortened) == (0, 1)
    assert length >= last_end


def test_a_record_without_a_whole_answer_leaves_a_batch_with_nothing_to_learn(
    made: dict[str, tuple[Any, Any]], kind: str
) -> None:
    model, processor = made[kind]
    collate = TaskCollator(processor, TASKS, max_length=8, on_bad="skip")
    batch = collate([record(TWO)])
    assert (batch["labels"] == -100).all()
    assert batch["loss_plan"].num_supervised == 0
    assert collate.skipped == 1
    inputs = {
        name: value for name, value in batch.items() if not name.startswith("loss") and name != "labels"
    }
    assert torch.isfinite(model(**inputs).logits).all()


@pytest.mark.parametrize("how", ["gone", "broken"])
def test_images_that_cannot_be_read(
    made: dict[str, tuple[Any, Any]], images: list[Path], tmp_path: Path, how: str
) -> None:
    bad = tmp_path / "bad.png"
    if how == "broken":
        bad.write_bytes(images[0].read_bytes()[:60])
    records = [
        record(TWO[:1], [images[0]]),
        record(TWO[:1], [bad], index=1),
        record(TWO[:1], [images[1]], "b", 2),
    ]
    processor = made["llava"][1]
    with pytest.raises(BadRecordsError, match=r"record 1: (missing image|image .* cannot be decoded)"):
        TaskCollator(processor, TASKS)(records)
    with pytest.raises(BadRecordsError, match="record 1"):
        PromptCollator(processor)(records)
    collate = TaskCollator(processor, TASKS, on_bad="skip")
    batch = collate(records)
    assert batch["loss_task_index"].tolist() == [0, 1]
    assert len(batch["pixel_values"]) == 2
    assert collate.skipped == 1


@pytest.mark.parametrize("kind", ["llava", "qwen"])
def test_a_blank_image_joins_batches_that_have_none(
    made: dict[str, tuple[Any, Any]], images: list[Path], kind: str
) -> None:
    model, processor = made[kind]
    text_only = [record(TWO[:1]), record(TWO, task="b")]
    plain = TaskCollator(processor, TASKS)(text_only)
    assert "pixel_values" not in plain
    batch = TaskCollator(processor, TASKS, blank_image=True)(text_only)
    assert len(batch["labels"]) == 3
    assert (batch["labels"][2] == -100).all()
    assert batch["loss_plan"].num_supervised == plain["loss_plan"].num_supervised
    width = plain["input_ids"].shape[1]
    assert torch.equal(batch["labels"][:2, :width], plain["labels"])
    inputs = {
        name: value for name, value in batch.items() if not name.startswith("loss") and name != "labels"
    }
    model.zero_grad()
    logits = model(**inputs).logits
    supervised = batch["labels"][:, 1:] >= 0
    logits[:, :-1][supervised].sum().backward()
    tower = getattr(model.model, "vision_tower", None) or model.model.visual
    grads = [parameter.grad for parameter in tower.parameters() if parameter.grad is not None]
    assert grads
    assert all(not grad.any() for grad in grads)
    model.zero_grad()
    seen = TaskCollator(processor, TASKS, blank_image=True)([record(TWO, images[:1])])
    assert len(seen["labels"]) == 1


def test_mixes_images(images: list[Path]) -> None:
    with_image, without = record(TWO, images[:1]), record(TWO)
    assert mixes_images([with_image, without])
    assert not mixes_images([with_image, with_image])
    assert not mixes_images([without])


# With the Trainer, with workers, copied.


def test_records_pass_the_trainers_column_removal(
    made: dict[str, tuple[Any, Any]], images: list[Path], tmp_path: Path
) -> None:
    model, processor = made["llava"]
    records = [record(TWO, images[:1], task, index) for index, task in enumerate("abab")]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        remove_unused_columns=True,
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    collate = TaskCollator(processor, TASKS)
    trainer = Trainer(model=model, args=arguments, train_dataset=records, data_collator=collate)  # type: ignore[arg-type]
    (batch,) = trainer.get_train_dataloader()
    assert sorted(batch["loss_task_index"].tolist()) == [0, 0, 1, 1]
    assert batch["loss_plan"].num_supervised > 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_counts_of_all_workers_come_together(made: dict[str, tuple[Any, Any]], images: list[Path]) -> None:
    processor = made["llava"][1]
    gone = images[0].with_name("gone.png")
    records = [record(TWO[:1], [gone if index % 3 == 0 else images[0]], index=index) for index in range(12)]
    collate = TaskCollator(processor, TASKS, on_bad="skip")
    loader = DataLoader(records, batch_size=3, num_workers=2, collate_fn=collate)  # type: ignore[arg-type]
    assert sum(len(batch["labels"]) for batch in loader) == 8
    assert collate.skipped == 4


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("count", [1, 12])
def test_bad_records_are_named_out_of_a_worker_too(
    made: dict[str, tuple[Any, Any]], images: list[Path], count: int
) -> None:
    gone = images[0].with_name("gone.png")
    records = [record(TWO[:1], [gone], index=index) for index in range(count)]
    collate = TaskCollator(made["llava"][1], TASKS)
    with pytest.raises(BadRecordsError) as expected:
        collate(records)
    loader = DataLoader(records, batch_size=count, num_workers=1, collate_fn=collate)  # type: ignore[arg-type]
    with pytest.raises(BadRecordsError) as found:
        next(iter(loader))
    assert str(found.value) == str(expected.value)
    assert found.value.problems == expected.value.problems[:10]
    assert found.value.advice == expected.value.advice
    again = pickle.loads(pickle.dumps(found.value))
    assert again.problems == found.value.problems


def test_copies_and_pickles(made: dict[str, tuple[Any, Any]]) -> None:
    collate = TaskCollator(made["llama"][1], TASKS)
    expected = collate([record(TWO)])["labels"]
    for other in (copy.deepcopy(collate), pickle.loads(pickle.dumps(collate))):
        assert torch.equal(other([record(TWO)])["labels"], expected)


# Loss weights of turns.


@pytest.mark.parametrize("kind", KINDS)
def test_answers_of_weight_0_are_shown_and_not_trained_on(
    made: dict[str, tuple[Any, Any]], kind: str
) -> None:
    processor = made[kind][1]
    plain = record(TWO)
    turns = tuple(
        replace(turn, weight=0.0) if number == 1 else turn for number, turn in enumerate(plain.turns)
    )
    expected, batch = (TaskCollator(processor, TASKS)([one]) for one in (plain, replace(plain, turns=turns)))
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert [text.strip() for text in answers_in(batch["labels"][0], processor)] == [TWO[1][1] + STOPS[kind]]
    assert batch["loss_plan"].token_weights is None


@given(st.lists(st.sampled_from([0.0, 0.25, 1.0, 3.0]), min_size=2, max_size=2).filter(any))
def test_weights_of_turns_are_weights_of_their_tokens(
    made: dict[str, tuple[Any, Any]], weights: list[float]
) -> None:
    model, tokenizer = made["llama"]
    model.train(False)
    plain = record(TWO)
    answers = iter(weights)
    turns = tuple(
        replace(turn, weight=next(answers)) if turn.role == "assistant" else turn for turn in plain.turns
    )
    batch = TaskCollator(tokenizer, TASKS)([replace(plain, turns=turns), record(TWO, task="b")])
    full = TaskCollator(tokenizer, TASKS)([plain, record(TWO, task="b")])
    # The loss by hand: each supervised token's own, times its answer's weight.
    logits = model(input_ids=full["input_ids"], attention_mask=full["attention_mask"]).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(logits.mT, full["labels"][:, 1:], reduction="none")
    starts = (full["labels"][0, 1:] >= 0).int().diff(prepend=torch.zeros(1, dtype=torch.int32)) == 1
    numbers = starts.cumsum(0).clamp(min=1) - 1
    factors = torch.ones_like(losses)
    factors[0] = torch.tensor(weights)[numbers]
    supervised = full["labels"][:, 1:] >= 0
    expected = (factors * losses)[supervised].sum() / factors[supervised].sum()
    handle = balance(copy.deepcopy(model), [1.0, 1.0])
    handle.model.train()
    try:
        loss = handle.model(**batch).loss
    finally:
        handle.remove()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_masked_answer_may_be_cut_away(made: dict[str, tuple[Any, Any]]) -> None:
    tokenizer = made["llama"][1]
    plain = record(TWO)
    turns = (*plain.turns[:3], replace(plain.turns[3], weight=0.0))
    collate = TaskCollator(tokenizer, TASKS, max_length=30)
    assert answers_in(collate([replace(plain, turns=turns)])["labels"][0], tokenizer) == [
        "Two digits.<|eot_id|>"
    ]
    assert collate.shortened == 0


# Records with and without images in one batch.


@pytest.mark.parametrize("kind", ["llava", "qwen", "gemma3"])
def test_rows_without_images_beside_rows_with_some(
    made: dict[str, tuple[Any, Any]], images: list[Path], kind: str
) -> None:
    processor = tiny_models.tiny_gemma3_processor() if kind == "gemma3" else made[kind][1]
    records = [record(TWO), record(TWO[:1], images[:1], "b"), record(TWO), record(TWO[:1], images[:2])]
    alone = [TaskCollator(processor, TASKS)([one]) for one in records]
    batch = TaskCollator(processor, TASKS)(records)
    for row, one in enumerate(alone):
        length = one["input_ids"].shape[1]
        assert torch.equal(batch["input_ids"][row, :length], one["input_ids"][0])
        assert torch.equal(batch["labels"][row, :length], one["labels"][0])
    pixels = torch.cat([one["pixel_values"] for one in alone if "pixel_values" in one])
    assert torch.equal(batch["pixel_values"], pixels)
    prompts = PromptCollator(processor)(records)
    assert torch.equal(prompts["pixel_values"], pixels)
    assert len(TaskCollator(processor, TASKS, blank_image=True)(records[:1])["labels"]) == 2


# Dictionaries.


def raw(image: Path, task: str | None = "a") -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": "Two digits."}]
    return {"image": str(image), "conversations": turns, "task": task}


def test_dictionaries_are_read_as_records_are(made: dict[str, tuple[Any, Any]], images: list[Path]) -> None:
    processor = made["llava"][1]
    expected = TaskCollator(processor, TASKS)([record(TWO[:1], images[:1], "b")])
    with Image.open(images[0]) as picture:
        for given in (raw(images[0], "b"), raw(images[0], "b") | {"image": picture}):
            batch = TaskCollator(processor, TASKS)([given])
            assert torch.equal(batch["labels"], expected["labels"])
            assert torch.equal(batch["pixel_values"], expected["pixel_values"])
            assert batch["loss_task_index"].tolist() == [1]
    assert TaskCollator(processor, ["only"])([raw(images[0], None)])["loss_task_index"].tolist() == [0]


def test_dictionaries_that_are_no_records(made: dict[str, tuple[Any, Any]], images: list[Path]) -> None:
    processor = made["llava"][1]
    bad = {"input_ids": [1, 2]}
    with pytest.raises(BadRecordsError, match=r"batch, record 1: no 'conversations'.*\(input_ids\)"):
        TaskCollator(processor, TASKS)([raw(images[0]), bad])
    collate = TaskCollator(processor, TASKS, on_bad="skip")
    assert collate([raw(images[0]), bad])["loss_task_index"].tolist() == [0]
    assert collate.skipped == 1
    assert collate([bad])["loss_plan"].num_supervised == 0
    with pytest.raises(TypeError, match=r"TaskCollator takes records.*found str"):
        TaskCollator(processor, TASKS)(["a text"])  # type: ignore[list-item]


@pytest.mark.parametrize("form", ["list", "datasets"])
def test_the_trainer_takes_dictionaries(
    made: dict[str, tuple[Any, Any]], images: list[Path], tmp_path: Path, form: str
) -> None:
    model, processor = tiny_models.tiny_llava()
    rows: Any = [raw(images[0], task) for task in "abab"]
    if form == "datasets":
        rows = datasets.Dataset.from_list(rows)
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = TaskBalancedTrainer(
        model,
        arguments,
        train_dataset=rows,
        data_collator=TaskCollator(processor, TASKS),
        tasks=TASKS,
        strategy="ew",
    )
    assert trainer.train().training_loss > 0


# What is not accepted.


def test_bad_arguments_are_named(made: dict[str, tuple[Any, Any]], images: list[Path]) -> None:
    processor = made["llama"][1]
    with pytest.raises(ValueError, match="tasks is"):
        TaskCollator(processor, [])
    with pytest.raises(ValueError, match="tasks is"):
        TaskCollator(processor, ["a", "a"])
    with pytest.raises(ValueError, match="max_length is 0"):
        TaskCollator(processor, TASKS, max_length=0)
    with pytest.raises(ValueError, match="on_bad is 'drop'"):
        TaskCollator(processor, TASKS, on_bad="drop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="blank_image is set"):
        TaskCollator(processor, TASKS, blank_image=True)
    with pytest.raises(ValueError, match="task 'c' is not in"):
        TaskCollator(processor, TASKS)([record(TWO, task="c")])
    with pytest.raises(ValueError, match="hand in the model's processor"):
        TaskCollator(processor, TASKS)([record(TWO, images[:1])])
    with pytest.raises(ValueError, match="empty list"):
        TaskCollator(processor, TASKS)([])


def test_processors_that_lack_something_are_named(made: dict[str, tuple[Any, Any]]) -> None:
    without_template = copy.deepcopy(made["llama"][1])
    without_template.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        TaskCollator(without_template, TASKS)
    without_padding = copy.deepcopy(made["llama"][1])
    without_padding.pad_token = None
    with pytest.raises(ValueError, match="has no padding token"):
        TaskCollator(without_padding, TASKS)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no such turn') }}", "the chat template refuses the conversation"),
        ("{% for m in messages %}{{ m['content'] | upper }}|{% endfor %}", "rewrites an answer"),
        (
            "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}",
            "exactly once",
        ),
        ("{% for m in messages %}{{ m['content'] }}{{ m['content'] }}{% endfor %}", "exactly once"),
    ],
)
def test_templates_that_hide_or_change_answers(
    made: dict[str, tuple[Any, Any]], template: str, reason: str
) -> None:
    tokenizer = copy.deepcopy(made["llama"][1])
    tokenizer.chat_template = template
    with pytest.raises(BadRecordsError, match=reason):
        TaskCollator(tokenizer, TASKS)([record(TWO)])
