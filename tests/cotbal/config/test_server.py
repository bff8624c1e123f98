"""`evaluation.server`: one server per unit, given or started, and nothing that names no unit."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from cotbal.config.server import ServerConfig
from cotbal.config.stages import EvaluationConfig

COMMAND = ["vllm", "serve", "{model}", "--port", "{port}"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "either `command`"),
        ({"command": COMMAND, "base_url": "http://localhost:1/v1"}, "either `command`"),
        ({"command": ["vllm", "serve", "m", "--port", "{port}"]}, "lacks {model}"),
        ({"command": ["vllm", "serve", "{model}"]}, "lacks {port}"),
        ({"base_url": "localhost:8000"}, "expected an address such as http://localhost:8000/v1"),
        ({"base_url": "http://me:secret@host/v1"}, "`api_key_env`"),
        ({"base_url": "http://host/v1?key=secret"}, "expected an address"),
        (
            {"base_url": "http://host/v1", "model": "my-model"},
            "every unit has a model of its own: put {unit}",
        ),
        ({"command": COMMAND, "request": {"temperature": 1}}, "'temperature' is set by cotbal"),
        ({"command": COMMAND, "in_flight": 0}, "greater than or equal to 1"),
        ({"base_url": "http://host/v1", "api_key_env": "sk-123"}, "pattern"),
    ],
)
def test_what_cannot_be_meant_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ServerConfig(**values)
    assert message in str(caught.value)


def test_names_of_models() -> None:
    assert ServerConfig(command=COMMAND).model_name("mini", "/o/m") == "/o/m"
    assert ServerConfig(base_url="http://h/v1").model_name("mini", "/o/m") == "mini"
    assert ServerConfig(base_url="http://h/v1", model="a-{unit}").model_name("mini", "/o/m") == "a-mini"


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://localhost:8000/v1", True),
        ("http://127.0.0.1:8000/v1/", True),
        ("http://[::1]:8000/v1", True),
        ("http://localhost.example.com/v1", False),
        ("https://10.0.0.7/v1", False),
    ],
)
def test_what_stays_on_this_machine(url: str, local: bool) -> None:
    assert ServerConfig(base_url=url).is_local is local


@pytest.mark.parametrize(
    "values",
    [
        {"engine": "openai"},
        {"server": {"command": COMMAND}},
        {"engine": "openai", "server": {"command": COMMAND}, "generation": {"num_beams": 2}},
    ],
)
def test_engine_and_server_go_together(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"`engine`|`generation`"):
        EvaluationConfig(**values)
