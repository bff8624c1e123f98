"""Imports run one way and without circles, take names from their home, and leave heavy packages where they belong."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from support.imports import (
    PACKAGES,
    ROOT,
    bound_names,
    circles,
    imports_of,
    module_name,
    modules,
    public_names,
    targets,
)

# From the ground up: a file may import its own room, its own layer and what lies below.
# Of every file the longest of these names counts that it is or lies under.
LAYERS: dict[str, list[set[str]]] = {
    "cotbal": [
        {"cotbal.tasks", "cotbal.atomic", "cotbal.extras", "cotbal.terminal"},
        {"cotbal.method", "cotbal.config"},
        {"cotbal.strategies", "cotbal.data", "cotbal.metrics"},
        {"cotbal.tune", "cotbal.imports"},
        {"cotbal.report", "cotbal.demo"},
        {"cotbal"},
        {"cotbal.output"},
        {"cotbal.models"},
        {"cotbal.units"},
        {"cotbal.doctor", "cotbal.estimates"},
        {"cotbal.commands"},
        {"cotbal.cli"},
        {"cotbal.__main__"},
    ],
    "cotbal_kernels": [
        {"cotbal_kernels.checks", "cotbal_kernels.statistics", "cotbal_kernels.products"},
        {"cotbal_kernels.token_ids"},
        {
            "cotbal_kernels.call",
            "cotbal_kernels.planning",
            "cotbal_kernels.reduction",
            "cotbal_kernels.reference",
        },
        {"cotbal_kernels.backends"},
        {"cotbal_kernels.row_outputs"},
        {"cotbal_kernels.linear", "cotbal_kernels.logits"},
        {"cotbal_kernels.fakes", "cotbal_kernels.execution"},
        {"cotbal_kernels.gradients", "cotbal_kernels.vocabulary"},
        {"cotbal_kernels.ops"},
        {"cotbal_kernels.arguments", "cotbal_kernels.output"},
        {"cotbal_kernels.small"},
        {
            "cotbal_kernels.api",
            "cotbal_kernels.alignment",
            "cotbal_kernels.vocabulary",
            "cotbal_kernels.warming",
        },
        {"cotbal_kernels"},
    ],
}
# Public names that are meant to be modules.
PUBLIC_MODULES = {"cotbal.metrics", "cotbal.strategies", "cotbal_kernels.reference"}
TRANSFORMERS_ROOMS = {"cotbal.tune", "cotbal.models", "cotbal.units", "cotbal.estimates", "cotbal.demo"}
OF_TRANSFORMERS = {"transformers", "accelerate", "peft", "trl"}
EVERY_FILE = [*modules().values()]


def layer_name(module: str) -> str | None:
    """The name in `LAYERS` that a module stands under; None if there is none but the package's own."""
    package = module.split(".")[0]
    names = {name for layer in LAYERS[package] for name in layer}
    found = [name for name in names if module == name or module.startswith(name + ".")]
    best = max(found, key=len, default=None)
    return None if best == package and module != package else best


def layer_of(module: str) -> int:
    name = layer_name(module)
    assert name is not None, f"{module} stands on no layer; add its room to LAYERS"
    return next(level for level, layer in enumerate(LAYERS[module.split(".")[0]]) if name in layer)


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", EVERY_FILE, ids=shown)
def test_every_file_stands_on_a_named_layer(path: Path) -> None:
    assert layer_name(module_name(path)) is not None, f"{shown(path)} stands on no layer; add it to LAYERS"


@pytest.mark.parametrize("path", EVERY_FILE, ids=shown)
def test_imports_run_downwards(path: Path) -> None:
    module = module_name(path)
    for item, other in targets(path):
        if other.split(".")[0] == module.split(".")[0]:
            if layer_name(other) != layer_name(module):
                assert layer_of(other) <= layer_of(module), (
                    f"{shown(path)}:{item.line} imports {other}, above it"
                )
        else:
            assert module.startswith(
                (
                    "cotbal.tune",
                    "cotbal.data",
                    "cotbal.models",
                    "cotbal.units",
                    "cotbal.doctor",
                    "cotbal.estimates",
                )
            ), f"{shown(path)}:{item.line} imports {other}"


