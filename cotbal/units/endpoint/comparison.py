"""What the model answers in process to a few samples, and whether a server's answers are its.

Engines round differently, so two greedy answers of one model may part where its two most likely tokens are as good as
equal. Anywhere else it is another model, another prompt, other pictures, or settings of generation that act although
nobody asked for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from cotbal.data.prompts import PromptCollator
from cotbal.data.records import ImageSource, Record
from cotbal.units.evaluate import to_model
from cotbal.units.generation import generating, generation_settings

__all__ = ["PicturePair", "Reference", "parting", "picture_pair", "reference_answers", "spread", "tolerance"]

# How many other pictures are tried until the model answers a question otherwise.
_PICTURES = 8


@dataclass(frozen=True)
class Reference:
    """A sample and what the model answers to it in process.

    Attributes:
        record: the sample.
        text: the answer.
        ends: for each generated token, how many characters of the text it and those before it make.
        gaps: for each, how much likelier it was than the second best, in nats.
    """

    record: Record
    text: str
    ends: tuple[int, ...]
    gaps: tuple[float, ...]


@dataclass(frozen=True)
class PicturePair:
    """One question about two pictures that the model answers differently in process."""

    first: Reference
    second: Reference


def tolerance(dtype: torch.dtype) -> float:
    """The gap up to which two tokens are as good as equal, in nats.

    Logits lie between 10 and 40, so that 16-bit ones are steps of 1/16 to 1/4 apart, and float32 ones some 1e-5; both
    with room for what layers add up to.
    """
    return 0.01 if dtype in (torch.float32, torch.float64) else 0.5


def spread(records: Sequence[Record], count: int) -> list[Record]:
    """So many of the records, evenly spread over their order."""
    count = min(count, len(records))
    return [records[number * len(records) // count] for number in range(count)]


def reference_answers(
    model: PreTrainedModel, processor: Any, records: Sequence[Record], *, max_new_tokens: int, batch_size: int
) -> list[Reference]:
    """Answer some records in process, as in-process scoring does, and note how sure each token is."""
    prompts = PromptCollator(processor)
    tokenizer = getattr(processor, "tokenizer", processor)
    found: list[Reference] = []
    generator: Any = model
    for start in range(0, len(records), batch_size):
        part = records[start : start + batch_size]
        batch = to_model(prompts(part), model)
        gaps = _Gaps()
        with (
            torch.inference_mode(),
            generating(model, tokenizer.pad_token_id, generation_settings({}), max_new_tokens),
        ):
            end = model.generation_config.eos_token_id
            tokens = generator.generate(**batch, logits_processor=LogitsProcessorList([gaps]))
        ends = set(end) if isinstance(end, (list, tuple)) else {end}
        answers = tokens[:, batch["input_ids"].shape[1] :].tolist()
        for row, (record, answer) in enumerate(zip(part, answers, strict=True)):
            length = next((place + 1 for place, token in enumerate(answer) if token in ends), len(answer))
            steps = [step[row] for step in gaps.steps[:length]]
            found.append(_reference(tokenizer, record, answer[:length], steps))
    return found


def parting(reference: Reference, answer: str) -> float | None:
    """How sure the model was where another answer parts from its own, in nats; None where they are the same."""
    if answer == reference.text:
        return None
    pairs = enumerate(zip(reference.text, answer, strict=False))
    shared = next((place for place, (ours, theirs) in pairs if ours != theirs), None)
    if shared is None:
        shared = min(len(reference.text), len(answer))
    token = next((n for n, end in enumerate(reference.ends) if end > shared), len(reference.ends) - 1)
    # The text shows it up to two tokens late, as tokens begin with the same letters.
    return min(reference.gaps[max(0, token - 2) : token + 1], default=0.0)


def picture_pair(
    model: PreTrainedModel,
    processor: Any,
    records: Sequence[Record],
    first: Reference,
    *,
    max_new_tokens: int,
    batch_size: int,
) -> PicturePair | None:
    """The first sample's question with a picture for which the model surely gives another answer, if one is found."""
    shown: list[tuple[ImageSource, ...]] = []
    for record in records:
        if len(record.images) == len(first.record.images) and record.images not in (
            first.record.images,
            *shown,
        ):
            shown.append(record.images)
        if len(shown) == _PICTURES:
            break
    asked = [replace(first.record, images=images) for images in shown]
    sure = tolerance(model.dtype)
    for other in reference_answers(
        model, processor, asked, max_new_tokens=max_new_tokens, batch_size=batch_size
    ):
        found = parting(first, other.text)
        if found is not None and found > sure:
            return PicturePair(first, other)
    return None


class _Gaps(LogitsProcessor):
    """Notes how far the best token is ahead of the second best, and changes nothing."""

    def __init__(self) -> None:
        self.steps: list[list[float]] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        best = scores.float().log_softmax(-1).topk(2).values
        self.steps.append((best[:, 0] - best[:, 1]).tolist())
        return scores


def _reference(tokenizer: Any, record: Record, tokens: list[int], gaps: list[float]) -> Reference:
    texts = [
        str(tokenizer.decode(tokens[: count + 1], skip_special_tokens=True)) for count in range(len(tokens))
    ]
    whole = texts[-1] if texts else ""
    lead = len(whole) - len(whole.lstrip())
    ends = tuple(max(0, len(text) - lead) for text in texts)
    return Reference(record, whole.strip(), ends, tuple(gaps))
