"""Metrics by name, one score per sample.

>>> get("exact_match").score(["Yes."], [["yes"]])
[1.0]
"""

from __future__ import annotations

import importlib
import re

from cotbal.metrics.anls import anls
from cotbal.metrics.boxes import Layout
from cotbal.metrics.cider import cider, cider_of_characters
from cotbal.metrics.exact_match import exact_match
from cotbal.metrics.iou import IoU
from cotbal.metrics.metric import Kind, Metric, ScoreFunction
from cotbal.metrics.relaxed_accuracy import relaxed_accuracy
from cotbal.metrics.vqa_accuracy import vqa_accuracy
from cotbal.metrics.yes_no import yes_no

__all__ = ["Kind", "Metric", "ScoreFunction", "get", "names"]

_METRICS = {
    metric.name: metric
    for metric in (
        Metric("exact_match", True, "generation", exact_match, full_marks=1.0),
        Metric("vqa_accuracy", True, "generation", vqa_accuracy),
        Metric("anls", True, "generation", anls, full_marks=1.0),
        Metric("relaxed_accuracy", True, "generation", relaxed_accuracy, full_marks=1.0),
        Metric("cider", True, "generation", cider, whole_set=True),
        Metric("cider-characters", True, "generation", cider_of_characters, whole_set=True),
        Metric("iou", True, "generation", IoU(), full_marks=1.0),
        Metric("iou@0.5", True, "generation", IoU(threshold=0.5), full_marks=1.0),
        Metric("iou-xywh", True, "generation", IoU("xywh"), full_marks=1.0),
        Metric("iou-xywh@0.5", True, "generation", IoU("xywh", threshold=0.5), full_marks=1.0),
        Metric("yes_no", True, "generation", yes_no, full_marks=1.0),
        Metric("loss", False, "loss", None),
    )
}
_IOU_AT = re.compile(r"iou(?P<xywh>-xywh)?@(?P<threshold>0?\.\d+)")


def names() -> tuple[str, ...]:
    """Names that `get` knows, besides `iou@<threshold>`, `iou-xywh@<threshold>` and `module:function`."""
    return tuple(_METRICS)


def get(name: str) -> Metric:
    """The metric of that name.

    `loss` is the mean teacher-forced loss of a sample's answer tokens (lower is better, no generation).
    `module:function` is a user's own: `function(predictions, references)` gets a list of strings and a list of
    lists of strings and returns one number per sample; an attribute `higher_is_better = False` on the function
    says that lower is better.

    Raises:
        ValueError: an unknown name; a module or function that cannot be found.
        TypeError: a `module:function` that cannot be called, or whose `higher_is_better` is no bool.
    """
    if name in _METRICS:
        return _METRICS[name]
    match = _IOU_AT.fullmatch(name)
    if match is not None and float(match["threshold"]) > 0:
        layout: Layout = "xywh" if match["xywh"] else "xyxy"
        return Metric(name, True, "generation", IoU(layout, float(match["threshold"])), full_marks=1.0)
    if ":" in name:
        return _users_own(name)
    raise ValueError(
        f"there is no metric {name!r}; known are {', '.join(names())}, iou@<threshold between 0 and 1>, and "
        "'module:function' for one of your own"
    )


def _users_own(name: str) -> Metric:
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"metric {name!r}: the module {module_name!r} cannot be imported ({error}); install it, or put its "
            "folder on PYTHONPATH"
        ) from error
    function = getattr(module, function_name, None)
    if function is None:
        raise ValueError(f"metric {name!r}: the module {module_name!r} has no function {function_name!r}")
    if not callable(function):
        raise TypeError(f"metric {name!r} is {type(function).__name__}; a function is needed")
    higher_is_better = getattr(function, "higher_is_better", True)
    if not isinstance(higher_is_better, bool):
        raise TypeError(f"metric {name!r}: higher_is_better is {higher_is_better!r}; True or False is needed")
    return Metric(name, higher_is_better, "generation", function, whole_set=True)