@pytest.mark.parametrize("path", EVERY_FILE, ids=shown)
def test_imports_are_absolute(path: Path) -> None:
    assert not [item for item in imports_of(path) if item.source.startswith(".")]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_itself_by_way_of_others(package: str) -> None:
    """Late imports and those for type checkers count: they hide a circle, they do not break it."""
    graph = {name: {other for _, other in targets(path)} for name, path in modules().items()}
    found = circles({name: others for name, others in graph.items() if name.split(".")[0] == package})
    assert not found, f"circles of imports: {found}"


@pytest.mark.parametrize("path", [path for path in EVERY_FILE if path.name != "__init__.py"], ids=shown)
def test_a_name_is_imported_from_the_module_that_defines_it(path: Path) -> None:
    """Packages' `__init__` hand names on to users; the packages themselves go to the source."""
    for item, other in targets(path):
        if item.name is None or other != item.source:
            continue
        where = f"{shown(path)}:{item.line}"
        assert item.name != "*", f"{where} imports everything from {other}"
        is_extension = (modules()[other].parent / f"{item.name}.pyi").is_file()
        assert is_extension or item.name in bound_names(modules()[other]), (
            f"{where} takes {item.name} from {other}, which does not define it"
        )


@pytest.mark.parametrize("path", [path for path in EVERY_FILE if path.name == "__init__.py"], ids=shown)
def test_no_public_function_shadows_a_module(path: Path) -> None:
    """`package.name` would be the module or the function, whichever was bound last."""
    package = module_name(path)
    children = {name.rpartition(".")[2] for name in modules() if name.rpartition(".")[0] == package}
    shadowed = {name for name in children & public_names(path) if f"{package}.{name}" not in PUBLIC_MODULES}
    assert not shadowed, f"{package} gives {sorted(shadowed)} both as names and as modules"


@pytest.mark.parametrize("path", sorted((ROOT / "cotbal" / "method").rglob("*.py")), ids=shown)
def test_the_mathematics_needs_numpy_alone(path: Path) -> None:
    for item in imports_of(path):
        top = item.source.split(".")[0]
        allowed = top in sys.stdlib_module_names or top == "numpy"
        own = f"{item.source}.".startswith(
            ("cotbal.tasks.", "cotbal.atomic.", "cotbal.text_table.", "cotbal.method.")
        )
        assert allowed or own, f"{shown(path)}:{item.line} imports {item.source}"


@pytest.mark.parametrize("path", EVERY_FILE, ids=shown)
def test_transformers_is_imported_where_it_belongs(path: Path) -> None:
    if layer_name(module_name(path)) in TRANSFORMERS_ROOMS:
        return
    for item in imports_of(path):
        assert item.source.split(".")[0] not in OF_TRANSFORMERS, (
            f"{shown(path)}:{item.line} imports {item.source}"
        )


@pytest.mark.parametrize("path", EVERY_FILE, ids=shown)
def test_no_call_is_spelled_with_unpacked_tuples(path: Path) -> None:
    """`f(*(a, b), *(c, d))` is `f(a, b, c, d)`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            for argument in node.args:
                spelled = isinstance(argument, ast.Starred) and isinstance(
                    argument.value, (ast.Tuple, ast.List)
                )
                assert not spelled, f"{shown(path)}:{argument.lineno}"


def test_backends_do_not_import_one_another() -> None:
    rooms = {f"cotbal_kernels.backends.{room}" for room in ("torch_backend", "native", "triton")}
    for module, path in modules().items():
        own = {room for room in rooms if module == room or module.startswith(room + ".")}
        if own:
            others = {other for _, other in targets(path)}
            assert not [
                other for other in others for room in rooms - own if f"{other}.".startswith(room + ".")
            ]


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
