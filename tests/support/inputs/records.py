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
    "video under another name": (chat("q", "x", video_path="a.mp4"), "a video record (field 'video_path')"),
    "video as frames": (chat("q", "x", frames=["a.png"]), "a video record (field 'frames')"),
    "audio under another name": (chat("q", "x", audio_path="a.wav"), "an audio record (field 'audio_path')"),
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
    "DPO of OpenAI": (chat("q", "x", non_preferred_output=[A]), "(field 'non_preferred_output')"),
    "DPO under another name": (
        {"query": "q", "response": "x", "response_rejected": "y"},
        "a preference record (field 'response_rejected')",
    ),
    "no tools, in a text": (chat("q", "x", tools="[]"), [("u", "q", 1), ("a", "x", 1)]),
    "tools in a text": (
        {"conversations": [H, G], "tools": '[{"name": "f"}]'},
        "a record with 'tools'; calls of functions are not supported",
    ),
    "functions": (chat("q", "x", functions=[{"name": "f"}]), "a record with 'functions'"),
    "a turn that calls a function": (
        {
            "conversations": [
                H,
                {"from": "function_call", "value": "{}"},
                {"from": "observation", "value": "1"},
                G,
            ]
        },
        "turn 1 has the unknown role 'function_call'",
    ),
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
    "a history that is masked": (
        chat("q", "x", "r", "y", mask_history=True),
        "'mask_history' is not read; say what is trained on with 'loss_mask'",
    ),
    "questions that are trained on": (chat("q", "x", train_on_prompt=True), "'train_on_prompt' is not read"),
    "a mask of a turn": (
        masked(1, mask=True),
        "turn 1 has 'mask', which is not supported; use 'loss_weight'",
    ),
    "a turn to ignore": (masked(1, ignore=True), "turn 1 has 'ignore', which is not supported"),
    "loss: false of an exchange": (
        {"conversation": [{"human": "q", "assistant": "x", "loss": False}, {"human": "r", "assistant": "y"}]},
        [("u", "q", 1), ("a", "x", 0), ("u", "r", 1), ("a", "y", 1)],
    ),
    "a weight that is no number": (masked(1, weight=float("nan")), "turn 1: 'weight' is nan"),
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
    "system under another name": (
        chat("q", "x", system_prompt="Be brief."),
        "'system_prompt' is not read; rename it to 'system'",
    ),
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
    "a box's image that is no list": (
        grounded("q", "<bbox>", bbox=[[1, 1]], image_id=1),
        "'objects.image_id' is a value of type int; expected a list",
    ),
    "images of some boxes": (
        grounded("q", "<bbox><bbox>", bbox=[[1, 1], [2, 2]], image_id=[0]),
        "'objects.image_id' has 1 entries for 2 boxes",
    ),
    "a width and a height": (
        grounded("q", "<bbox>", bbox=[[20, 10, 4, 5]]),
        "'objects.bbox[0]' is [20, 10, 4, 5], whose second corner lies before its first",
    ),
    "objects of ms-swift 2": (
        {**grounded("<ref-object>", "<bbox>"), "objects": [{"caption": "x", "bbox": [1, 2, 3, 4]}]},
        "'objects' is a value of type list; there is nothing to put there",
    ),
    "boxes in thousandths": (
        grounded("q", "<bbox>", bbox=[[1, 2, 3, 4]], bbox_type="norm1000"),
        "'objects.bbox_type' is 'norm1000'",
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
    "base64 without its kind": (
        chat("<image>q", "x", image="/9j/" + "A" * 5000),
        "of 5004 characters; an image within the record is written as data:image/png;base64,...",
    ),
    "a file's address": (
        chat("<image>q", "x", image="file:///nowhere/a%20b.png"),
        "missing image /nowhere/a b.png",
    ),
    "an image without anything": (
        chat("<image>q", "x", images=[{"bytes": None, "path": None}]),
        "'images' holds nothing",
    ),
    "an image in a message": (
        {"messages": [{**U, "images": ["a.png"]}, A]},
        "turn 0 has 'images'; list the images beside the turns",
    ),
    "an image in a turn": ({"conversations": [{**H, "image": "a.png"}, G]}, "turn 0 has 'image'"),
    "an image's mark in capitals": (
        chat("<Image>\nq", "x", image="a.png"),
        "turn 0 (user) holds '<Image>'; write <image> there",
    ),
    "an image's mark with a number": (
        chat("What is <image 1>?", "x", images=["a.png"]),
        "turn 0 (user) holds '<image 1>'; write <image> there",
    ),
    "an image's mark of another program": (chat("[IMG]q", "x", image="a.png"), "turn 0 (user) holds '[IMG]'"),
    "a word like a mark": (
        chat("Use <Image> of React.", "x"),
        [("u", "Use <Image> of React.", 1), ("a", "x", 1)],
    ),
    "an image in Qwen-VL's tags": (
        chat("Picture 1: <img>a.png</img>\nq", "x"),
        "turn 0 (user) holds '<img>a.png</img>'; write <image> there, and the files in 'images'",
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
    "a context beside": (
        {"instruction": "q", "context": "c", "output": "x"},
        "'context' is not read beside 'instruction'",
    ),
    "an input beside": ({"query": "q", "input": "c", "response": "x"}, "'input' is not read beside 'query'"),
    "a turn that says two things": (
        {"conversations": [{**H, "content": "r"}, G]},
        "turn 0 has 'value' and 'content', which differ",
    ),
    "a turn of two": (
        {"conversations": [{**H, "role": "gpt"}, G]},
        "turn 0 has 'from' and 'role', which differ",
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
    "a byte order mark and CRLF": (
        "a.jsonl",
        b'\xef\xbb\xbf{"query": "q", "response": "x"}\r\n{"query": "q", "response": "x"}\r\n',
        [0, 1],
    ),
    "line separators within a text": (
        "a.jsonl",
        '{"query": "q\u2028r\x85s", "response": "x"}\n{"query": "q", "response": "x"}\n'.encode(),
        [0, 1],
    ),
    "a key given twice": (
        "a.json",
        b'[{"query": "q", "response": "x"}, {"query": "q", "response": "x", "response": "y"}]',
        "record 1: line 1: the key 'response' is there twice; keep one",
    ),
    "compressed": (
        "a.jsonl.gz",
        b"\x1f\x8b\x08\x00" + bytes(20),
        "the file is compressed by gzip; unpack it",
    ),
    "a workbook": ("a.xlsx", b"PK\x03\x04" + bytes(20), "a zip archive or a workbook"),
    "a table of text": (
        "a.csv",
        b"query,response\nq,x\n",
        "records are read from JSON, JSON Lines and Parquet",
    ),
    "UTF-16": ("a.jsonl", '{"query": "q", "response": "x"}'.encode("utf-16"), "not UTF-8"),
    "endless nesting": ("a.json", b"[" * 200_000, "nested too deeply"),
    "endless nesting in a line": ("a.jsonl", b'{"a": ' + b"[" * 200_000, "nested too deeply"),
    "a number of 5000 digits": ("a.jsonl", b'{"id": ' + b"7" * 5000 + b"}", "unreadable JSON"),
    "an empty file": ("a.jsonl", b"", "the file holds no record"),
}
