"""Everything the README and the docs tell people to type is run, in an empty folder with a user's files."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.models import tiny_models

from cotbal.data import Record, TaskCollator, Turn

ROOT = Path(__file__).parent.parent.parent
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.S | re.M)


@dataclass(frozen=True)
class Block:
    language: str
    text: str


def blocks(page: str) -> list[Block]:
    return [Block(*found.groups()) for found in _BLOCK.finditer((ROOT / page).read_text())]


def commands(page: str) -> list[list[str]]:
    return [
        shlex.split(line, comments=True)
        for block in blocks(page)
        if block.language == "bash"
        for line in block.text.splitlines()
        if shlex.split(line, comments=True)
    ]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a tiny model, two tasks of a few real pictures, and scores made elsewhere."""
    folder = tmp_path_factory.mktemp("readme")
    model, processor = tiny_models.tiny_llava()
    teach(model, processor, [("What number is in the picture?", "7"), ("How many digits?", "three")])
    model.save_pretrained(folder / "my-model")
    processor.save_pretrained(folder / "my-model")
    generator = np.random.default_rng(0)
    (folder / "data").mkdir()
    asked = {"reading": ("What number is in the picture?", "7"), "counting": ("How many digits?", "three")}
    for task, (question, answer) in asked.items():
        for split, count in (("train", 64), ("validation", 8), ("test", 8)):
            records = []
            for index in range(count):
                name = f"{task}_{split}_{index}.png"
                Image.fromarray(generator.integers(0, 255, (28, 28, 3), dtype=np.uint8)).save(
                    folder / "data" / name
                )
                turns = [
                    {"from": "human", "value": f"<image>\n{question}"},
                    {"from": "gpt", "value": answer},
                ]
                records.append({"id": str(index), "image": name, "conversations": turns})
            (folder / "data" / f"{task}_{split}.json").write_text(json.dumps(records))
    config = next(block.text for block in blocks("README.md") if block.language == "yaml")
    (folder / "my-mixture.yaml").write_text(config)
    rows = ["model,task,score", "mini,reading,0.5", "mini,counting,0.4", "plus_reading,reading,0.8"]
    rows += ["plus_reading,counting,0.45", "plus_counting,reading,0.6", "plus_counting,counting,0.7"]
    (folder / "scores.csv").write_text("\n".join(rows) + "\n")
    return folder


def teach(model: Any, processor: Any, pairs: list[tuple[str, str]]) -> None:
    """Let the model answer two questions, so that no score is zero: a model that knows nothing cannot be measured."""
    collator = TaskCollator(processor, ["any"])
    image = Path(__file__).parent / "unused.png"
    records = [
        Record(str(n), "any", (), (Turn("user", question), Turn("assistant", answer)), (answer,), image, n)
        for n, (question, answer) in enumerate(pairs)
    ]
    batch = collator(records)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def call(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=800
    )


@pytest.mark.slow
def test_every_cotbal_command_of_the_readme_runs(workplace: Path) -> None:
    ran = [command for command in commands("README.md") if command[0] == "cotbal"]
    assert {command[1] for command in ran} >= {"run", "status", "report", "doctor", "weigh"}
    for command in ran:
        done = call(command, workplace)
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    assert (workplace / "runs/my-mixture/report/report.html").is_file()
    assert (workplace / "weights.json").is_file()


@pytest.mark.slow
def test_every_python_block_of_the_readme_runs(workplace: Path) -> None:
    for block in blocks("README.md"):
        if block.language == "python":
            done = call([sys.executable, "-W", "error::FutureWarning", "-c", block.text], workplace)
            assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", ["docs/loss.md"])
def test_python_blocks_of_the_docs_run(page: str, tmp_path: Path) -> None:
    python = [block.text for block in blocks(page) if block.language == "python"]
    assert python
    for text in python:
        done = call([sys.executable, "-c", text], tmp_path)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_make_target_named_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    targets = set(re.findall(r"`make ([a-z-]+)", text))
    targets |= {command[1] for command in commands(page) if command[0] == "make"}
    assert {"test"} <= targets
    for target in targets:
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_other_commands_of_the_readme_are_known() -> None:
    assert {command[0] for command in commands("README.md")} == {"make", "pip", "cotbal"}


def test_every_link_leads_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
