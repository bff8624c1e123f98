"""Files in the shapes that other tools write them in, made small."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def lmms_row(document: int, answer: str, target: Any, **metrics: Any) -> dict[str, Any]:
    """A line of lmms-eval 0.7.3: no `resps` where they equal the filtered ones, targets made to text."""
    return {
        "doc_id": document,
        "target": str(target),
        "filtered_resps": [answer],
        "token_counts": [{"output_tokens": 3}],
        "doc_hash": hashlib.sha256(f"document {document}".encode()).hexdigest(),
        "input": f"Question {document}?\nAnswer the question using a single word or phrase.",
        **metrics,
    }


def lmms_results(samples: Path, task: str, higher: Mapping[str, bool]) -> None:
    """The aggregated results that stand beside a file of samples."""
    date = samples.name.split("_samples_")[0]
    values = {"results": {task: {}}, "higher_is_better": {task: dict(higher)}, "n-samples": {task: {}}}
    samples.with_name(f"{date}_results.json").write_text(json.dumps(values))


def write_sheet(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """VLMEvalKit's xlsx, tsv (everything quoted) or json (records)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(rows[0])
    if path.suffix == ".xlsx":
        import openpyxl

        book = openpyxl.Workbook()
        for line in (columns, *([row.get(column) for column in columns] for row in rows)):
            book.active.append(line)
        book.save(path)
    elif path.suffix == ".tsv":
        lines = [columns, *([row.get(column, "") for column in columns] for row in rows)]
        quoted = ["\t".join('"{}"'.format(str(cell).replace('"', '""')) for cell in line) for line in lines]
        path.write_text("\n".join(quoted) + "\n", encoding="utf-8")
    else:
        path.write_text(
            json.dumps([dict(row) for row in rows], indent=4, ensure_ascii=False), encoding="utf-8"
        )
    return path


def swift_row(question: str, answer: str, label: str | None, image: str = "") -> dict[str, Any]:
    """A line of ms-swift 4's `infer --result_path`."""
    messages = [{"role": "user", "content": f"<image>{question}"}, {"role": "assistant", "content": answer}]
    images = [{"bytes": None, "path": image}] if image else []
    return {"response": answer, "labels": label, "logprobs": None, "messages": messages, "images": images}


def factory_row(question: str, answer: str, label: str) -> dict[str, Any]:
    """A line of LLaMA-Factory's `generated_predictions.jsonl`."""
    return {"prompt": f"user\n{question}\nassistant\n", "predict": answer, "label": label}
