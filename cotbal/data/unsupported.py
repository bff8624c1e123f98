"""Records that are made for something else: recognised, and refused as what they are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cotbal.data.records import RecordError, Turn

_MEDIA = {
    **dict.fromkeys(
        ("video", "videos", "video_path", "video_paths", "video_url", "video_urls", "video_file", "frames"),
        "video",
    ),
    **dict.fromkeys(
        ("audio", "audios", "audio_path", "audio_paths", "audio_url", "audio_file", "speech"), "audio"
    ),
}
_PREFERENCE = (
    "chosen",
    "rejected",
    "rejected_response",
    "rejected_messages",
    "rejected_images",
    "rejected_answer",
    "response_rejected",
    "non_preferred_output",
    "preferred_output",
    "kto_tag",
    "kto_label",
)
_REASONING = ("reasoning_content", "reasoning", "thinking")
_TOOLS = ("tool_calls", "function_call")
# Beside the turns: prompts under a name that is not read, and orders about what is trained on.
_UNREAD = {
    **dict.fromkeys(("system_prompt", "system_message"), "rename it to 'system'"),
    **dict.fromkeys(
        ("mask_history", "train_on_prompt", "train_on_inputs"),
        "say what is trained on with 'loss_mask', one number per turn",
    ),
}
_IMAGES = ("image", "images")
# A mark at either end of a question stands for a medium; within a sentence it is a word, as in "the <video> tag".
_NEEDS_A_LOOK = frozenset((*_MEDIA, *_PREFERENCE, *_UNREAD, "label", "tools", "functions"))
_TURN_NEEDS_A_LOOK = frozenset((*_REASONING, *_TOOLS, *_MEDIA, *_IMAGES))
_mark = re.compile(r"\A\s*<(video|audio)>|<(video|audio)>\s*\Z")
_of_qwen = re.compile(r"<img>[^<>]+</img>")
# How others write the place of an image; apart from `<image>` itself.
_other_placeholder = re.compile(
    r"(?!(?-i:<image>))<image(?:[ _-]?\d+|here|_placeholder)?>|\[img\]", re.IGNORECASE
)


def refuse_unsupported(raw: Mapping[str, Any]) -> None:
    """Refuse what a record's fields show to be no instruction-tuning record of texts and pictures.

    Raises:
        RecordError: video or audio, a preference or KTO record, tools.
    """
    if _NEEDS_A_LOOK.isdisjoint(raw):
        return
    for field, kind in _MEDIA.items():
        if raw.get(field):
            raise RecordError(f"{_a(kind)} record (field {field!r}); {_ONLY}")
    for field in _PREFERENCE:
        if raw.get(field) is not None:
            raise RecordError(
                f"a preference record (field {field!r}), made for DPO, KTO or a reward model; expected one answer "
                "to train on: leave the field out if the answer is wanted"
            )
    if isinstance(raw.get("label"), bool):
        raise RecordError(
            f"a KTO record ('label': {str(raw['label']).lower()}); expected answers to train on: keep those that are "
            "desired and remove the field"
        )
    for field in ("tools", "functions"):
        # LLaMA-Factory has them as JSON in a text.
        if raw.get(field) and raw[field] != "[]":
            raise RecordError(f"a record with {field!r}; calls of functions are not supported")
    for field, advice in _UNREAD.items():
        if raw.get(field):
            raise RecordError(f"{field!r} is not read; {advice}, or remove it")


def refuse_unsupported_turn(message: Mapping[str, Any], position: int) -> None:
    """Refuse parts of a message that would otherwise be dropped without a word.

    Raises:
        RecordError: a reasoning beside the content, calls of tools, video or audio.
    """
    if _TURN_NEEDS_A_LOOK.isdisjoint(message):
        return
    for field in _REASONING:
        if message.get(field):
            raise RecordError(
                f"turn {position} has its reasoning in {field!r}; write it into the text, in the tags of the model's "
                "chat template, such as <think>...</think>"
            )
    for field in _TOOLS:
        if message.get(field):
            raise RecordError(f"turn {position} has {field!r}; calls of functions are not supported")
    for field, kind in _MEDIA.items():
        if message.get(field):
            raise RecordError(f"turn {position} holds {kind} ({field!r}); {_ONLY}")
    for field in _IMAGES:
        if message.get(field):
            raise RecordError(
                f"turn {position} has {field!r}; list the images beside the turns, or within 'content'"
            )


def refuse_marks(turns: Sequence[Turn]) -> None:
    """Refuse a question that begins or ends with `<video>` or `<audio>`.

    Raises:
        RecordError: naming the turn.
    """
    for position, turn in enumerate(turns):
        if turn.role != "user" or ("<video>" not in turn.text and "<audio>" not in turn.text):
            continue
        found = _mark.search(turn.text)
        if found:
            kind = found.group(1) or found.group(2)
            raise RecordError(f"turn {position} (user) holds the mark <{kind}> of {_a(kind)}; {_ONLY}")


def refuse_other_placeholders(turns: Sequence[Turn], images: int) -> None:
    """Refuse a question that holds a picture in Qwen-VL's tags, or the mark of one in another program's spelling.

    Without images in the record such a mark is a text like any other.

    Raises:
        RecordError: naming the turn and the mark.
    """
    for position, turn in enumerate(turns):
        if turn.role != "user":
            continue
        found = _of_qwen.search(turn.text) or (_other_placeholder.search(turn.text) if images else None)
        if found:
            raise RecordError(
                f"turn {position} (user) holds {found.group()!r:.60}; write <image> there, and the files in 'images'"
            )


def _a(kind: str) -> str:
    return f"an {kind}" if kind == "audio" else f"a {kind}"


_ONLY = "only text and images are supported"
