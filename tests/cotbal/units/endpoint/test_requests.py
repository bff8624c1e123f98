"""Requests: the server's template makes our prompt of the messages, and pictures arrive as they are scored."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.models import tiny_models

from cotbal.data.chat import ChatRenderer
from cotbal.data.pictures import load_picture
from cotbal.data.prompts import PromptCollator
from cotbal.data.records import BadRecordsError, Record, Turn
from cotbal.units.endpoint.requests import RequestMaker, renamed

PROCESSORS = {
    "llava": lambda: tiny_models.tiny_llava()[1],
    "qwen": lambda: tiny_models.tiny_qwen2_5_vl()[1],
    "llama": lambda: tiny_models.tiny_llama()[1],
}
CONVERSATIONS = {
    "one": (Turn("user", "<image>\nHow many?"), Turn("assistant", "three")),
    "two": (
        Turn("user", "<image>\nHow many?"),
        Turn("assistant", "three"),
        Turn("user", "Where is the nine?"),
        Turn("assistant", "left"),
    ),
    "system": (Turn("system", "Be brief."), Turn("user", "<image>\nHow many?"), Turn("assistant", "three")),
}


def record(folder: Path, turns: tuple[Turn, ...], *, sees: bool = True) -> Record:
    path = folder / "p.png"
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 256, (40, 33, 4), dtype=np.uint8)).save(path)
    if not sees:
        turns = tuple(Turn(turn.role, turn.text.replace("<image>\n", "")) for turn in turns)
    return Record("0", "count", (path,) if sees else (), turns, ("three",), folder / "v.json", 4)


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", PROCESSORS)
def test_the_template_makes_the_same_prompt_of_the_messages(tmp_path, name, conversation):
    processor = PROCESSORS[name]()
    sample = record(tmp_path, CONVERSATIONS[conversation], sees=name != "llama")
    request = RequestMaker(processor, "mini", 5, {"top_k": 1})([sample])
    body = json.loads(request.body)
    assert (body["model"], body["max_tokens"], body["temperature"], body["top_k"]) == ("mini", 5, 0.0, 1)
    # As a server reads them: pictures by their place, everything else as it is.
    messages = [
        message
        if isinstance(message["content"], str)
        else {
            **message,
            "content": [
                {"type": "image"} if part["type"] == "image_url" else part for part in message["content"]
            ],
        }
        for message in body["messages"]
    ]
    prompt = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == ChatRenderer(processor).render(sample).prompt
    assert request.tokens == PromptCollator(processor)([sample])["input_ids"].shape[1]
    assert request.pictures == len(sample.images)


def test_pictures_arrive_as_in_process_scoring_sees_them(tmp_path):
    sample = record(tmp_path, CONVERSATIONS["one"])
    body = json.loads(RequestMaker(PROCESSORS["llava"](), "mini", 5)([sample]).body)
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    sent = Image.open(BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
    wanted = load_picture(sample.images[0])
    assert sent.mode == "RGB"
    assert np.array_equal(np.asarray(sent), np.asarray(wanted))


def test_a_picture_that_cannot_be_shown_is_the_records_fault(tmp_path):
    sample = record(tmp_path, CONVERSATIONS["one"])
    (tmp_path / "p.png").write_bytes(b"not a picture")
    with pytest.raises(BadRecordsError, match=r"v\.json, record 4: image .* cannot be decoded"):
        RequestMaker(PROCESSORS["llava"](), "mini", 5)([sample])


def test_another_name_changes_nothing_else(tmp_path):
    request = RequestMaker(PROCESSORS["llava"](), "mini", 5)([record(tmp_path, CONVERSATIONS["one"])])
    other = renamed(request, "nobody")
    assert json.loads(other.body) == {**json.loads(request.body), "model": "nobody"}
