"""The section `evaluation.server`: the OpenAI-compatible server that answers for `evaluation.engine: openai`."""

from __future__ import annotations

from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from cotbal.config.values import Section, Settings

__all__ = ["LOCAL_HOSTS", "ServerConfig"]

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")

# What cotbal puts into every request itself, and what would give more or less than one whole answer.
_OURS = ("model", "messages", "max_tokens", "max_completion_tokens", "temperature", "n", "stream", "stop")


class ServerConfig(Section):
    """A server that is given (`base_url`), or that is started for each unit (`command`)."""

    command: tuple[str, ...] = Field(
        default=(), description="starts a server for one unit; {model} and {port} in it are filled in"
    )
    base_url: str | None = Field(
        default=None, description="of a server that runs already, such as http://localhost:8000/v1"
    )
    model: str | None = Field(
        default=None,
        min_length=1,
        description="what the server calls a unit's model: {unit} is the unit's name, {model} its folder",
    )
    request: Settings = Field(
        default_factory=dict, description="further fields of every request, as this server knows them"
    )
    in_flight: int = Field(default=16, ge=1, le=2**12, description="requests that wait for an answer at once")
    compare: int = Field(
        default=4, ge=0, le=2**10, description="samples per task that are answered in process too; 0: none"
    )
    start_seconds: float = Field(default=1800.0, gt=0.0, description="until a started server must be ready")
    request_seconds: float = Field(default=600.0, gt=0.0, description="until a request must be answered")
    api_key_env: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="the environment variable that holds the server's key",
    )

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise PydanticCustomError(
                "address",
                "expected an address such as http://localhost:8000/v1, found '{value}'",
                {"value": value},
            )
        if parts.username or parts.password:
            raise PydanticCustomError(
                "address",
                "holds a user's name or password; name the variable that holds the key in `api_key_env`",
            )
        return value.rstrip("/")

    @field_validator("request")
    @classmethod
    def _not_ours(cls, value: dict[str, object]) -> dict[str, object]:
        for name in value:
            if name in _OURS:
                raise PydanticCustomError(
                    "request", "'{name}' is set by cotbal; leave it out", {"name": name}
                )
        return value

    @model_validator(mode="after")
    def _one_server_per_unit(self) -> Self:
        if bool(self.command) == (self.base_url is not None):
            raise PydanticCustomError(
                "server",
                "give either `command`, to start a server for each unit, or `base_url`, to use one that runs",
            )
        if self.command:
            missing = [
                name for name in ("{model}", "{port}") if not any(name in word for word in self.command)
            ]
            if missing:
                raise PydanticCustomError(
                    "command",
                    "`command` lacks {missing}: without it every unit would be answered for by the same server",
                    {"missing": " and ".join(missing)},
                )
        if self.model and "{unit}" not in self.model and "{model}" not in self.model:
            raise PydanticCustomError(
                "model",
                "`model` is '{name}' for all units; every unit has a model of its own: put {unit} or {model} into "
                "it",
                {"name": self.model},
            )
        return self

    @property
    def is_local(self) -> bool:
        """Whether the pictures stay on this machine."""
        return self.base_url is None or urlsplit(self.base_url).hostname in LOCAL_HOSTS

    def model_name(self, unit: str, folder: str) -> str:
        """What the server calls a unit's model: its folder where cotbal starts it, else its name, by default."""
        template = self.model or ("{model}" if self.command else "{unit}")
        return template.replace("{unit}", unit).replace("{model}", folder)
