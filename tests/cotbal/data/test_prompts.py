"""Prompts and what comes back from generation."""

from pathlib import Path

import torch
from support.models import tiny_models

from cotbal.data import PromptCollator, Record, Turn


def test_decode_cuts_prompts_and_special_tokens_off() -> None:
    _, tokenizer = tiny_models.tiny_llama()
    records = [
        Record(str(i), "a", (), (Turn("user", text), Turn("assistant", "x")), ("x",), Path("x.json"), i)
        for i, text in enumerate(["Which?", "How many digits are there in this scene?"])
    ]
    collate = PromptCollator(tokenizer)
    batch = collate(records)
    answers = tokenizer(["a seven", "two"], padding=True, padding_side="right", return_tensors="pt")[
        "input_ids"
    ]
    stop = torch.full((2, 1), tokenizer.eos_token_id)
    generated = torch.cat([batch["input_ids"], answers, stop], dim=1)
    assert collate.decode(batch, generated) == ["a seven", "two"]


def test_padding_changes_no_answer() -> None:
    model, processor = tiny_models.tiny_llava()
    records = [
        Record(str(i), "a", (), (Turn("user", text), Turn("assistant", "x")), ("x",), Path("x.json"), i)
        for i, text in enumerate(["Which?", "How many digits are there in this scene?"])
    ]
    collate = PromptCollator(processor)

    def answers(some: list[Record]) -> list[str]:
        batch = collate(some)
        return collate.decode(batch, model.generate(**batch, max_new_tokens=6, do_sample=False))

    assert answers(records) == answers(records[:1]) + answers(records[1:])
