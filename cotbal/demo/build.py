"""Making a demo folder: data, base model and config, each once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from os import PathLike
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cotbal.atomic import replacing
from cotbal.demo.dataset import SCENES, write_dataset
from cotbal.demo.pretrain import DEFAULT_PRETRAINING, Pretraining, pretrain

_STAGE_NAMES = {"vision": "Vision tower on digits", "alignment": "Alignment on descriptions"}


def prepare_demo(
    folder: str | PathLike[str],
    *,
    pretraining: Pretraining = DEFAULT_PRETRAINING,
    console: Console | None = None,
) -> Path:
    """Make the demo's data, base model and config in `folder`; what is there already is kept.

    Args:
        folder: where to; made if it is not there.
        pretraining: how long the base model is trained.
        console: where progress is shown; None: the terminal.

    Returns:
        The path of the config, for `cotbal run`.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        _once(folder / "data", lambda path: _write_data(path, progress))
        _once(folder / "base", lambda path: _write_base(path, pretraining, progress))
    config = folder / "config.yaml"
    if not config.exists():
        with replacing(config) as file:
            file.write(files("cotbal.demo").joinpath("config.yaml").read_text(encoding="utf-8"))
    return config


def _once(path: Path, make: Callable[[Path], None]) -> None:
    """Make a folder under another name and rename it, so that one with its own name is always complete."""
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


def _write_data(path: Path, progress: Progress) -> None:
    bar = progress.add_task("Pictures and questions", total=sum(SCENES.values()))
    write_dataset(path, advance=lambda scenes: progress.advance(bar, scenes))


def _write_base(path: Path, pretraining: Pretraining, progress: Progress) -> None:
    from cotbal.demo.model import build_model, build_processor

    totals = {
        "vision": pretraining.vision_steps * pretraining.vision_batch,
        "alignment": pretraining.alignment_steps * pretraining.alignment_batch,
    }
    bars = {stage: progress.add_task(_STAGE_NAMES[stage], total=total) for stage, total in totals.items()}
    processor = build_processor()
    model = build_model(processor)
    pretrain(
        model,
        processor,
        pretraining=pretraining,
        advance=lambda stage, samples: progress.advance(bars[stage], samples),
    )
    model.save_pretrained(path)
    processor.save_pretrained(path)
