"""What the tiny families share: how one is described, and the parts that their models and processors are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from support.families.torchvision_operators import usable
from support.models.tiny_models import name_tokens, tiny_tokenizer

Made = tuple[Any, Any]
Batch = dict[str, Any]

PIXELS = 28
"""Side of a picture for most vision towers: 2 x 2 patches."""


@dataclass(frozen=True)
class Family:
    """A family of models as a tiny instance of transformers' own classes.

    Attributes:
        name: as people call it.
        make: makes the model and its processor or tokenizer. The processor is None where it cannot be built with what
            the project installs; batches are then tensors from `tensors`.
        pictures: whether its processor or `tensors` give pictures.
        tensors: a batch of so many rows from a seed, for a family without a processor.
        lora: modules that get an adapter: names, or a pattern for whole ones.
        note: what the page says about it.
        refused: why records cannot be trained on through its processor, as the error has it; or "".
        apart: rows with and without pictures cannot share a batch.
        needs: packages that its processor needs and CoTBal does not. Where one is missing, `make` gives no processor,
            and batches come from `tensors`.
    """

    name: str
    make: Callable[[], Made]
    pictures: bool = True
    tensors: Callable[[Any, int], Batch] | None = None
    lora: tuple[str, ...] | str = ("q_proj", "v_proj")
    note: str = ""
    refused: str = ""
    apart: bool = False
    needs: tuple[str, ...] = ()

    def with_what_is_installed(self) -> Family:
        """The family through its processor where that can be made, else through tensors, with a note why."""
        if not self.needs:
            return self
        if usable(self.needs):
            return replace(self, tensors=None)
        return replace(self, note=f"its processor needs {' and '.join(self.needs)}: tensors")


def template(
    picture: str,
    *,
    before: str = "'<|im_start|>' + m['role'] + '\n'",
    after: str = "<|im_end|>\n",
    ask: str = "<|im_start|>assistant\n",
    bos: bool = False,
    typed: bool = True,
) -> str:
    """A chat template in the style of a family: what stands before and after a message, and for a picture."""
    content = (
        "{% for p in m['content'] %}{{ '"
        + picture
        + "' if p['type'] == 'image' else p['text'] }}{% endfor %}"
        if typed
        else "{{ m['content'] }}"
    )
    start = "{{ bos_token }}" if bos else ""
    return (
        f"{start}{{% for m in messages %}}{{{{ {before} }}}}{content}{{{{ '{after}' }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ '{ask}' }}}}{{% endif %}}"
    )


def chat_tokenizer(*special: str, chat: str, **named: str) -> Any:
    """A tokenizer with ChatML's marks; `named` are attributes such as `image_token`, each with its `_id`."""
    tokenizer: Any = tiny_tokenizer(
        "<|im_start|>",
        "<|im_end|>",
        *special,
        *named.values(),
        bos="<|begin|>",
        eos="<|im_end|>",
        pad="<|pad|>",
        template=chat,
    )
    name_tokens(tokenizer, named)
    return tokenizer


def text_sizes(tokenizer: Any, **more: Any) -> dict[str, Any]:
    """The sizes of a tiny language model with the tokenizer's vocabulary."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **more,
    }


def vision_sizes(**more: Any) -> dict[str, Any]:
    """The sizes of a tiny vision tower."""
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": PIXELS,
        "patch_size": 14,
        **more,
    }


def settled(kind: Any, config: Any, tokenizer: Any) -> Any:
    """The model with random weights and logits far enough apart for a softcap to matter, in eval mode."""
    torch.manual_seed(0)
    model = kind(config)
    if hasattr(model, "set_experts_implementation"):
        # The others multiply by float64 matrices in float32 only.
        model.set_experts_implementation("eager")
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.generation_config, name, getattr(tokenizer, name))
    return model.eval()


def pictures_only(kind: Any, **parts: Any) -> Any:
    """A processor of a family's own class without its parts for video and sound, which need torchvision."""

    class PicturesOnly(kind):  # type: ignore[misc]
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return (
                None if argument is None else super().check_argument_for_proper_class(argument_name, argument)
            )

    PicturesOnly.__name__ = kind.__name__
    PicturesOnly.__init__ = kind.__init__
    return PicturesOnly(**parts)


def token_batch(model: Any, seed: int, *, rows: int = 3, length: int = 20, first: int = 20) -> Batch:
    """Random ids with supervised ones among them, for a family without a processor."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(first, vocabulary, (rows, length), generator=generator)
    drawn = torch.rand(rows, length, generator=generator) < 0.6
    drawn[:, -1] = True
    drawn[:, : length // 2] = False
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.where(drawn, ids, -100),
        "loss_task_index": torch.arange(rows) % 3,
    }
