"""Answers and references of unusual kinds: a metric, predictions, references, and the scores or part of the error."""

from __future__ import annotations

from typing import Any

METRICS: dict[str, tuple[str, Any, Any, Any]] = {
    "yes_no, an option's letter": ("yes_no", ["A. Yes"], [["yes"]], [1.0]),
    "yes_no, an option's number": ("yes_no", ["1. No"], [["yes"]], [0.0]),
    "yes_no, a second line": ("yes_no", ["Yes\nThere is no dog"], [["yes"]], [1.0]),
    "yes_no, in bold type": ("yes_no", ["**Yes**"], [["yes"]], [1.0]),
    "yes_no, an answer's head": ("yes_no", ["Answer: no."], [["no"]], [1.0]),
    "yes_no, nothing": ("yes_no", [""], [["yes"]], [0.0]),
    "exact_match, a full stop": ("exact_match", ["Blue."], [["blue"]], [1.0]),
    "exact_match, reasoning before": ("exact_match", ["<think>red?</think>blue"], [["blue"]], [1.0]),
    "anls, characters without blanks": ("anls", ["東京 都"], [["東京都"]], [1.0]),
    "anls, 20,000 characters": ("anls", ["x" * 100_000], [["y" * 20_000]], [0.0]),
    "iou, a sentence around": ("iou", ["at [10, 10, 20, 20]."], [["[10, 10, 20, 20]"]], [1.0]),
    "iou, a confidence behind": ("iou", ["[10, 10, 20, 20, 0.9]"], [["[10, 10, 20, 20]"]], [1.0]),
    "iou, location tokens": (
        "iou",
        ["<loc0010><loc0010><loc0020><loc0020>"],
        [["<loc0010><loc0010><loc0020><loc0020>"]],
        [1.0],
    ),
    "iou, Qwen's tags": (
        "iou",
        ["<|box_start|>(10,20),(30,40)<|box_end|>"],
        [["[10, 20, 30, 40]"]],
        [1.0],
    ),
    "iou, InternVL's tags": ("iou", ["<box>[[10, 20, 30, 40]]</box>"], [["[10, 20, 30, 40]"]], [1.0]),
    "iou, no box": ("iou", ["nowhere"], [["[10, 10, 20, 20]"]], [0.0]),
    "iou, 100,000 digits": ("iou", ["[" + "1" * 100_000], [["[10, 10, 20, 20]"]], [0.0]),
    "relaxed_accuracy, a thousands comma": ("relaxed_accuracy", ["1,284"], [["1284"]], [1.0]),
    "relaxed_accuracy, a per cent sign": ("relaxed_accuracy", ["50%"], [["50%"]], [1.0]),
    "relaxed_accuracy, a minus sign of print": ("relaxed_accuracy", ["\u22125"], [["-5"]], [1.0]),
    "relaxed_accuracy, no number": ("relaxed_accuracy", ["nan"], [["5"]], [0.0]),
    "relaxed_accuracy, 10^400": ("relaxed_accuracy", ["1" + "0" * 400], [["5"]], [0.0]),
    "vqa_accuracy, three of ten agree": ("vqa_accuracy", ["two"], [["2"] * 3 + ["3"] * 7], [0.9]),
    "no metric of that name": ("rogue", ["x"], [["x"]], "rogue"),
    "a number for a reference": ("exact_match", ["x"], [[1]], "references[0] is [1]"),
    "a text for references": ("exact_match", ["x"], ["x"], "references[0] is 'x'; a list of strings"),
    "no reference": ("exact_match", ["x"], [[]], "references[0] is empty"),
    "more answers than samples": ("exact_match", ["x", "y"], [["x"]], "2 predictions for 1 samples"),
    "a module that is not there": ("nowhere:f", ["x"], [["x"]], "nowhere"),
}
