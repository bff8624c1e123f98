"""VLMEvalKit's sheets (state of August 2026): predictions, and the results that its evaluations write beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cotbal.imports.files import Rows
from cotbal.imports.results import Result, ResultFile, finite, literal, texts

_SCORES = ("eval_score", "hit", "score")
# Their `eval_score` is no score: a distance, or a mean where the evaluation takes the best.
_DISTANCES = ("docvqa", "infovqa")
_BEST_OF = ("chartqa", "ocrvqa")
_ANLS_THRESHOLD = 0.5
_FAILED = "Failed to obtain answer"


def matches(fields: dict[str, Any]) -> bool:
    """Whether a row is one of VLMEvalKit's."""
    return "index" in fields and ("prediction" in fields or any(name in fields for name in _SCORES))


def read(path: Path, rows: Rows, key: str | None) -> ResultFile:
    """The samples of one sheet, with the score that VLMEvalKit's own summary takes the mean of.

    That is `eval_score` of visual questions, `hit` of multiple choice, `score` of yes and no. From `eval_match`
    comes that of DocVQA and InfoVQA, which holds distances (1 - the least of them, 0 below .5), and that of ChartQA
    and OCRVQA (the best). A sheet of predictions has none, and is scored by a metric of ours.

    Args:
        key: the column whose scores are wanted; None: the above.

    Raises:
        ValueError: naming file and row: no such column, an index that is there twice, or a request that failed.
    """
    columns = rows[0][1]
    if key is not None and key not in columns:
        raise ValueError(f"{path}: no column {key!r}; the sheet has {', '.join(columns)}")
    chosen = key or next((name for name in _SCORES if name in columns), None)
    results = []
    seen: dict[str, str] = {}
    for where, fields in rows:
        index = _plain(fields.get("index"))
        if not index:
            raise ValueError(f"{where}: no index; rows are paired by it")
        if index in seen:
            raise ValueError(f"{where}: index {index} again, after {seen[index]}; each sample is needed once")
        seen[index] = where
        prediction = fields.get("prediction")
        if prediction is not None and str(prediction).startswith(_FAILED):
            raise ValueError(f"{where}: the prediction is {prediction!r}; run these samples again (--reuse)")
        score, unscored = _score(path.name.lower(), fields, chosen)
        references = texts(_plain(fields.get("answer")))
        results.append(
            Result(
                where,
                index,
                "|".join(references),
                score,
                unscored,
                None if prediction is None else _plain(prediction),
                references,
                _plain(fields.get("image_path")),
            )
        )
    return ResultFile(tuple(results), None if chosen is None else True)


def _score(name: str, fields: dict[str, Any], chosen: str | None) -> tuple[float | None, str]:
    if chosen is None:
        return None, "predictions without a score"
    if chosen == "eval_score" and any(part in name for part in (*_DISTANCES, *_BEST_OF)):
        match = fields.get("eval_match")
        listed = literal(match) if isinstance(match, str) else match
        values = [finite(value) for value in listed] if isinstance(listed, list) else []
        numbers = [value for value in values if value is not None]
        if not numbers or len(numbers) != len(values):
            return (
                None,
                f"eval_match is {match!r}; a list of numbers is needed, as eval_score is not the score here",
            )
        if any(part in name for part in _BEST_OF):
            return max(numbers), ""
        similarity = 1 - min(numbers)
        return (similarity if similarity >= _ANLS_THRESHOLD else 0.0), ""
    score = finite(fields.get(chosen))
    return (
        score,
        "" if score is not None else f"{chosen} is {fields.get(chosen)!r}, which is not a finite number",
    )


def _plain(value: Any) -> str:
    """A cell as text; whole numbers without the `.0` that sheets give a column with gaps."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
