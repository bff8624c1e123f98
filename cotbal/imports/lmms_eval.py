"""lmms-eval's `<date>_samples_<task>.jsonl`, as `--log_samples --output_path` writes them (version 0.7)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cotbal.imports.files import Rows
from cotbal.imports.results import Result, ResultFile, finite, texts

_DOCUMENT = ("doc_id", "doc_hash", "doc", "input", "arguments", "prompt_hash", "target", "target_hash")
_ANSWER = ("resps", "filtered_resps", "filter", "token_counts")
_NO_METRICS = _DOCUMENT + _ANSWER


def matches(fields: dict[str, Any]) -> bool:
    """Whether a row is one of lmms-eval's."""
    return "doc_id" in fields and ("filtered_resps" in fields or "resps" in fields)


def read(path: Path, rows: Rows, key: str | None) -> ResultFile:
    """The samples of one file.

    A metric's value is a number, an object with a `score`, or raw data that only the whole set is scored from:
    those have no score, and `pred` with `bbox` or `answer` in them is what a metric of ours can score.

    Args:
        key: the metric whose scores are wanted; None: the file's only one.

    Raises:
        ValueError: naming file and line: no or several metrics to choose from, or a document that is there twice.
    """
    metrics = [name for name in rows[0][1] if name not in _NO_METRICS]
    if key is not None and key not in metrics:
        raise ValueError(f"{path}: no metric {key!r}; the file has {', '.join(metrics) or 'none'}")
    chosen = key or (metrics[0] if len(metrics) == 1 else None)
    seen: dict[str, str] = {}
    results = []
    for where, fields in rows:
        document = str(fields.get("doc_id", ""))
        if not document:
            raise ValueError(f"{where}: no doc_id; the other rows are lmms-eval's")
        if document in seen:
            raise ValueError(
                f"{where}: doc_id {document} again, after {seen[document]}: several filters wrote into this file, or "
                "two runs did. Evaluate with one filter, into a folder of its own"
            )
        seen[document] = where
        score, unscored = _score(fields, chosen, metrics)
        prediction, references = _answer(fields, metrics)
        results.append(
            Result(where, document, str(fields.get("doc_hash", "")), score, unscored, prediction, references)
        )
    return ResultFile(tuple(results), None if chosen is None else _direction(path, chosen))


def _score(fields: dict[str, Any], chosen: str | None, metrics: list[str]) -> tuple[float | None, str]:
    if chosen is None:
        found = f"several metrics, {', '.join(metrics)}; choose one" if metrics else "no metric's scores"
        return None, found
    if chosen not in fields:
        return None, f"no {chosen}, which the first row has"
    value = fields[chosen]
    if isinstance(value, dict):
        if "score" not in value:
            return None, f"{chosen} holds raw data ({', '.join(map(str, value))}) and no score"
        value = value["score"]
    score = None if isinstance(value, str) else finite(value)
    return score, "" if score is not None else f"{chosen} is {value!r}, which is not a finite number"


def _answer(fields: dict[str, Any], metrics: list[str]) -> tuple[str | None, tuple[str, ...]]:
    """Prediction and references: of the raw data where the answer is in them, else what was generated."""
    for name in metrics:
        raw = fields.get(name)
        if isinstance(raw, dict) and "pred" in raw and ("bbox" in raw or "answer" in raw):
            # Where the prediction is a box, the answer is the expression it was asked for.
            wanted = raw["bbox"] if isinstance(raw["pred"], list) and "bbox" in raw else raw.get("answer")
            return str(raw["pred"]), texts(wanted)
    generated = fields.get("filtered_resps", fields.get("resps"))
    while isinstance(generated, list):
        generated = generated[0] if len(generated) == 1 else None
    return generated if isinstance(generated, str) else None, texts(fields.get("target"))


def _direction(path: Path, metric: str) -> bool | None:
    """What the results file of the same run says of the metric."""
    date, _, task = path.stem.partition("_samples_")
    results = path.with_name(f"{date}_results.json")
    try:
        higher = json.loads(results.read_text(encoding="utf-8"))["higher_is_better"][task][metric]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return higher if isinstance(higher, bool) else None
