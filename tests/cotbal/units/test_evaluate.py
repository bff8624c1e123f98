"""Scoring: answers kept batch by batch, the same after an interruption, losses equal to the stock model's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.models import tiny_models

from cotbal import metrics
from cotbal.data.collate import TaskCollator
from cotbal.data.prompts import PromptCollator
from cotbal.data.records import BadRecordsError, Record, Turn
from cotbal.metrics.metric import TOKEN_ACCURACY
from cotbal.output.answer_file import answer_line
from cotbal.units.evaluate import _finished_batches, answer, teacher_forced_loss
from cotbal.units.generation import generation_settings


def record(index: int, text: str = "three") -> Record:
    turns = (Turn("user", f"How many are there in {'scene ' * (index % 3)}?"), Turn("assistant", text))
    return Record(str(index), "count", (), turns, (text,), Path("v.json"), index)


RECORDS = [record(index, ("three", "one", "a red four")[index % 3]) for index in range(7)]


@given(
    order=st.integers(0, 12).flatmap(lambda count: st.permutations(range(count))),
    batch=st.integers(1, 5),
    done=st.integers(0, 12),
    torn=st.integers(0, 30),
)
def test_only_complete_batches_are_kept(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], batch: int, done: int, torn: int
) -> None:
    count = len(order)
    done = min(done, count)
    path = tmp_path_factory.mktemp("p") / "count.jsonl"
    whole = "".join(answer_line(i, f"answer {i}", "") for i in order[:done])
    path.write_text(whole + answer_line(done, "x" * 40, "")[:torn])
    kept = _finished_batches(path, order, batch)
    expected = count if done == count else done - done % batch
    assert kept == [f"answer {i}" for i in order[:expected]]
    assert path.read_text().count("\n") == expected
    assert _finished_batches(path, order, batch) == kept


def test_answers_of_another_order_are_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "count.jsonl"
    path.write_text("".join(answer_line(i, "x", "") for i in range(4)))
    assert _finished_batches(path, [0, 1, 2, 3], 1, source="another model") == []
    path.write_text("".join(answer_line(i, "x", "") for i in range(4)))
    assert _finished_batches(path, [0, 1, 3, 2], 1) == ["x", "x"]


def _answers(path: Path, name: str = "exact_match", **options: Any) -> list[str | float]:
    model, processor = tiny_models.tiny_llama()
    settings = {
        "metric": metrics.get(name),
        "batch_size": 2,
        "max_new_tokens": 3,
        "max_length": None,
    } | options
    return answer(model, processor, RECORDS, path=path, **settings)


SAMPLED = generation_settings({"do_sample": True, "temperature": 2.0})


@pytest.mark.parametrize(
    ("name", "generation"), [("exact_match", None), ("exact_match", SAMPLED), ("loss", None)]
)
@pytest.mark.parametrize(("kept", "workers"), [(0, 0), (2, 1), (3, 2), (7, 0)])
def test_an_interrupted_call_ends_with_the_same_answers(
    tmp_path: Path, name: str, generation: dict[str, Any] | None, kept: int, workers: int
) -> None:
    torch.manual_seed(0)
    whole = _answers(tmp_path / "whole.jsonl", name, generation=generation)
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == len(whole) == len(RECORDS)
    part = tmp_path / "part.jsonl"
    part.write_text("".join(lines[:kept]) + "{torn")
    told: list[int] = []
    torch.manual_seed(1)
    found = _answers(part, name, generation=generation, workers=workers, advance=told.append)
    assert found == whole
    assert part.read_text() == (tmp_path / "whole.jsonl").read_text()
    assert sum(told) == len(RECORDS)


def test_the_longest_come_first_and_answers_in_the_order_of_the_records(tmp_path: Path) -> None:
    answers = _answers(tmp_path / "p.jsonl", "loss", batch_size=1)
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    order = [line["index"] for line in lines]
    lengths = [sum(len(turn.text) for turn in RECORDS[index].turns) for index in order]
    assert lengths == sorted(lengths, reverse=True)
    assert order != sorted(order)
    assert [line["answer"] for line in lines] == [answers[index] for index in order]
    model, processor = tiny_models.tiny_llama()
    collator = TaskCollator(processor, ["count"])
    assert answers == [teacher_forced_loss(model, collator([one]))[0] for one in RECORDS]


def _greedy(model: Any, prompt: torch.Tensor, stop: int, steps: int) -> list[int]:
    """Plain greedy search: the most likely token, again and again."""
    tokens = prompt
    for _ in range(steps):
        with torch.no_grad():
            tokens = torch.cat(
                [tokens, model(input_ids=tokens).logits[:, -1].argmax(-1, keepdim=True)], dim=1
            )
        if int(tokens[0, -1]) == stop:
            break
    return tokens[0, prompt.shape[1] :].tolist()


RECOMMENDED = [
    {"repetition_penalty": 1.9},
    {"no_repeat_ngram_size": 1},
    {"do_sample": True, "temperature": 5.0, "top_k": 3},
    {"min_new_tokens": 8, "suppress_tokens": [5, 6, 7, 8, 9, 10, 11, 12]},
    {"num_beams": 3, "length_penalty": 4.0},
    {"forced_eos_token_id": 2, "max_length": 12, "bad_words_ids": [[5], [6], [7], [8]]},
]


@pytest.mark.parametrize("recommended", RECOMMENDED, ids=lambda value: ",".join(value))
def test_scoring_is_plain_greedy_whatever_the_checkpoint_recommends(
    tmp_path: Path, recommended: dict[str, Any]
) -> None:
    model, processor = tiny_models.tiny_llama()
    prompts = PromptCollator(processor)
    stop = model.generation_config.eos_token_id
    expected = []
    for one in RECORDS:
        batch = prompts([one])
        found = _greedy(model, batch["input_ids"], stop, 8)
        expected.append(processor.decode(found, skip_special_tokens=True).strip())
    model.generation_config.update(**recommended)
    before = model.generation_config.to_dict()
    settings: dict[str, Any] = {"metric": metrics.get("exact_match"), "max_new_tokens": 8, "max_length": None}
    found = answer(model, processor, RECORDS, batch_size=1, path=tmp_path / "p.jsonl", **settings)
    assert found == expected
    assert model.generation_config.to_dict() == before, "the model is left as it was"


def test_what_the_config_asks_for_acts(tmp_path: Path) -> None:
    plain = _answers(tmp_path / "plain.jsonl", max_new_tokens=8)
    options = generation_settings({"repetition_penalty": 5.0})
    assert _answers(tmp_path / "other.jsonl", max_new_tokens=8, generation=options) != plain


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_cannot_be_read_is_named_from_a_worker_too(tmp_path: Path, workers: int) -> None:
    model, processor = tiny_models.tiny_llava()
    turns = (Turn("user", "<image>\nWhat?"), Turn("assistant", "red"))
    broken = Record("9", "t", (tmp_path / "none.png",), turns, ("red",), tmp_path / "v.json", 9)
    settings: dict[str, Any] = {"metric": metrics.get("exact_match"), "max_new_tokens": 2, "max_length": None}
    with pytest.raises(BadRecordsError, match=r"v\.json, record 9: .*none\.png") as caught:
        answer(
            model, processor, [broken], batch_size=1, path=tmp_path / "p.jsonl", workers=workers, **settings
        )
    assert [problem.index for problem in caught.value.problems] == [9]


def test_losses_are_the_stock_models_one_sample_at_a_time() -> None:
    model, processor = tiny_models.tiny_llama()
    collator = TaskCollator(processor, ["count"])
    together = teacher_forced_loss(model, collator(RECORDS))
    for one, loss in zip(RECORDS, together, strict=True):
        batch = collator([one])
        with torch.no_grad():
            stock = model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]
            ).loss
        # Padding changes the order of sums: a few float32 roundings of a loss of about 6.
        assert loss == pytest.approx(float(stock), rel=1e-5)


def test_token_accuracies_are_the_stock_models_in_the_order_of_the_records(tmp_path: Path) -> None:
    model, processor = tiny_models.tiny_llama()
    records = [record(0), record(1, "three three three"), record(2, "one three three one")]
    # Taught one of the answers, the model gets some tokens right and some wrong.
    taught = TaskCollator(processor, ["count"])(records[1:2])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        names = ("input_ids", "attention_mask", "labels")
        model(**{name: taught[name] for name in names}).loss.backward()
        optimizer.step()
    settings = {"metric": TOKEN_ACCURACY, "batch_size": 2, "max_new_tokens": 0, "max_length": None}
    found = answer(model, processor, records, **settings, path=tmp_path / "a.jsonl")
    for one, share in zip(records, found, strict=True):
        batch = TaskCollator(processor, ["count"])([one])
        with torch.no_grad():
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        labels = batch["labels"][0, 1:]
        there = labels != -100
        right = logits[0, :-1].argmax(dim=-1)[there] == labels[there]
        assert share == pytest.approx(float(right.float().mean()))
    assert len(set(found)) > 1
    # What is kept is read back as it was.
    assert answer(model, processor, records, **settings, path=tmp_path / "a.jsonl") == found
