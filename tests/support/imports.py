"""What the files of the two packages import, wherever in the file: at the top, late, or for type checkers only."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("cotbal", "cotbal_kernels")


@dataclass(frozen=True)
class Import:
    """`from source import name`, or `import source` where `name` is None."""

    source: str
    name: str | None
    line: int


def module_name(path: Path, root: Path = ROOT) -> str:
    """Dotted name of a file, the package's own name for its `__init__`."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules(root: Path = ROOT) -> Mapping[str, Path]:
    """All modules of both packages by dotted name."""
    paths = (path for package in PACKAGES for path in sorted((root / package).rglob("*.py")))
    return {module_name(path, root): path for path in paths}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports_of(path: Path) -> tuple[Import, ...]:
    """Every import of a file; relative ones are refused by the tests, so they need no resolving."""
    found: list[Import] = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, None, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            found += [Import(source, alias.name, node.lineno) for alias in node.names]
    return tuple(found)


def targets(path: Path, root: Path = ROOT) -> Iterator[tuple[Import, str]]:
    """The imports of a file that are of the two packages, each with the module that is imported.

    `from package import module` imports the module; `from package import name` imports the package.
    """
    known = modules(root)
    for item in imports_of(path):
        if item.source.split(".")[0] not in PACKAGES:
            continue
        whole = f"{item.source}.{item.name}"
        yield item, whole if whole in known else item.source


def bound_names(path: Path) -> set[str]:
    """Names that a module defines itself at its top level: functions, classes, assignments; not what it imports."""
    names: set[str] = set()
    for node in _top_level(tree_of(path).body):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)}
        elif isinstance(node, (ast.AnnAssign, ast.AugAssign)) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def public_names(path: Path) -> set[str]:
    """The names in a file's `__all__`; without one, those it defines that do not begin with an underscore."""
    for node in tree_of(path).body:
        if isinstance(node, ast.Assign) and any(getattr(t, "id", "") == "__all__" for t in node.targets):
            return {str(element.value) for element in getattr(node.value, "elts", [])}
    return {name for name in bound_names(path) if not name.startswith("_")}


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported, those under `if`, `try` and `with` too."""
    for node in body:
        yield node
        for part in ("body", "orelse", "finalbody"):
            if isinstance(node, (ast.If, ast.Try, ast.With)):
                yield from _top_level(getattr(node, part, []))
        for handler in getattr(node, "handlers", []):
            yield from _top_level(handler.body)


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach one another (Tarjan's algorithm), and modules that import themselves."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            part = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(part) > 1 or node in graph.get(node, ()):
                found.append(sorted(part))

    for node in graph:
        if node not in index:
            visit(node)
    return found
