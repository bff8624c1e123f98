"""What a config may only do with its user's word: running code of its own, and talking to others.

A config can come from a stranger. The word is given once, on the command line, for one output folder and for exactly
what the config asks for then; it is kept in the user's own state folder, since one kept beside the results could come
from the stranger too.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotbal.atomic import replacing
from cotbal.config.schema import Config
from cotbal.config.yaml_file import ConfigError

__all__ = ["Wishes", "require_consent", "wishes"]

_LOCAL_REPORTS = ("none", "tensorboard", "dvclive")
_REMOTE = ("push_to_hub", "hub_token", "push_to_hub_token", "hub_model_id", "trackio_space_id")


@dataclass(frozen=True)
class Wishes:
    """What a config asks for that needs the user's word, one sentence each.

    Attributes:
        code: code that is not cotbal's and not a package's it names, for ``--allow-code``.
        remote: what leaves this machine, for ``--allow-remote``.
    """

    code: tuple[str, ...]
    remote: tuple[str, ...]


def wishes(config: Config) -> Wishes:
    """Read off a config; imports nothing and contacts nobody.

    Reading models from the hub is no wish: nothing of the user's leaves the machine for it.
    """
    code = [
        f"tasks[{index}].metric runs {task.metric}"
        for index, task in enumerate(config.tasks)
        if task.metric is not None and ":" in task.metric
    ]
    if config.model.trust_remote_code:
        revision = "" if config.model.revision is None else f" at {config.model.revision}"
        code.append(f"model.trust_remote_code runs the code that comes with {config.model.name}{revision}")
        if config.model.processor is not None:
            code.append(f"model.trust_remote_code runs the code that comes with {config.model.processor}")
    server = config.evaluation.server
    if server is not None and server.command:
        code.append(f"evaluation.server.command runs {shlex.join(server.command)}")
    remote = [
        *_remote(config.training, "training"),
        *_remote(config.preparation.training, "preparation.training"),
    ]
    if server is not None and not server.is_local:
        key = "" if server.api_key_env is None else f", with the key in {server.api_key_env}"
        remote.append(f"evaluation.server.base_url sends questions and pictures to {server.base_url}{key}")
    return Wishes(tuple(code), tuple(remote))


def _remote(settings: Mapping[str, Any], section: str) -> list[str]:
    found = [
        f"{section}.{name}" + (f" names {settings[name]}" if "token" not in name else " is given")
        for name in _REMOTE
        if settings.get(name)
    ]
    reports = settings.get("report_to") or []
    listed = [reports] if isinstance(reports, str) else list(reports)
    return found + [f"{section}.report_to sends to {name}" for name in listed if name not in _LOCAL_REPORTS]


def require_consent(config: Config, *, allow_code: bool = False, allow_remote: bool = False) -> None:
    """Refuse what a config asks for and nobody has allowed; remember what is allowed now.

    Args:
        allow_code: the user's word for `Wishes.code`.
        allow_remote: the user's word for `Wishes.remote`.

    Raises:
        ConfigError: each thing that has not been allowed, and the option that allows it.
    """
    wanted = wishes(config)
    if not (wanted.code or wanted.remote):
        return
    path, folder = _state_file(), str(config.output.resolve())
    remembered = _read(path)
    known = remembered.get(folder, [])
    refused = [
        f"{wish}: add {option}"
        for option, allowed, listed in (
            ("--allow-code", allow_code, wanted.code),
            ("--allow-remote", allow_remote, wanted.remote),
        )
        for wish in listed
        if not allowed and wish not in known
    ]
    if refused:
        raise ConfigError(
            "the config asks for what needs your word. Allow only what you know; it is remembered for this output "
            "folder\n  " + "\n  ".join(refused)
        )
    allowed_now = sorted({*known, *wanted.code, *wanted.remote})
    if allowed_now != sorted(known):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as stream:
            json.dump({**remembered, folder: allowed_now}, stream, indent=1, sort_keys=True)


def _state_file() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "cotbal" / "allowed.json"


def _read(path: Path) -> dict[str, list[str]]:
    """What has been allowed so far, by folder; a file that is not readable allows nothing."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        folder: listed
        for folder, listed in found.items()
        if isinstance(listed, list) and all(isinstance(wish, str) for wish in listed)
    }
