"""The page of the families: a row for each, with what was found and why something is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
import transformers
from support.families.base import Family
from support.families.checks import CHECKS
from support.families.listing import FAMILIES

from cotbal.tune import balance

TITLES = {
    "equal": "equal weights, against stock",
    "unequal": "unequal weights, against the formula",
    "accumulated": "over 3 micro-batches",
    "with_lora": "LoRA",
    "together": "rows together",
    "generated": "generate",
    "reloaded": "save and load",
}
INTRODUCTION = """\
# Model families

Find your model's family: the row says whether its task weights are exact, and what is refused and why.

Each family is a tiny model of transformers' own class with random weights, given records through the family's own
processor and a chat template in its style (`TaskCollator`). Families with pictures see a record with one picture, one
without, and one with a picture and two answers in the same batch. Figures are the largest relative deviations of the
loss and of any parameter's gradient:

- **equal weights, against stock**: from the stock model's own loss, in float32. The limit is 1e-5 or, where rounding
  does more than that to the stock model itself, twice what it does.
- **unequal weights, against the formula**: from the written-out formula on the stock model's full logits, in float64
  (limit 1e-10); **over 3 micro-batches**: the same for a step of three; **LoRA**: the same for an adapter of peft.
- **rows together**: a row's logits in a batch of rows with and without pictures, from those of the row alone.
- **generate**: the balanced model answers what the stock model answers.
- **save and load**: `from_pretrained` reads what `save_pretrained` wrote, tensor by tensor.

A router's auxiliary loss is kept. Over the micro-batches and ranks of a step it adds up to its mean; transformers
adds each one in full, so that it grows with the accumulation. The mixtures of experts below have it switched on
(`output_router_logits`).
"""
NEEDS = """\
In transformers {version} the processors of {names} need torchvision, even where a picture processor on Pillow alone
is there: Pixtral's processor, which Mistral 3 has too, imports the other one, SmolVLM's chat template asks its video
processor (and its own processor needs num2words), and Llama 4 and Phi-4-multimodal have none. CoTBal needs neither
package. These rows were made with both; `make test-torchvision` brings them and tries these families. Other tests
give the models tensors of the shapes that the processors make.
"""
OTHERS = """\
## What is refused

| model | reason |
|-|-|
"""


@dataclass(frozen=True)
class Row:
    """What was found of one family, by check: the deviation and its limit, or None where it cannot be tried."""

    family: Family
    found: Mapping[str, tuple[float, float] | None]

    @property
    def passed(self) -> bool:
        """Whether nothing exceeds its limit."""
        return all(found is None or found[0] <= found[1] for found in self.found.values())


def rows() -> list[Row]:
    """Try everything on every family."""
    return [
        Row(family, {name: check(family) if tries(family, name) else None for name, check in CHECKS.items()})
        for family in FAMILIES.values()
    ]


def tries(family: Family, check: str) -> bool:
    """Whether a check can be made: rows go together through a processor alone."""
    return check != "together" or family.tensors is None


def refusals() -> dict[str, str]:
    """Models that `balance` or the first training forward refuses, and the words it does so with."""
    vocabulary = 64
    t5 = transformers.T5Config(vocab_size=vocabulary, d_model=32, d_kv=16, d_ff=48, num_layers=1, num_heads=2)
    llama = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=0,
    )
    made = {
        "encoder-decoders (T5)": transformers.T5ForConditionalGeneration(t5),
        "no language-model head (Llama for classification)": transformers.LlamaForSequenceClassification(
            llama
        ),
        "a loss of another kind (BERT's masked words)": transformers.BertForMaskedLM(
            transformers.BertConfig(
                vocab_size=vocabulary, hidden_size=32, num_hidden_layers=1, num_attention_heads=2
            )
        ),
    }
    return {name: _refusal(model) for name, model in made.items()}


def _refusal(model: Any) -> str:
    ids = torch.arange(8)[None]
    try:
        balance(model, [1.0, 1.0])
        model.train()(input_ids=ids, labels=ids, loss_task_index=torch.tensor([0]))
    except ValueError as error:
        return str(error)
    return ""


def page(found: Sequence[Row], refused: Mapping[str, str]) -> str:
    """The page as Markdown."""
    lines = [
        INTRODUCTION,
        "Made by `python docs/make_families.py` with "
        + ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "torchvision"))
        + ".\n",
        f"| family | {' | '.join(TITLES.values())} | remarks |",
        "|-" * (len(TITLES) + 2) + "|",
    ]
    lines += [_line(row) for row in found]
    *names, last = (row.family.name for row in found if row.family.needs)
    needing = f"{', '.join(names)} and {last}"
    lines += ["", NEEDS.format(names=needing, version=version("transformers")).rstrip()]
    lines += ["", OTHERS + "\n".join(f"| {name} | {reason} |" for name, reason in refused.items()), ""]
    return "\n".join(lines)


def _line(row: Row) -> str:
    cells = [_cell(name, value) for name, value in row.found.items()]
    if row.family.apart:
        cells[list(row.found).index("together")] = "refused"
    if row.family.refused:
        cells[list(row.found).index("together")] = "refused"
    remarks = [row.family.note]
    if row.family.refused:
        remarks.append(f"its records are refused: {row.family.refused}")
    return f"| {row.family.name} | {' | '.join(cells)} | {'; '.join(filter(None, remarks))} |"


def _cell(name: str, value: tuple[float, float] | None) -> str:
    if value is None:
        return "not tried"
    exceeded = "" if value[0] <= value[1] else " **exceeded**"
    if name in ("generated", "reloaded"):
        return ("the same" if not exceeded else "differs") + exceeded
    return (f"{value[0]:.0e}" if value[0] else "0") + exceeded
