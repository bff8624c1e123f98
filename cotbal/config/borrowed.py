"""Sections of a config that are handed on to another library's class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cotbal.config.yaml_file import ConfigError, suggest

__all__ = ["check_names"]


def check_names(
    section: str,
    names: Iterable[str],
    *,
    known: Iterable[str],
    of: str,
    ours: Mapping[str, str],
    renamed: Mapping[str, str] | None = None,
) -> None:
    """Refuse names that the class lacks, or that cotbal sets itself.

    Args:
        section: the keys' path, such as `model.adapter`.
        names: the keys that are set.
        known: what the class takes.
        of: the class, for people.
        ours: why a name cannot be set.
        renamed: what to write in place of a name that the class had once.

    Raises:
        ConfigError: with the key's path and what is accepted.
    """
    accepted = sorted(set(known) - set(ours))
    for name in names:
        if name in ours:
            raise ConfigError(f"{section}.{name}: cannot be set here; {ours[name]}")
        if name not in accepted:
            now = (renamed or {}).get(name)
            hint = suggest(name, accepted) if now is None else f"it is now {now}"
            raise ConfigError(f"{section}.{name}: {of} has no such setting; {hint}")
