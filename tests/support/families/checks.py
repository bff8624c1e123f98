"""What is promised of a family, each held by a function that gives the largest relative deviation and its limit.

`equal`: with equal weights, loss and gradients are the stock model's. `unequal`: with others, the float64 oracle's.
`accumulated`: the same over the micro-batches of a step. `with_lora`: the same under a LoRA adapter of peft.
`together`: rows with and without pictures share a batch. `generated`: a balanced model answers what the stock model
answers. `reloaded`: what a trained model saves is read back as the same model.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import peft
import torch
from PIL import Image
from support.families.base import Batch, Family
from support.tune.step_oracle import Gradients, gradients_of, largest_deviation, oracle_step, to_double
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from cotbal.data.collate import TaskCollator
from cotbal.data.prompts import PromptCollator
from cotbal.data.records import Record, Turn
from cotbal.tune import balance
from cotbal.tune.step import begin_step, end_step
from cotbal.units.generation import generating, generation_settings

TASKS = ("caption", "question", "reading")
WEIGHTS = (0.5, 2.0, 0.1)
LIMIT = 1e-10  # of what is computed in float64
Outcome = tuple[float, float]
Step = tuple[float, Gradients]
_OURS = ("loss_plan", "loss_task_index", "loss_token_weights")


def records(family: Family, seed: int = 0) -> list[Record]:
    """A record with a picture, one without (if it may be beside others), and one with a picture and two answers.

    Each is of a task of its own; without pictures where the family sees none.
    """
    image = _picture(seed)
    mark = "<image>\n" if family.pictures else ""
    seen = [family.pictures, family.pictures and family.apart, family.pictures]
    turns = (
        (Turn("user", mark + "What number is it?"), Turn("assistant", f"A red {seed + 3}.")),
        (Turn("user", (mark if seen[1] else "") + "How many digits are there?"), Turn("assistant", "three")),
        (
            Turn("user", mark + "Read the digits."),
            Turn("assistant", "seven and four"),
            Turn("user", "Where is the nine?"),
            Turn("assistant", "at the top"),
        ),
    )
    return [
        Record(
            str(number),
            TASKS[number],
            (image,) if seen[number] else (),
            spoken,
            (spoken[-1].text,),
            Path("made.json"),
            number,
        )
        for number, spoken in enumerate(turns)
    ]


def _picture(seed: int) -> bytes:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (28, 56, 3), generator=generator, dtype=torch.uint8).numpy()
    written = BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


def batch_of(family: Family, model: Any, processor: Any, seed: int = 0) -> Batch:
    """A batch of rows with and without pictures, through the family's own processor where there is one."""
    if family.tensors is not None:
        return family.tensors(model, seed)
    return _of_dtype(TaskCollator(processor, TASKS)(records(family, seed)), model.dtype)


def equal(family: Family) -> Outcome:
    """Deviation from the stock loss and gradients with equal weights, in float32.

    The limit is 1e-5 or, where rounding does more than that to the stock model, twice what it does.
    """
    model, processor = family.make()
    model.train()
    batch = batch_of(family, model, processor)
    exact = _oracle(to_double(copy.deepcopy(model)), [_in_double(batch)], [1.0, 1.0, 1.0])
    stock = _backward(model, {name: value for name, value in batch.items() if name not in _OURS})
    balance(model, [1.0, 1.0, 1.0])
    return _deviation(_backward(model, batch), stock), max(1e-5, 2 * _deviation(stock, exact))


def unequal(family: Family) -> Outcome:
    """Deviation from the oracle with unequal weights, in float64."""
    model, processor = family.make()
    return _against_oracle(to_double(model).train(), [batch_of(family, model, processor)])


def accumulated(family: Family) -> Outcome:
    """Deviation from the oracle over three micro-batches of one step."""
    model, processor = family.make()
    batches = [batch_of(family, model, processor, seed) for seed in range(3)]
    return _against_oracle(to_double(model).train(), batches)


def with_lora(family: Family) -> Outcome:
    """Deviation from the oracle for the parameters of an adapter that is not 0, over two micro-batches."""
    model, processor = family.make()
    batches = [batch_of(family, model, processor, seed) for seed in range(2)]
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=_targets(family), task_type=None)
    )
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return _against_oracle(to_double(adapted).train(), batches)


def together(family: Family) -> Outcome:
    """Deviation of a row's logits in a batch of rows with and without pictures from the row's alone.

    Of a family whose rows are `apart`, in a batch of rows with pictures.
    """
    model, processor = family.make()
    model = to_double(model)
    chosen = records(family)
    collate = TaskCollator(processor, TASKS)
    worst = 0.0
    # A blank picture joins rows that have none, where several processes must all call the vision tower.
    batches = [(collate, chosen)]
    if family.pictures and not family.apart:
        batches.append((TaskCollator(processor, TASKS, blank_image=True), [chosen[1], chosen[1]]))
    with torch.no_grad():
        for several, rows in batches:
            found = _logits(model, several(rows))
            for row, record in enumerate(rows):
                alone = _logits(model, collate([record]))[0]
                difference = (found[row, : len(alone)] - alone).abs().max()
                worst = max(worst, float(difference / alone.abs().max()))
    return worst, LIMIT


