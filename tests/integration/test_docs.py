"""The pages name only what exists: commands, options, config keys, public names, files, links."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from pydantic import BaseModel
from transformers import TrainingArguments

import cotbal
import cotbal.tune
import cotbal_kernels as ck
from cotbal import metrics, strategies
from cotbal.cli import app
from cotbal.config import launch, model, schema, stages, tasks
from cotbal.units.arguments import _COTBALS as COTBALS_OWN

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
SECTIONS: dict[str, type[BaseModel]] = {
    "": schema.Config,
    "model": model.ModelConfig,
    "tasks": tasks.TaskConfig,
    "preparation": stages.PreparationConfig,
    "weighing": stages.WeighingConfig,
    "evaluation": stages.EvaluationConfig,
    "comparison": stages.ComparisonConfig,
    "launch": launch.LaunchConfig,
}


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def fences(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.S | re.M)


def spans(page: str) -> list[str]:
    """The inline code of a page."""
    prose = re.sub(r"^```.*?^```", "", text_of(page), flags=re.S | re.M)
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose)]


def cotbal_calls(page: str) -> Iterator[list[str]]:
    """The words after `cotbal` in every command of a page."""
    blocks = [block.replace("\\\n", " ") for block in fences(page, "bash")]
    lines = [line for block in blocks for line in block.splitlines()] + spans(page)
    for line in lines:
        found = re.search(r"(?:^|-m )cotbal((?: [^#]*)?)$", re.sub(r"\s+#.*", "", line))
        if found:
            yield shlex.split(found[1])


def options_of(command: Any) -> set[str]:
    own = {"--help", "-h", "--debug"}.union(*(parameter.opts for parameter in command.params))
    return own.union(*map(options_of, getattr(command, "commands", {}).values()))


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_option_is_cotbals(page: str) -> None:
    others = {"--log_samples", "--served-model-name", "--limit-mm-per-prompt", "--enable-multimodal"}
    known = others.union(*map(options_of, COMMANDS.values()))
    for words in cotbal_calls(page):
        if not words:
            continue
        assert words[0] in COMMANDS, f"{page}: cotbal {' '.join(words)}"
        for word in words[1:]:
            if word.startswith("-"):
                assert word.split("=")[0] in options_of(COMMANDS[words[0]]), (
                    f"{page}: cotbal {' '.join(words)}"
                )
    for span in spans(page):
        if re.match(r"--?[a-z]", span):
            assert span.split("=")[0].split()[0] in known, f"{page}: {span}"


@pytest.mark.parametrize("page", PAGES)
def test_settings_shown_in_passing_are_settings(page: str) -> None:
    """Inline code of the form `key: value` is a config key, of ours or of TrainingArguments."""
    keys = {key for section in SECTIONS.values() for key in section.model_fields}
    keys |= {*inspect.signature(TrainingArguments).parameters, *COTBALS_OWN}
    for span in spans(page):
        found = re.match(r"(\w+): [^\s[]", span)
        if found:
            assert found[1] in keys, f"{page}: {span}"


@pytest.mark.parametrize(
    "path", ["README.md", *(f"examples/{p.name}" for p in (ROOT / "examples").glob("*.yaml"))]
)
def test_shown_configs_fit_the_schema(path: str) -> None:
    texts = fences(path, "yaml") if path.endswith(".md") else [text_of(path)]
    assert texts
    for text in texts:
        config = schema.Config.model_validate(yaml.safe_load(text), context={"base": ROOT})
        assert set(config.training) <= {*inspect.signature(TrainingArguments).parameters, *COTBALS_OWN}


def test_listed_strategies_metrics_and_implementations_are_all_there_are() -> None:
    row = next(line for line in text_of("docs/config.md").splitlines() if line.startswith("| `strategies`"))
    assert set(re.findall(r"`([\w-]+)`", row)) - {"strategies"} == set(strategies.names())
    table = text_of("docs/data.md").split("## Metrics")[1]
    named = {
        name for line in re.findall(r"^\| (`.*?) \|", table, re.M) for name in re.findall(r"`([^`]+)`", line)
    }
    assert named - {"module:function"} == {n for n in metrics.names() if not n.startswith("iou-xywh")}
    table = text_of("docs/loss.md").split("## Implementations")[1]
    assert re.findall(r'^\| `"(\w+)"` \|', table, re.M) == [found.name for found in ck.implementations()]


def _resolves(dotted: str) -> bool:
    roots = {"cotbal": cotbal, "cotbal_kernels": ck, "ck": ck, "handle": cotbal.tune.BalanceHandle}
    first, *names = dotted.split(".")
    found: Any = roots[first]
    for name in names:
        if hasattr(found, name) or name in getattr(found, "__annotations__", {}):
            found = getattr(found, name, None)
        elif inspect.ismodule(found) and importlib.util.find_spec(f"{found.__name__}.{name}"):
            found = importlib.import_module(f"{found.__name__}.{name}")
        elif found is cotbal.tune.BalanceHandle and re.search(rf"self\.{name}\b", inspect.getsource(found)):
            found = None
        else:
            return False
    return True


@pytest.mark.parametrize("page", PAGES)
def test_every_public_name_resolves(page: str) -> None:
    code = spans(page) + fences(page, "python") + fences(page, "diff")
    for text in code:
        for dotted in re.findall(r"(?<![\w./-])(?:cotbal|cotbal_kernels|ck|handle)(?:\.[A-Za-z_]\w*)+", text):
            if not dotted.endswith((".yaml", ".json", ".md")) and ".test_" not in dotted:
                assert _resolves(dotted), f"{page}: {dotted}"


def _arguments() -> set[str]:
    """The names of all arguments of everything public, fields of results included."""
    found: set[str] = set()
    for module in (cotbal, cotbal.tune, ck, strategies):
        for name in module.__all__:
            value = getattr(module, name)
            members = [value, *(vars(value).values() if inspect.isclass(value) else ())]
            for member in members:
                if callable(member):
                    try:
                        found |= set(inspect.signature(member).parameters)
                    except ValueError:
                        continue
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_argument_shown_in_passing_exists(page: str) -> None:
    known = (
        _arguments()
        | set(inspect.signature(TrainingArguments).parameters)
        | {"loss_type", "task_column", "sep"}
    )
    for span in spans(page):
        found = re.match(r"([a-z_]\w*)=", span)
        if found:
            assert found[1] in known, f"{page}: {span}"


@pytest.mark.parametrize("page", PAGES)
def test_every_environment_variable_is_read_somewhere(page: str) -> None:
    sources = [path for kind in ("*.py", "*.cpp", "*.hpp") for path in ROOT.glob(f"cotbal*/**/{kind}")]
    read = "\n".join(path.read_text() for path in sources)
    for name in set(re.findall(r"\bCOTBAL_[A-Z_]+", text_of(page))):
        assert name in read, f"{page}: {name}"


@pytest.mark.parametrize("page", PAGES)
def test_every_file_named_exists(page: str) -> None:
    for span in spans(page):
        path = re.fullmatch(
            r"(?:python )?((?:examples|tests|docs|benchmarks|cotbal|cotbal_kernels|\.ci)/[\w./-]*)", span
        )
        if path:
            assert (ROOT / path[1]).exists(), f"{page}: {span}"


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", text_of(page)):
        if target.startswith("http"):
            continue
        found = (ROOT / page).parent / target if target else ROOT / page
        assert found.exists(), f"{page} links to {target}"
        if anchor:
            assert anchor in _anchors(found), f"{page} links to {target}#{anchor}"


def test_every_page_is_reached_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md)", text_of("README.md")))
    reports = {"docs/soak.md"}  # reached from CONTRIBUTING.md
    assert linked | reports == {page for page in PAGES if page.startswith("docs/")}
