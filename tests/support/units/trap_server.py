"""A small OpenAI-compatible server with a real model and the faults of larger ones.

    python trap_server.py FOLDER PORT [--lists NAME] [--any-name] [--blank COLOUR] [--drop] [--fault TEXT]
                          [--break-at N] [--die-at N] [--version V]

`--blank` shows the model pictures of one colour, with the right number of tokens; `--fault` answers 500 to messages
that hold a text; `--break-at` answers 500 from the N-th question on; `--die-at` ends the process within it.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig


class Model:
    """Answers one conversation at a time."""

    def __init__(self, folder: str, options: argparse.Namespace) -> None:
        self.processor: Any = AutoProcessor.from_pretrained(folder)
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder)
        self.options = options
        self.lock = threading.Lock()
        self.asked = 0

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            self.asked += 1
            if self.asked == self.options.die_at:
                print("CUDA error: an illegal memory access was encountered", file=sys.stderr, flush=True)
                os._exit(17)
            messages, pictures = self._read(body["messages"])
            prompt = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            inputs = self.processor(text=[prompt], images=pictures or None, return_tensors="pt")
            length = inputs["input_ids"].shape[1]
            recommended = self.model.generation_config
            settings = GenerationConfig(
                max_new_tokens=body["max_tokens"],
                do_sample=False,
                eos_token_id=recommended.eos_token_id,
                pad_token_id=recommended.pad_token_id,
            )
            with torch.inference_mode():
                tokens = self.model.generate(**inputs, generation_config=settings)[0, length:]
            text = self.processor.tokenizer.decode(tokens, skip_special_tokens=True)
            message = {"role": "assistant", "content": text}
            usage = {"prompt_tokens": length, "completion_tokens": len(tokens)}
            return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}

    def _read(self, messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Image.Image]]:
        pictures: list[Image.Image] = []
        read = []
        for message in messages:
            parts = []
            for part in message["content"]:
                if part["type"] == "text":
                    parts.append(part)
                elif not self.options.drop:
                    content = base64.b64decode(part["image_url"]["url"].partition(",")[2])
                    picture: Image.Image = Image.open(BytesIO(content))
                    if self.options.blank:
                        picture = Image.new("RGB", picture.size, self.options.blank)
                    pictures.append(picture)
                    parts.append({"type": "image"})
            read.append({**message, "content": parts})
        return read, pictures


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model: Model
    options: argparse.Namespace

    def do_GET(self) -> None:
        if self.path == "/health":
            self._send(200, {})
        elif self.path == "/version" and self.options.version:
            self._send(200, {"version": self.options.version})
        elif self.path == "/v1/models":
            self._send(200, {"data": [{"id": self.options.lists, "owned_by": "trap"}]})
        else:
            self._send(404, {"error": "no such place"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["model"] != self.options.lists and not self.options.any_name:
            self._send(404, {"error": f"the model {body['model']} does not exist"})
        elif self.options.fault and self.options.fault in json.dumps(body["messages"]):
            self._send(500, {"error": "boom"})
        elif self.options.break_at and self.model.asked + 1 >= self.options.break_at:
            self._send(500, {"error": "out of memory"})
        else:
            self._send(200, self.model.answer(body))

    def log_message(self, format: str, *arguments: Any) -> None:
        print(format % arguments, flush=True)

    def _send(self, status: int, values: dict[str, Any]) -> None:
        content = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("port", type=int)
    parser.add_argument("--lists")
    parser.add_argument("--blank")
    for flag in ("--any-name", "--drop"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--fault", default="")
    parser.add_argument("--break-at", type=int, default=0)
    parser.add_argument("--die-at", type=int, default=0)
    parser.add_argument("--version", default="")
    options = parser.parse_args()
    options.lists = options.lists or options.folder
    Handler.model, Handler.options = Model(options.folder, options), options
    ThreadingHTTPServer(("127.0.0.1", options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
