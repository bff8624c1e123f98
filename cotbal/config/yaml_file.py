"""Read a config file: YAML with the scalars people expect, and errors in plain words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

__all__ = ["ConfigError", "describe_errors", "parse_yaml"]


class ConfigError(ValueError):
    """A mistake in a config file or in something it names; the message addresses whoever wrote it."""


MAX_CHARACTERS = 2**18
MAX_DEPTH = 32
MAX_VALUES = 20_000
MAX_DIGITS = 40
"""What no config needs more of: text, levels of nesting, values with all aliases written out, digits of a number."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: ``2e-5`` is a number, ``no`` and ``on`` are words; a repeated key is an error.

    What could take unbounded time or memory is an error too: see the limits above.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth = getattr(self, "_depth", 0) + 1
        self._count = getattr(self, "_count", 0) + 1
        try:
            if self._count > MAX_VALUES:
                raise yaml.MarkedYAMLError(
                    problem=f"more than {MAX_VALUES} values", problem_mark=self._here()
                )
            if self._depth > MAX_DEPTH:
                raise yaml.MarkedYAMLError(
                    problem=f"more than {MAX_DEPTH} levels of nesting",
                    problem_mark=self._here(),
                )
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def _here(self) -> Any:
        return self.peek_event().start_mark  # type: ignore[no-untyped-call]

    def construct_document(self, node: yaml.Node) -> Any:
        _written_out(node, {}, set())
        return super().construct_document(node)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > MAX_DIGITS:
            raise yaml.MarkedYAMLError(
                problem=f"a number of {len(node.value)} digits; at most {MAX_DIGITS} are read",
                problem_mark=node.start_mark,
            )
        return super().construct_yaml_int(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if isinstance(key, str) and seen.setdefault(key, line) != line:
                raise yaml.MarkedYAMLError(
                    problem=f"the key '{key}' appears twice, first in line {seen[key]}; keep one",
                    problem_mark=key_node.start_mark,
                )
        return super().construct_mapping(node, deep=deep)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _written_out(node: yaml.Node, known: dict[int, int], open_: set[int]) -> int:
    """How many values a node holds once every alias is written out; each node is looked at once.

    Raises:
        yaml.MarkedYAMLError: it holds itself, or more than `MAX_VALUES`.
    """
    if id(node) in known:
        return known[id(node)]
    if id(node) in open_:
        raise yaml.MarkedYAMLError(problem="an alias that holds itself", problem_mark=node.start_mark)
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        inner = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        inner = node.value
    open_.add(id(node))
    total = 1 + sum(_written_out(part, known, open_) for part in inner)
    open_.discard(id(node))
    if total > MAX_VALUES:
        raise yaml.MarkedYAMLError(
            problem=f"more than {MAX_VALUES} values once all aliases are written out",
            problem_mark=node.start_mark,
        )
    known[id(node)] = total
    return total


_REPLACED = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "timestamp")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def parse_yaml(text: str, source: Path) -> dict[str, Any]:
    """Return the mapping in a YAML document.

    Raises:
        ConfigError: with file and line: the text is not YAML, repeats a key, or is not a mapping.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{source}: {len(text)} characters; a config has at most {MAX_CHARACTERS}")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark is not None else str(source)
        raise ConfigError(f"{place}: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: not readable as YAML: {error}") from None
    except (IndexError, KeyError, AttributeError, TypeError):
        # What PyYAML's own constructors raise for a value that is not of the type in its tag, such as `!!int ""`.
        raise ConfigError(
            f"{source}: not readable as YAML: a value does not fit the type (`!!...`) written before it"
        ) from None
    if not isinstance(value, dict):
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise ConfigError(
            f"{source}: found {found}, expected keys and values such as `model: ...`, `tasks: [...]`"
        )
    return value


def describe_errors(error: ValidationError, root: type[BaseModel], source: Path) -> str:
    """Describe each mistake in one line: the key's path, what was found, what is accepted."""
    details = error.errors(include_url=False)
    places = [detail["loc"] for detail in details]
    # A list whose every item is wrong is also reported as too short; the items say enough.
    shown = [
        d
        for d in details
        if d["type"] != "too_short" or not any(_is_inside(place, d["loc"]) for place in places)
    ]
    lines = [_describe(detail, root) for detail in shown]
    head = f"{source}: " + ("1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes")
    return "\n  ".join([head, *lines])


def key_path(location: Iterable[int | str]) -> str:
    """Write `("tasks", 0, "metric")` as people do: `tasks[0].metric`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def suggest(name: str, known: Iterable[str]) -> str:
    """Suggest the nearest known name for an unknown one, or list them all."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else "known here: " + ", ".join(names)


def _describe(detail: Any, root: type[BaseModel]) -> str:
    location: tuple[int | str, ...] = detail["loc"]
    path = key_path(location) or "the file"
    kind, found = detail["type"], _shorten(detail["input"])
    if kind == "extra_forbidden":
        section = _section_at(root, location[:-1])
        hint = suggest(str(location[-1]), section.model_fields if section else ())
        return f"{path}: unknown key; {hint}"
    if kind == "missing" and "ctx" not in detail:
        return f"{path}: missing, but required"
    message = detail["msg"]
    if isinstance(detail.get("ctx", {}).get("error"), ValueError):
        return f"{path}: {detail['ctx']['error']}"
    if kind in {"task_weight", "task_metric", "fractions", "repeated", "folder"}:
        return f"{path}: {message}"
    if kind == "too_short":
        return f"{path}: found nothing; expected: at least one entry"
    expected = message.removeprefix("Input should be ").split(", unable to parse")[0]
    expected = "keys and values" if expected == "a valid dictionary" else expected
    return f"{path}: found {found}; expected: {expected[:1].lower()}{expected[1:]}"


def _is_inside(place: tuple[int | str, ...], whole: tuple[int | str, ...]) -> bool:
    return len(place) > len(whole) and place[: len(whole)] == whole


def _section_at(root: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Return the model class that contains the location of an error."""
    section: type[BaseModel] | None = root
    for part in location:
        if isinstance(part, int) or section is None:
            continue
        section = _model_within(section.model_fields[part].annotation)
    return section


def _model_within(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_model_within(part) for part in getattr(annotation, "__args__", ()))
    return next((found for found in inner if found is not None), None)


def _shorten(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python turns into text
        text = f"a {type(value).__name__} too long to show"
    return text if len(text) <= 80 else text[:77] + "..."
