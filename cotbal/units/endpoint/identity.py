"""Which server this is, and whether it answers for the unit that it is asked for."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from cotbal.output.manifest import Manifest
from cotbal.units.endpoint.client import Client, Failure
from cotbal.units.endpoint.requests import Request, renamed
from cotbal.units.schedule import Unit

__all__ = ["check_model", "check_same_engine", "engine_of"]

# Where servers tell their version: vLLM, SGLang, SGLang until 0.5.
_VERSION_PLACES = ("version", "server_info", "get_server_info")
_NOBODY = "cotbal-asks-for-a-model-that-nobody-serves"


def check_model(client: Client, requests: Iterable[Request]) -> None:
    """Refuse a server that answers for another model.

    It must know the model's name, which holds the unit's: either it lists it, or it refuses any other.

    Args:
        requests: of which it has to answer one.

    Raises:
        EndpointError: it does not know the name, or answers to every name and lists another.
    """
    server = client.server
    listed = _models(client)
    names = [str(entry.get("id")) for entry in listed]
    told = f"; it lists {', '.join(names[:10])}" if names else ""
    said = "nothing was asked"
    for request in requests:
        found = client.try_one(request)
        if not isinstance(found, Failure):
            break
        said = found.said
    else:
        raise server.error(f"was asked for the model '{server.model}' and {said}{told}")
    if server.model in names:
        return
    if not isinstance(client.try_one(renamed(request, _NOBODY)), Failure):
        raise server.error(
            f"answers whatever model is asked for, and does not list '{server.model}'{told}: another unit's model "
            "may answer. Let evaluation.server.model be the name under which it lists the unit's model"
        )


def engine_of(client: Client, command: Sequence[str]) -> tuple[str, str]:
    """The server's name and version, `unknown` where it does not tell.

    Args:
        command: that started it; empty where it was given.
    """
    named = [entry for entry in _models(client) if entry.get("id") == client.server.model]
    name = str(named[0].get("owned_by") or "") if named else ""
    told = (client.get(f"{client.server.root}/{place}") for place in _VERSION_PLACES)
    version = next(
        (str(found["version"]) for found in told if isinstance(found, dict) and "version" in found), ""
    )
    package, python = _program(command)
    return name or package or "unknown", version or _installed(package, python) or "unknown"


def check_same_engine(
    unit: Unit, engine: tuple[str, str], others: Iterable[Manifest], error: Callable[[str], Exception]
) -> None:
    """Refuse to mix engines in one table.

    Args:
        unit: that is to be scored.
        engine: name and version of the server.
        others: the units that were begun.
        error: makes the error from its text.
    """
    for other in others:
        if (
            other.stage != unit.stage
            or other.unit == unit.name
            or other.state != "scored"
            or not other.engine
        ):
            continue
        known = (str(other.engine.get("server")), str(other.engine.get("version")))
        if known != engine:
            raise error(
                f"is {' '.join(engine)}, and {other.unit} was scored by {' '.join(known)}: one table is scored by "
                "one engine. Use that one again, or give another `output`"
            )


def _models(client: Client) -> list[dict[str, Any]]:
    found = client.get(f"{client.server.base_url}/models")
    entries = found.get("data") if isinstance(found, dict) else None
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _program(command: Sequence[str]) -> tuple[str, Path | None]:
    """The package that a command runs, and the Python beside it."""
    if not command:
        return "", None
    found = shutil.which(command[0])
    if found is None:
        return Path(command[0]).name, None
    if Path(found).name.startswith("python"):
        module = command[command.index("-m") + 1] if "-m" in command[:-1] else ""
        return module.split(".")[0], Path(found)
    python = Path(found).with_name("python")
    return Path(found).name, python if python.is_file() else None


def _installed(package: str, python: Path | None) -> str:
    """The version of a package in another environment; empty where there is none."""
    if python is None or not package:
        return ""
    code = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
    try:
        done = subprocess.run(
            [python, "-I", "-c", code, package], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
