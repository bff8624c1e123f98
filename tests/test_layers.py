"""Imports run one way, heavy packages are imported only where they belong, and importing stays quick."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# from the ground up: a room may import its own layer's floor and whatever lies below
FLOORS = [
    {"tasks", "atomic"},
    {"method", "config"},
    {"strategies", "data", "metrics"},
    {"tune", "imports"},
    {"units", "report", "demo"},
    {"doctor"},
    {"cli", "__main__"},
]
TRANSFORMERS_ROOMS = {"tune", "units", "demo"}


def imported(path: Path) -> set[str]:
    """Dotted names of everything a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "cotbal").parts[0].removesuffix(".py")


def floor_of(room: str) -> int:
    """Rooms not named above are helpers of the values on the ground floor."""
    return next((level for level, rooms in enumerate(FLOORS) if room in rooms), 0)


@pytest.mark.parametrize("path", files("cotbal"), ids=lambda path: str(path.relative_to(ROOT)))
def test_cotbal_imports_only_downwards(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    for name in imported(path):
        if name.startswith("cotbal."):
            other = name.split(".")[1]
            allowed = other == room or floor_of(other) <= floor_of(room)
            assert allowed, (
                f"{path}: {room} (floor {floor_of(room)}) imports {other} (floor {floor_of(other)})"
            )
        if name.split(".")[0] in {"transformers", "accelerate", "peft", "trl"}:
            assert room in TRANSFORMERS_ROOMS, f"{path} imports {name}"


@pytest.mark.parametrize("path", files("cotbal_kernels"), ids=lambda path: str(path.relative_to(ROOT)))
def test_kernels_never_import_cotbal_and_implementations_not_one_another(path: Path) -> None:
    names = imported(path)
    assert not any(name.split(".")[0] in {"cotbal", "transformers"} for name in names)
    backends = {"torch_backend", "native", "triton"}
    place = path.relative_to(ROOT / "cotbal_kernels").parts
    if place[0] == "backends" and (own := place[1].removesuffix(".py")) in backends:
        others = {f"cotbal_kernels.backends.{other}" for other in backends - {own}}
        assert not any(name.startswith(tuple(others)) for name in names)


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import cotbal", ["torch", "transformers", "matplotlib", "triton", "pydantic"]),
        ("import cotbal; cotbal.weigh, cotbal.measure, cotbal.ScoreTable", ["torch", "transformers"]),
        ("import cotbal_kernels", ["numpy.testing", "triton", "transformers", "cotbal"]),
        ("import cotbal.cli", ["torch", "transformers", "matplotlib"]),
    ],
)
def test_import_leaves_heavy_packages_alone(statement: str, absent: list[str]) -> None:
    check = f"import sys; {statement}; found = [n for n in {absent!r} if n in sys.modules]; assert not found, found"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