def _logits(model: Any, batch: Batch) -> torch.Tensor:
    inputs = {name: value for name, value in _in_double(batch).items() if name not in ("labels", *_OURS)}
    logits: torch.Tensor = model(**inputs).logits
    return logits


def generated(family: Family) -> Outcome:
    """Share of the tokens in which a balanced model's answer differs from the stock model's."""
    model, processor = family.make()
    batch = batch_of(family, model, processor)
    if family.tensors is None:
        prompt = _of_dtype(PromptCollator(processor)(records(family)), model.dtype)
    else:
        prompt = {name: value for name, value in batch.items() if name != "labels" and name not in _OURS}
    prompt.pop("labels", None)
    pad = model.generation_config.pad_token_id
    with generating(model, pad, generation_settings({}), 4):
        expected = model.generate(**prompt)
        balance(model, WEIGHTS)
        model.train()
        model(**batch).loss.backward()
        model.eval()
        found = model.generate(**prompt)
    same = found.shape == expected.shape and bool((found == expected).all())
    return 0.0 if same else 1.0, 0.0


def reloaded(family: Family) -> Outcome:
    """Largest difference of a tensor between a balanced model and what `from_pretrained` reads of its files."""
    model, processor = family.make()
    batch = batch_of(family, model, processor)
    balance(model, WEIGHTS)
    model.train()
    model(**batch).loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    loader = AutoModelForImageTextToText if family.pictures else AutoModelForCausalLM
    if type(model).__name__.endswith("ForCausalLM"):
        loader = AutoModelForCausalLM
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        read = loader.from_pretrained(folder)
    expected, found = model.state_dict(), read.state_dict()
    if expected.keys() != found.keys() or type(read) is not type(model):
        return 1.0, 0.0
    return max(float((found[name] - value).abs().max()) for name, value in expected.items()), 0.0


CHECKS: dict[str, Callable[[Family], Outcome]] = {
    check.__name__: check for check in (equal, unequal, accumulated, with_lora, together, generated, reloaded)
}


def _targets(family: Family) -> list[str] | str:
    return family.lora if isinstance(family.lora, str) else list(family.lora)


def _against_oracle(model: Any, batches: Sequence[Batch]) -> Outcome:
    batches = [_in_double(batch) for batch in batches]
    expected = _oracle(model, batches, WEIGHTS)
    handle = balance(model, WEIGHTS)
    model.zero_grad(set_to_none=True)
    begin_step(handle, batches)
    found = 0.0
    for batch in batches:
        part = model(**batch).loss
        part.backward()
        found += part.item()
    end_step(handle)
    return _deviation((found, gradients_of(model)), expected), LIMIT


def _oracle(model: Any, batches: Sequence[Batch], weights: Sequence[float]) -> Step:
    """The formula's loss and gradients, and a router's own loss beside them: its mean over the micro-batches."""
    twin = copy.deepcopy(model)
    loss, gradients = oracle_step(twin, batches, list(weights))
    text = twin.config.get_text_config()
    if not getattr(text, "output_router_logits", False):
        return loss, gradients
    twin.zero_grad(set_to_none=True)
    for batch in batches:
        inputs = {name: value for name, value in batch.items() if name != "labels" and name not in _OURS}
        extra = text.router_aux_loss_coef * twin(**inputs, use_cache=False).aux_loss
        # Families compute it in float32, where a third is rounded.
        (extra.double() / len(batches)).backward()
        loss += extra.item() / len(batches)
    for name, gradient in gradients_of(twin).items():
        gradients[name] = gradients[name] + gradient if name in gradients else gradient
    return loss, gradients


def _backward(model: Any, batch: Batch) -> Step:
    model.zero_grad(set_to_none=True)
    loss = model(**batch).loss
    loss.backward()
    return loss.item(), gradients_of(model)


def _deviation(found: Step, expected: Step) -> float:
    return max(abs(found[0] - expected[0]) / abs(expected[0]), largest_deviation(found[1], expected[1]))


def _in_double(batch: Batch) -> Batch:
    return _of_dtype(batch, torch.float64)


def _of_dtype(batch: Batch, dtype: torch.dtype) -> Batch:
    return {
        name: value.to(dtype)
        if isinstance(value, torch.Tensor) and value.is_floating_point() and name not in _OURS
        else value
        for name, value in batch.items()
    }
