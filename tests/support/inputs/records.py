"""Malformed and unusual records and data files: each with the result or part of the error."""

from __future__ import annotations

from typing import Any

U, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "x"}
H, G = {"from": "human", "value": "q"}, {"from": "gpt", "value": "x"}
WIDTH, HEIGHT = 40, 20


def chat(*texts: str, **more: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": t} for i, t in enumerate(texts)], **more}


def masked(where: int, **mask: Any) -> dict[str, Any]:
    raw = chat("q", "x", "r", "y")
    raw["messages"][where].update(mask)
    return raw


def grounded(question: str, answer: str, image: str = "a.png", **objects: Any) -> dict[str, Any]:
    return chat("<image>" + question, answer, images=[image], objects=objects)


MEDIA = "only text and images are supported"
KTO = "expected answers to train on"
PREFERENCE = "made for DPO, KTO or a reward model"

# A record, and the turns that are read as (role's first letter, text, weight), or part of the error.
RECORDS: dict[str, tuple[Any, Any]] = {
    # media
    "video in a field": (
        chat("<video>q", "x", videos=["a.mp4"]),
        f"a video record (field 'videos'); {MEDIA}",
    ),
    "video of LLaVA": ({"video": "a.mp4", "conversations": [H, G]}, "a video record (field 'video')"),
    "audio in a field": (chat("<audio>q", "x", audios=["a.wav"]), "an audio record (field 'audios')"),
    "video's mark alone": (chat("<video>\nq", "x"), "turn 0 (user) holds the mark <video> of a video"),
    "audio's mark at the end": (chat("q <audio>", "x"), "holds the mark <audio>"),
    "a word in a sentence": (
        chat("What is the <video> tag?", "x"),
        [("u", "What is the <video> tag?", 1), ("a", "x", 1)],
    ),
    "no videos": (chat("q", "x", videos=[], audios=None), [("u", "q", 1), ("a", "x", 1)]),
    "video within a message": ({"messages": [{**U, "video": "a.mp4"}, A]}, "turn 0 holds video ('video')"),
    "video part": (
        {"messages": [{"role": "user", "content": [{"type": "video"}]}, A]},
        "content part of type 'video'",
    ),
    # made for something else
    "KTO, undesired": (chat("q", "x", label=False), f"a KTO record ('label': false); {KTO}"),
    "KTO, desired": (chat("q", "x", label=True), "a KTO record ('label': true)"),
    "KTO of LLaMA-Factory": (
        chat("q", "x", kto_tag=True),
        f"a preference record (field 'kto_tag'), {PREFERENCE}",
    ),
    "a label that is a name": (chat("q", "x", label="cat"), [("u", "q", 1), ("a", "x", 1)]),
    "DPO of ms-swift": (
        chat("q", "x", rejected_response="y"),
        "a preference record (field 'rejected_response')",
    ),
    "DPO of TRL": ({"prompt": "q", "chosen": "x", "rejected": "y"}, "a preference record (field 'chosen')"),
    "tools": (chat("q", "x", tools=[{"name": "f"}]), "a record with 'tools'"),
    "tool calls": ({"messages": [U, {**A, "tool_calls": [{}]}]}, "turn 1 has 'tool_calls'"),
    "reasoning beside": (
        {"messages": [U, {**A, "reasoning_content": "hm"}]},
        "turn 1 has its reasoning in 'reasoning_content'",
    ),
    "pretraining text": ({"text": "once upon a time"}, "among its fields (text)"),
    "only an answer": ({"messages": [A]}, "turn 0 is the assistant's; expected the user's"),
    # loss masks
    "loss: false": (masked(1, loss=False), [("u", "q", 1), ("a", "x", 0), ("u", "r", 1), ("a", "y", 1)]),
    "loss: true": (masked(1, loss=True), [("u", "q", 1), ("a", "x", 1), ("u", "r", 1), ("a", "y", 1)]),
    "loss_scale": (masked(1, loss_scale=0.5), [("u", "q", 1), ("a", "x", 0.5), ("u", "r", 1), ("a", "y", 1)]),
    "weight of a message": (
        masked(3, weight=0),
        [("u", "q", 1), ("a", "x", 1), ("u", "r", 1), ("a", "y", 0)],
    ),
    "train: false": (masked(1, train=False), [("u", "q", 1), ("a", "x", 0), ("u", "r", 1), ("a", "y", 1)]),
    "loss_weight of both": (
        {"messages": [{**U, "loss_weight": 0.0}, {**A, "loss_weight": 1.0}]},
        [("u", "q", 1), ("a", "x", 1)],
    ),
    "mask beside": (
        chat("q", "x", "r", "y", loss_mask=[0, 0, 0, 1]),
        [("u", "q", 1), ("a", "x", 0), ("u", "r", 1), ("a", "y", 1)],
    ),
    "weight beside": (chat("q", "x", loss_weight=2), [("u", "q", 1), ("a", "x", 2)]),
    "mask that names the user": (chat("q", "x", mask="User"), [("u", "q", 1), ("a", "x", 1)]),
    "mask of another kind": (chat("q", "x", mask="gpt"), "'mask' is 'gpt'; use 'loss_mask'"),
    "mask of another length": (chat("q", "x", loss_mask=[1]), "'loss_mask' has 1 entries for 2 turns"),
    "mask on a question": (chat("q", "x", loss_mask=[1, 1]), "'loss_mask' asks for a loss on turn 0 (user)"),
    "loss on a question": (masked(0, train=True), "turn 0 (user) asks for a loss of weight 1"),
    "negative weight": (masked(1, weight=-1), "turn 1: 'weight' is -1; expected a loss weight"),
    "weight in words": (masked(1, loss_scale="high"), "turn 1: 'loss_scale' is 'high'"),
    "weights that differ": (masked(1, loss=False, weight=1), "turn 1 has loss weights that differ"),
    "all masked": (
        masked(1, loss=False) | {"messages": [U, {**A, "loss": False}]},
        "every one is masked out",
    ),
    "a weight that may be no weight": (
        chat("q", "x", weight=70),
        "'weight' beside the turns could be a loss weight",
    ),
    "parts of an answer": (masked(1, train_detail=[{"begin_offset": 0}]), "turn 1 has 'train_detail'"),
    # system
    "system beside messages": (
        chat("q", "x", system="Be brief."),
        [("s", "Be brief.", 1), ("u", "q", 1), ("a", "x", 1)],
    ),
    "an empty system": (chat("q", "x", system=""), [("u", "q", 1), ("a", "x", 1)]),
    "the same system twice": (
        {"system": "s", "messages": [{"role": "system", "content": "s"}, U, A]},
        [("s", "s", 1), ("u", "q", 1), ("a", "x", 1)],
    ),
    "two systems": (
        {"system": "s", "messages": [{"role": "system", "content": "t"}, U, A]},
        "two system prompts that differ",
    ),
    "system of another kind": (chat("q", "x", system=["s"]), "turn 0 (system) has a value of type list"),
    # grounding
    "boxes in pixels": (
        grounded("Find <ref-object>", "<bbox><bbox>", ref=["sheep"], bbox=[[4, 5, 20, 10], [0, 0, 40, 20]]),
        [("u", "<image>Find sheep", 1), ("a", "[100, 250, 500, 500][0, 0, 1000, 1000]", 1)],
    ),
    "boxes from 0 to 1": (
        grounded("q", "<bbox>", bbox=[[0.1, 0.25, 0.5, 0.5]], bbox_type="norm1"),
        [("u", "<image>q", 1), ("a", "[100, 250, 500, 500]", 1)],
    ),
    "a point": (
        grounded("q", "at <bbox>", bbox=[[20, 5]]),
        [("u", "<image>q", 1), ("a", "at [500, 250]", 1)],
    ),
    "a box on an upright picture": (
        grounded("q", "<bbox>", image="phone.jpg", bbox=[[20, 5, 40, 20]]),
        [("u", "<image>q", 1), ("a", "[500, 250, 1000, 1000]", 1)],
    ),
    "a box on the second image": (
        chat(
            "<image><image>q",
            "<bbox>",
            images=["a.png", "b.png"],
            objects={"bbox": [[20, 5]], "image_id": [1]},
        ),
        [("u", "<image><image>q", 1), ("a", "[500, 250]", 1)],
    ),
    "a box on no image": (
        grounded("q", "<bbox>", bbox=[[1, 1]], image_id=[3]),
        "a box lies on image 3, but the record has 1",
    ),
    "marks without objects": (chat("q", "<bbox>"), "a text holds <bbox>, but 'objects' is nothing"),
    "too few boxes": (
        grounded("q", "<bbox><bbox>", bbox=[[1, 1]]),
        "2 <bbox> mark(s) for 1 entries of 'objects.bbox'",
    ),
    "too few names": (grounded("<ref-object>", "x", ref=[]), "1 <ref-object> mark(s) for 0 entries"),
    "a box outside": (grounded("q", "<bbox>", bbox=[[1, 1, 90, 9]]), "outside a picture of 40 x 20 pixels"),
    "three numbers": (
        grounded("q", "<bbox>", bbox=[[1, 1, 9]]),
        "'objects.bbox[0]' is [1, 1, 9]; expected 2 or 4 numbers",
    ),
    "a kind of boxes": (
        grounded("q", "<bbox>", bbox=[[1, 1]], bbox_type="norm9"),
        "'objects.bbox_type' is 'norm9'",
    ),
    "objects nobody asks for": (chat("q", "x", objects=["cat"]), [("u", "q", 1), ("a", "x", 1)]),
    # images
    "image and images agree": (
        chat("<image>q", "x", image="a.png", images=["a.png"]),
        [("u", "<image>q", 1), ("a", "x", 1)],
    ),
    "image and images differ": (
        chat("<image>q", "x", image="a.png", images=["b.png"]),
        "'image' and 'images' name different images",
    ),
    "image under another name": (
        chat("q", "x", image_path="a.png"),
        "not from 'image_path'; rename the field",
    ),
    "a name too long": (chat("<image>q", "x", image="a" * 5000), "missing image"),
    "a name with a zero": (chat("<image>q", "x", image="a\0.png"), "which no file can be called"),
    "an address": (
        chat("<image>q", "x", image="https://x.org/a.png"),
        "images are read from files, download them first",
    ),
    "inline data": (
        chat("<image>q", "x", image="data:image/png;base64,AAAA"),
        [("u", "<image>q", 1), ("a", "x", 1)],
    ),
    "broken inline data": (chat("<image>q", "x", image="data:image/png;base64,?"), "broken base64"),
    "the same image inside and beside": (
        {
            "images": ["a.png"],
            "messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}, A],
        },
        [("u", "<image>", 1), ("a", "x", 1)],
    ),
    "an image within an image": (
        chat("<image>q", "x", images=[["a.png"]]),
        "'images' holds a value of type list",
    ),
    # contents
    "LLaMA-Factory v1": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "value": "a.png"}, {"type": "text", "value": "q"}],
                },
                {"role": "assistant", "content": [{"type": "text", "value": "x"}]},
            ]
        },
        [("u", "<image>q", 1), ("a", "x", 1)],
    ),
    "a part filled with nothing": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "q", "image": None}]}, A]},
        [("u", "q", 1), ("a", "x", 1)],
    ),
    "a text part without text": (
        {"messages": [{"role": "user", "content": [{"type": "text", "words": "q"}]}, A]},
        "turn 0 has a text part without its 'text' (found type, words)",
    ),
    "a part that is a string": (
        {"messages": [{"role": "user", "content": ["q"]}, A]},
        "a content part that is str",
    ),
    "half a character": (
        chat("q", "nice \ud83d"),
        "turn 1 (assistant) holds the lone surrogate \\ud83d at character 5",
    ),
    "half a character in the id": (chat("q", "x", id="\ud83d"), "'id' holds the lone surrogate"),
    "half a character in references": (
        chat("q", "x", references=["\ud83d"]),
        "'references' holds the lone surrogate",
    ),
    "a whole pair": (chat("q", "nice \U0001f600"), [("u", "q", 1), ("a", "nice \U0001f600", 1)]),
    # other formats
    "Alpaca": ({"instruction": "q", "input": "", "output": "x"}, [("u", "q", 1), ("a", "x", 1)]),
    "Alpaca with input and history": (
        {"instruction": "q", "input": "i", "output": "x", "history": [["r", "y"]], "system": "s"},
        [("s", "s", 1), ("u", "r", 1), ("a", "y", 1), ("u", "q\ni", 1), ("a", "x", 1)],
    ),
    "Alpaca without an answer": ({"instruction": "q"}, "an 'instruction' without an 'output'"),
    "query and response": (
        {"query": "<image>q", "response": "x", "images": ["a.png"]},
        [("u", "<image>q", 1), ("a", "x", 1)],
    ),
    "ms-swift's ShareGPT": (
        {"conversation": [{"human": "q", "assistant": "x"}]},
        [("u", "q", 1), ("a", "x", 1)],
    ),
    "history of another shape": (
        {"query": "q", "response": "x", "history": [["r"]]},
        "expected [question, answer]",
    ),
    "both formats": (
        {"conversations": [H, G], "messages": [U, A]},
        "both 'conversations' and 'messages' are there",
    ),
    "a format filled with nothing": (
        {"conversations": None, "messages": [U, A]},
        [("u", "q", 1), ("a", "x", 1)],
    ),
}

# A file, and the indices of its records or part of the error.
FILES: dict[str, tuple[str, bytes, Any]] = {
    "an array in .jsonl": ("a.jsonl", b'[{"conversations": []}]', "not JSON Lines"),
    "pretty-printed in .jsonl": ("a.jsonl", b'{\n "conversations": [\n]\n}', "rename it"),
    "pretty-printed in .json": (
        "a.json",
        b'{\n "query": "q",\n "response": "x"\n}\n{\n "query": "q",\n "response": "x"\n}',
        [0, 1],
    ),
    "a line that is broken": ("a.jsonl", b'{"query": "q", "response": "x"}\n{"query\n', "line 2, byte"),
    "UTF-16": ("a.jsonl", '{"query": "q", "response": "x"}'.encode("utf-16"), "not UTF-8"),
    "endless nesting": ("a.json", b"[" * 200_000, "nested too deeply"),
    "endless nesting in a line": ("a.jsonl", b'{"a": ' + b"[" * 200_000, "nested too deeply"),
    "a number of 5000 digits": ("a.jsonl", b'{"id": ' + b"7" * 5000 + b"}", "unreadable JSON"),
    "an empty file": ("a.jsonl", b"", "the file holds no record"),
}
