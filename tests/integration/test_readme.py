"""Everything the README and the docs tell people to type is run, in a folder with a user's files alone."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset, List
from PIL import Image
from support.models import tiny_models
from transformers import TrainingArguments

import cotbal
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
    cotbal.weigh(cotbal.measure(cotbal.ScoreTable.from_csv(folder / "scores.csv"))).save(
        folder / "weights.json"
    )
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


@pytest.mark.slow
def test_the_python_block_of_the_trl_page_runs(workplace: Path) -> None:
    examples = [
        {
            "prompt": [{"role": "user", "content": "How many digits?"}],
            "completion": [{"role": "assistant", "content": answer}],
            "images": [str(workplace / "data" / f"{task}_train_{index}.png")],
            "task": task,
        }
        for index in range(8)
        for task, answer in (("reading", "seven"), ("counting", "three"))
    ]
    dataset = Dataset.from_list(examples).cast_column("images", List(datasets.Image()))
    dataset.save_to_disk(workplace / "my-data")
    (text,) = [block.text for block in blocks("docs/trl.md") if block.language == "python"]
    text = text.replace(
        "max_steps=2", "max_steps=2, logging_steps=1, use_cpu=True"
    )  # TRL asks for bf16 and a GPU
    done = call([sys.executable, "-c", text], workplace)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    assert "loss/counting" in done.stdout


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


def sides(diff: str) -> tuple[str, str]:
    """The code before a diff and the code after it."""
    lines = diff.splitlines()
    assert all(line[:1] in ("", " ", "+", "-") for line in lines)
    before, after = ("\n".join(line[1:] for line in lines if line[:1] != skipped) for skipped in "+-")
    return before, after


def diff_of(word: str) -> tuple[str, str]:
    """Both sides of the README's one diff that adds `word`."""
    found = [sides(block.text) for block in blocks("README.md") if block.language == "diff"]
    found = [(before, after) for before, after in found if word in after and word not in before]
    assert len(found) == 1
    return found[0]


def users_own(folder: Path, *, with_tasks: bool = True) -> dict[str, Any]:
    """What a user's script has before the README's lines: model, data, a function that encodes it, and batches."""
    model, processor = tiny_models.tiny_llava()
    dataset = [
        {
            "task": task,
            "image": folder / "data" / f"{task}_train_{index}.png",
            "question": question,
            "answer": answer,
        }
        for index in range(8)
        for task, question, answer in (
            ("reading", "What number?", "seven"),
            ("counting", "How many digits?", "3"),
        )
    ]

    def encode(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        prompts = [f"USER: <image>\n{example['question']} ASSISTANT:" for example in examples]
        texts = [f"{prompt} {example['answer']}" for prompt, example in zip(prompts, examples, strict=True)]
        images = [Image.open(example["image"]) for example in examples]
        batch = processor(text=texts, images=images, padding=True, padding_side="right", return_tensors="pt")
        alone = processor(
            text=prompts, images=images, padding=True, padding_side="right", return_tensors="pt"
        )
        given = alone["attention_mask"].sum(dim=1, keepdim=True)
        place = torch.arange(batch["input_ids"].shape[1])
        kept = (place >= given) & batch["attention_mask"].bool()
        return {**batch, "labels": batch["input_ids"].where(kept, -100)}

    def batch_of(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        tasks = torch.tensor([("reading", "counting").index(example["task"]) for example in examples])
        return {**encode(examples), **({"loss_task_index": tasks} if with_tasks else {})}

    return {
        "model": model,
        "dataset": dataset,
        "encode": encode,
        "steps": [[batch_of(dataset[:3]), batch_of(dataset[3:4])], [batch_of(dataset[4:6])]],
        "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-3),
        "args": TrainingArguments(
            str(folder / "out"),
            remove_unused_columns=False,
            max_steps=2,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
        ),
    }


def test_the_trainer_diff_runs_before_and_after(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    before, after = diff_of("TaskBalancedTrainer")
    stock = users_own(workplace)
    exec(before, stock)
    assert stock["trainer"].state.global_step == 2
    balanced = users_own(workplace)
    exec(after, balanced)
    first = balanced["trainer"].state.log_history[0]
    weights = cotbal.TaskWeights.load("weights.json").as_dict()
    assert {task: first[f"weight/{task}"] for task in weights} == pytest.approx(weights)
    assert all(first[f"tokens/{task}"] > 0 and first[f"loss/{task}"] > 0 for task in weights)


def test_the_loop_diff_runs_before_and_after(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    before, after = diff_of("begin_step")
    exec(before, users_own(workplace, with_tasks=False))
    balanced = users_own(workplace)
    exec(after, balanced)
    last = balanced["steps"][-1]
    assert int(balanced["sums"].tokens.sum()) == sum(
        int((batch["labels"][:, 1:] >= 0).sum()) for batch in last
    )
    assert balanced["handle"].passes == 3


def test_the_head_diff_gives_the_same_loss_with_equal_weights() -> None:
    before, after = diff_of("ck.linear_cross_entropy")
    losses, gradients = [], []
    for code in (before, after):
        torch.manual_seed(0)
        backbone, head = torch.nn.Embedding(50, 16), torch.nn.Linear(16, 50, bias=False)
        input_ids = torch.randint(0, 50, (3, 8))
        found: dict[str, Any] = {"backbone": backbone, "head": head, "input_ids": input_ids}
        found |= {"labels": input_ids.where(torch.rand(3, 8) < 0.4, -100)}
        found |= {"task_ids": torch.tensor([0, 1, 1]), "task_weights": torch.ones(2)}
        exec(code, found)
        losses.append(found["loss"].detach())
        gradients.append(head.weight.grad)
    # Both add a few dozen float32 terms of order 1.
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)
