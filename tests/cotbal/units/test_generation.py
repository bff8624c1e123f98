"""What acts on generation, and the dtype of scoring."""

from pathlib import Path
from typing import Any

import pytest
from support.families.checks import records
from support.families.listing import FAMILIES
from support.units.prepared import Told, change

from cotbal.config.schema import load_config
from cotbal.config.yaml_file import ConfigError
from cotbal.data.prompts import PromptCollator
from cotbal.output.store import OutputFolder
from cotbal.units import stages
from cotbal.units.generation import generating, generation_settings, scoring_dtype
from cotbal.units.runner import Runner
from cotbal.units.staleness import UnitChangedError


def test_greedy_unless_the_config_asks_otherwise() -> None:
    assert generation_settings({}) == {"do_sample": False, "num_beams": 1}
    assert generation_settings({"num_beams": 4})["num_beams"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"repetition_penality": 1.1},
            "repetition_penality: transformers' GenerationConfig .* did you mean `repetition_penalty`",
        ),
        ({"max_new_tokens": 5}, "max_new_tokens: cannot be set here; set `max_new_tokens` of the task"),
        (
            {"num_return_sequences": 2},
            "num_return_sequences: cannot be set here; every sample has one answer",
        ),
        ({"max_time": 5.0}, "max_time: cannot be set here; answers would depend on the machine's speed"),
        ({"temperature": 0.5}, "evaluation.generation: transformers refuses these settings: .*temperature"),
        ({"cache_implementation": "none"}, "evaluation.generation: transformers refuses"),
    ],
)
def test_what_cannot_act_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generation_settings(options)


@pytest.mark.parametrize(
    ("training", "evaluation", "dtype"),
    [
        ({}, {}, "float32"),
        ({"bf16": True}, {}, "bfloat16"),
        ({"fp16": True}, {}, "float16"),
        ({"bf16": True}, {"dtype": "float32"}, "float32"),
        ({"bf16": False}, {}, "float32"),
    ],
)
def test_scoring_computes_as_training_does(
    mixture: Path, training: dict[str, Any], evaluation: dict[str, Any], dtype: str
) -> None:
    assert scoring_dtype(change(mixture, evaluation=evaluation), training) == dtype


def test_the_manifest_says_what_acts_and_a_change_is_scored_again(mixture: Path) -> None:
    config = load_config(mixture)
    folder = OutputFolder(config.output).unit("mini")
    manifest, before = folder.manifest(), folder.scores()
    assert manifest is not None
    assert {scoring["dtype"] for scoring in manifest.scoring.values()} == {"float32"}
    config = change(mixture, evaluation={"dtype": "bfloat16"})
    with pytest.raises(UnitChangedError, match="dtype: was 'float32', is 'bfloat16'"):
        stages.prepare(config, Told())
    stages.prepare(config, Told(), redo=True)
    after = folder.scores()
    pairs = [(old.score, new.score) for old, new in zip(before, after, strict=True)]
    assert all(old != new for old, new in pairs), "in the lower precision"
    # bfloat16 keeps 8 bits of every value on the way to a loss of a few nats.
    assert all(abs(old - new) < 0.1 for old, new in pairs)


def test_generation_options_are_checked_before_anything_runs(mixture: Path) -> None:
    config = change(mixture, evaluation={"generation": {"beams": 2}})
    with pytest.raises(ConfigError, match=r"evaluation\.generation\.beams"):
        Runner(config, Told())


def test_a_mixture_of_experts_generates_without_its_routers_loss() -> None:
    model, tokenizer = FAMILIES["Mixtral"].make()
    batch = PromptCollator(tokenizer)(records(FAMILIES["Mixtral"]))
    assert model.config.output_router_logits
    with generating(model, tokenizer.pad_token_id, generation_settings({}), 3):
        assert model.generate(**batch).shape[1] == batch["input_ids"].shape[1] + 3
    assert model.config.output_router_logits
