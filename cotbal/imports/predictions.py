"""Files of answers without ids: ms-swift's `infer --result_path` and LLaMA-Factory's `generated_predictions.jsonl`.

Their samples are paired by their order, which the label beside each answer has to confirm.
"""

from __future__ import annotations

from typing import Any

from cotbal.imports.files import Rows
from cotbal.imports.results import Result, ResultFile, texts


def matches(fields: dict[str, Any]) -> bool:
    """Whether a row is ms-swift's (`response`, `labels` or `messages`) or LLaMA-Factory's (`predict`, `label`)."""
    swift = "response" in fields and ("labels" in fields or "messages" in fields)
    return swift or ("predict" in fields and "label" in fields)


def read(rows: Rows) -> ResultFile:
    """The answers of one file.

    Raises:
        ValueError: naming file and line: an answer that is not a text, or no label to score it against.
    """
    answer, label = ("predict", "label") if "predict" in rows[0][1] else ("response", "labels")
    results = []
    for index, (where, fields) in enumerate(rows):
        prediction = fields.get(answer)
        if not isinstance(prediction, str):
            raise ValueError(f"{where}: {answer} is {prediction!r}; the text of an answer is needed")
        references = texts(fields.get(label))
        if not references:
            raise ValueError(
                f"{where}: {label} is {fields.get(label)!r}; a reference is needed to pair and to score samples. "
                "Infer on a data set with answers"
            )
        results.append(
            Result(
                where,
                str(index),
                "|".join(references),
                unscored="answers without a score",
                prediction=prediction,
                references=references,
                group=_picture(fields.get("images")),
            )
        )
    return ResultFile(tuple(results))


def _picture(images: Any) -> str:
    first = images[0] if isinstance(images, list) and images else images
    if isinstance(first, dict):
        first = first.get("path")
    return first if isinstance(first, str) else ""
