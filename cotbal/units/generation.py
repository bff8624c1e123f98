"""How answers are generated: plain greedy, unless the config asks otherwise, whatever the checkpoint recommends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from cotbal.config.borrowed import check_names
from cotbal.config.schema import Config
from cotbal.config.yaml_file import ConfigError

__all__ = ["generating", "generation_settings", "scoring_dtype", "token_ids"]

_GREEDY = {"do_sample": False, "num_beams": 1}
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
_OURS = {
    "max_new_tokens": "set `max_new_tokens` of the task",
    "max_length": "set `max_new_tokens` of the task",
    "num_return_sequences": "every sample has one answer",
    "return_dict_in_generate": "every sample has one answer",
    "output_attentions": "only answers are kept",
    "output_hidden_states": "only answers are kept",
    "output_scores": "only answers are kept",
    "output_logits": "only answers are kept",
    "stop_strings": "end-of-turn tokens end an answer",
    "max_time": "answers would depend on the machine's speed",
}


def generation_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """What acts on generation besides `max_new_tokens`: greedy search, and what the config asks for.

    Args:
        options: `evaluation.generation` of a config, fields of `transformers.GenerationConfig`.

    Raises:
        ConfigError: a name that `GenerationConfig` lacks or that cotbal sets, or values that transformers refuses.
    """
    known = [name for name in vars(_config()) if not name.startswith(("_", "transformers_"))]
    section = "evaluation.generation"
    check_names(section, options, known=known, of="transformers' GenerationConfig", ours=_OURS)
    settings = _GREEDY | dict(options)
    try:
        _config(**settings).validate(strict=True)
    except (ValueError, TypeError) as error:
        said = " ".join(str(error).split("\nIf you're using")[0].split())
        raise ConfigError(f"{section}: transformers refuses these settings: {said}") from error
    return settings


def scoring_dtype(config: Config, training: Mapping[str, Any]) -> str:
    """The dtype a model is loaded in to be scored: `evaluation.dtype`, else the one its training computes in."""
    if config.evaluation.dtype is not None:
        return config.evaluation.dtype
    if training.get("bf16"):
        return "bfloat16"
    return "float16" if training.get("fp16") else config.model.dtype


@contextmanager
def generating(
    model: PreTrainedModel, pad: int, settings: Mapping[str, Any], max_new_tokens: int
) -> Iterator[None]:
    """In the block, `model.generate` follows `settings` alone; of the checkpoint's own config only token ids act.

    A config given to `generate` is filled up from the model's (repetition penalty, forced tokens, ...), so the
    model's is replaced for the time. A router's loss is not computed: it has no meaning there, and transformers' own
    fails on the batches that generation feeds (5.23).
    """
    recommended = model.generation_config
    described = model.config.get_text_config()
    routed = getattr(described, "output_router_logits", None)
    tokens = token_ids(recommended) | {"pad_token_id": pad}
    model.generation_config = _config(**{**tokens, **settings, "max_new_tokens": max_new_tokens})
    if routed:
        described.output_router_logits = False
    try:
        yield
    finally:
        model.generation_config = recommended
        if routed:
            described.output_router_logits = routed


def token_ids(recommended: GenerationConfig) -> dict[str, Any]:
    """The part of a checkpoint's generation config that says what its tokens mean."""
    return {name: getattr(recommended, name, None) for name in _TOKENS}


def _config(**settings: Any) -> GenerationConfig:
    return GenerationConfig(**settings)  # type: ignore[no-untyped-call]
