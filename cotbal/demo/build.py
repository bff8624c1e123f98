"""Make a demo folder: data, base model and config, each once."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from os import PathLike
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cotbal.atomic import replacing
from cotbal.config.schema import load_config
from cotbal.config.yaml_file import ConfigError
from cotbal.demo.dataset import write_dataset
from cotbal.demo.mixtures import SCENES, SHARED, DemoMixture
from cotbal.demo.pretrain import DEFAULT_PRETRAINING, Pretraining, pretrain

_STAGE_NAMES = {"vision": "Vision tower on digits", "alignment": "Alignment on descriptions"}


def prepare_demo(
    folder: str | PathLike[str],
    mixture: DemoMixture = SHARED,
    *,
    pretraining: Pretraining = DEFAULT_PRETRAINING,
    console: Console | None = None,
) -> Path:
    """Make the demo's data, base model and config in `folder`, and keep what already exists.

    Args:
        folder: where to; made if it is not there.
        mixture: which one; `cotbal.demo.mixtures` has them.
        pretraining: how long the base model is trained.
        console: shows the progress (None: the terminal).

    Returns:
        The path of the config, for `cotbal run`.

    Raises:
        ImportError: scikit-learn is not installed.
        ConfigError: the folder holds another mixture.
    """
    folder = Path(folder)
    config = folder / "config.yaml"
    text = config_text(mixture)
    _check_same(config, mixture)
    folder.mkdir(parents=True, exist_ok=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        _once(folder / "data", lambda path: _write_data(path, mixture, progress))
        _once(folder / "base", lambda path: _write_base(path, mixture, pretraining, progress))
    if not config.exists():
        with replacing(config) as file:
            file.write(text)
    return config


def config_text(mixture: DemoMixture) -> str:
    """The config of a mixture: the shipped one with its name, what it is about, and its tasks."""
    template = files("cotbal.demo").joinpath("config.yaml").read_text(encoding="utf-8")
    head, rest = template.split("# TASKS\n")
    about = "\n".join(f"# {line}" for line in textwrap.wrap(mixture.about, 116))
    name = "demo" if mixture is SHARED else f"demo-{mixture.name}"
    return f"{head.replace('name: demo', f'name: {name}')}{about}\ntasks:\n{_tasks_text(mixture)}{rest}"


def _tasks_text(mixture: DemoMixture) -> str:
    return "".join(
        f"  - {{name: {name}, train: data/train/{name}.json, validation: data/validation/{name}.json,\n"
        f"     test: data/test/{name}.json, images: data/images, metric: {task.metric}, "
        f"max_new_tokens: {task.max_new_tokens}}}\n"
        for name, task in mixture.tasks.items()
    )


def _check_same(config: Path, mixture: DemoMixture) -> None:
    if not config.exists():
        return
    found = {task.name for task in load_config(config).tasks}
    if found != set(mixture.tasks):
        raise ConfigError(
            f"{config.parent} holds another mixture (its tasks: {', '.join(sorted(found))}); give `--output` another "
            f"folder for the mixture {mixture.name}"
        )


def _once(path: Path, make: Callable[[Path], None]) -> None:
    """Make a folder under a temporary name and rename it, so that a folder with its final name is complete."""
    if path.exists():
        return
    with _unfinished(path) as temporary:
        make(temporary)
        temporary.rename(path)


@contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    temporary = path.with_name(path.name + ".unfinished")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_data(path: Path, mixture: DemoMixture, progress: Progress) -> None:
    bar = progress.add_task("Pictures and questions", total=sum(SCENES.values()))
    write_dataset(path, mixture, advance=lambda scenes: progress.advance(bar, scenes))


def _write_base(path: Path, mixture: DemoMixture, pretraining: Pretraining, progress: Progress) -> None:
    from cotbal.demo.model import build_model, build_processor

    totals = {
        "vision": pretraining.vision_steps * pretraining.vision_batch,
        "alignment": pretraining.alignment_steps * pretraining.alignment_batch,
    }
    bars = {stage: progress.add_task(_STAGE_NAMES[stage], total=total) for stage, total in totals.items()}
    processor = build_processor(mixture.words)
    model = build_model(processor)
    pretrain(
        model,
        processor,
        pretraining=pretraining,
        advance=lambda stage, samples: progress.advance(bars[stage], samples),
    )
    model.save_pretrained(path)
    processor.save_pretrained(path)
