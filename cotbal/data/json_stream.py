"""Reading JSON arrays and JSON Lines one element at a time, saying where a broken file breaks."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from pydantic_core import from_json

from cotbal.atomic import naming

CHUNK_BYTES = 1 << 20
# An element cut off by the end of the buffer fails within this many characters of it
# (a literal such as `false`, or an escape such as `\u00e9`); an earlier failure is a real one.
CUT_MARGIN = 16

_NOT_LINES = (
    "not JSON Lines, which have one object on each line; a JSON array, or objects over several lines, belong into a "
    "file whose name ends in .json: rename it"
)

_PACKED = {
    b"\x1f\x8b": "compressed by gzip",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"\xfd7zXZ": "compressed by xz",
    b"BZh": "compressed by bzip2",
    b"PK\x03\x04": "a zip archive or a workbook",
}
_space = re.compile(r"[ \t\r\n]*")
_cut_number = re.compile(r"(\.|[eE][+-]?)?")
_decode = json.JSONDecoder().raw_decode


@dataclass(frozen=True, slots=True)
class Element:
    """One JSON value of the file: its position among the elements and the line it starts on (from 1)."""

    index: int
    line: int
    value: object


@dataclass(frozen=True, slots=True)
class Broken:
    """The element at `index` cannot be read; `reason` names the line and the byte."""

    index: int
    reason: str


def iter_json(path: Path) -> Iterator[Element | Broken]:
    """Yield the elements of a JSON array, of JSON Lines, or of objects written one after the other.

    Memory stays at a few MiB however large the file is. A broken line of JSON Lines (`.jsonl`, `.ndjson`)
    yields a `Broken` and reading goes on with the next line; a broken array yields a `Broken` and ends,
    because what follows cannot be told apart any more.

    Raises:
        OSError: the file cannot be opened.
    """
    with naming(path), open(path, "rb") as file:
        kind = _other_kind(path, file.read(6))
        file.seek(0)
        if kind is not None:
            yield Broken(0, kind)
        elif path.suffix.lower() in (".jsonl", ".ndjson"):
            yield from _lines(file)
        else:
            place = yield from _alike(file)
            yield from _Reader(file, place).elements()


def _other_kind(path: Path, head: bytes) -> str | None:
    """What a file is that shows at once that it is not JSON, and what to do; None where it may be JSON."""
    if path.suffix.lower() in (".csv", ".tsv"):
        return "a table of text; records are read from JSON, JSON Lines and Parquet: convert it"
    packed = next((kind for start, kind in _PACKED.items() if head.startswith(start)), None)
    return None if packed is None else f"not JSON: the file is {packed}; unpack it first"


def _lines(file: BinaryIO) -> Iterator[Element | Broken]:
    index = 0
    offset = 0
    first = True
    for number, raw in enumerate(file, start=1):
        start = offset
        offset += len(raw)
        value = None if first else _quickly(raw)
        if value is not None:
            yield _told(index, number, value, raw)
            index += 1
            continue
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        try:
            text = raw.decode("utf-8").strip()
            if not text:
                continue
            if first and _is_no_line(text):
                yield Broken(index, f"line {number}: {_NOT_LINES}")
                return
            first = False
            yield _told(index, number, json.loads(text), text.encode())
        except UnicodeDecodeError as error:
            yield Broken(index, f"line {number}, byte {start + error.start}: not UTF-8 ({error.reason})")
        except json.JSONDecodeError as error:
            position = start + len(text[: error.pos].encode())
            cut = "" if raw.endswith(b"\n") else " (the file ends here: truncated?)"
            yield Broken(index, f"line {number}, byte {position}: broken JSON: {error.msg}{cut}")
        except (ValueError, RecursionError) as error:
            yield Broken(index, f"line {number}: {_unreadable(error)}")
        index += 1


def _told(index: int, line: int, value: object, raw: bytes) -> Element | Broken:
    """The element that was read from some bytes, unless an object in it has two values for one key.

    Decoders keep the last one, and the other is lost without a word. To look for it takes as long as decoding, so it
    is done only where a key of the record itself stands in its text more than once.
    """
    if type(value) is dict and any(raw.count(_quoted(key)) > 1 for key in value):
        repeated = _repeated_key(raw)
        if repeated is not None:
            return Broken(index, f"line {line}: the key {repeated!r:.60} is there twice; keep one")
    return Element(index, line, value)


@lru_cache(maxsize=4096)
def _quoted(key: str) -> bytes:
    return json.dumps(key, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _repeated_key(raw: bytes) -> str | None:
    """A key that an object within some JSON has twice."""
    found: list[str] = []

    def look(pairs: list[tuple[str, object]]) -> dict[str, object]:
        made = dict(pairs)
        if len(made) < len(pairs):
            keys = [key for key, _ in pairs]
            found.extend(key for key in made if keys.count(key) > 1)
        return made

    json.loads(raw, object_pairs_hook=look)
    return found[0] if found else None


def _is_no_line(text: str) -> bool:
    """Whether a first line shows that the file is an array of objects, or objects over several lines."""
    if text[0] != "[":
        return text == "{"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return True
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def _unreadable(error: Exception) -> str:
    """JSON that is well formed and cannot be read all the same: numbers of thousands of digits, endless nesting."""
    return f"unreadable JSON: {'nested too deeply' if isinstance(error, RecursionError) else error}"


def _quickly(raw: bytes) -> dict[str, object] | None:
    """The object that `raw` holds; None where it holds something else, or where the strict decoder shall say why.

    What this decoder takes, `json` takes too, with the same value; the other way round it is not so.
    """
    try:
        value = from_json(raw, cache_strings="keys")
    except ValueError:
        return None
    return value if type(value) is dict else None


@dataclass(frozen=True, slots=True)
class _Place:
    """Before an element of an array: its byte, line and index."""

    byte: int
    line: int
    index: int


_first_key = re.compile(rb'\[\s*(\{\s*"[^"\\]*")')
_next_object = re.compile(r"\s*,\s*(?=\{)")


def _alike(file: BinaryIO) -> Generator[Element | Broken, None, _Place | None]:
    """The elements of an array for as long as each ends as the one before it did; where it stopped, if it began.

    A program writes all elements of an array alike: between two of them stand the same brackets, commas and blanks,
    and the same first key. Looking for these is many times as fast as decoding text to find an element's end. Where
    they were something else by chance, what is before them is not one whole object, and is decoded as text.
    """
    window = file.read(CHUNK_BYTES)
    skipped = len(codecs.BOM_UTF8) if window.startswith(codecs.BOM_UTF8) else 0
    opening = _first_key.match(window, skipped)
    between = None if opening is None else _between(window, opening)
    if opening is None or between is None:
        return None
    close, key = between.index(b","), between.index(b"{")
    odd = 0
    byte = 0
    start = opening.start(1)
    line = 1 + window.count(b"\n", 0, start)
    index = 0
    while True:
        found = window.find(between, start)
        if found < 0:
            more = file.read(CHUNK_BYTES)
            byte += start
            window = window[start:] + more
            start = 0
            # An element longer than two windows is read by the other reader, which grows its own.
            if not more or len(window) > 3 * CHUNK_BYTES:
                return _Place(byte, line, index)
            continue
        raw = window[start : found + close]
        value: object = _quickly(raw)
        after = found + key
        if value is None:
            odd += 1
            one = _one_object(window[start : found + len(between)])
            # Each odd one may cost a look at a window: many of them are left to the other reader.
            if one is None or odd > 100 + index // 100:
                return _Place(byte + start, line, index)
            value, after = one[0], start + one[1]
            raw = one[2]
        yield _told(index, line, value, raw)
        index += 1
        line += window.count(b"\n", start, after)
        start = after


def _one_object(raw: bytes) -> tuple[dict[str, object], int, bytes] | None:
    """The first object, how many bytes further the next one begins, and its own; None where no other follows it."""
    try:
        text = raw.decode()
        value, end = _decode(text)
    except (ValueError, RecursionError):
        return None
    separator = _next_object.match(text, end)
    if separator is None or type(value) is not dict:
        return None
    return value, len(text[: separator.end()].encode()), text[:end].encode()


def _between(window: bytes, opening: re.Match[bytes]) -> bytes | None:
    """From the end of the first element to the first key of the second, which is the first one's."""
    text = window[opening.start(1) :].decode("utf-8", "ignore")
    try:
        end = _decode(text)[1]
    except (ValueError, RecursionError):
        return None
    rest = text[end : end + 1000].encode()
    key = opening.group(1)
    separator = re.match(rb"\s*,\s*", rest)
    if separator is None or not rest[separator.end() :].startswith(key):
        return None
    tail = re.search(rb"[\]}\s]*\Z", text[:end].encode()[-1000:])
    assert tail is not None
    return tail.group() + separator.group() + key


class _Reader:
    """A window over the text of a file, with the byte and the line at which it starts.

    Args:
        place: where to begin, within an array; None: at the beginning of the file.
    """

    def __init__(self, file: BinaryIO, place: _Place | None = None) -> None:
        self.file = file
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.text = ""
        self.position = 0
        self.source = ""  # of the last value
        file.seek(0)
        self.byte = len(codecs.BOM_UTF8) if file.read(3) == codecs.BOM_UTF8 else file.seek(0)
        self.line = 1  # of the character at `counted`
        self.index = 0
        self.begun = place is not None
        if place is not None:
            self.byte = file.seek(place.byte)
            self.line, self.index = place.line, place.index
        self.counted = 0
        self.ended = False
        self.bad_bytes: str | None = None

    def elements(self) -> Iterator[Element | Broken]:
        index = self.index
        array = self.begun or self.peek() == "["
        if array and not self.begun:
            self.position += 1
        while True:
            character = self.peek()
            if array and character == "]":
                self.position += 1
                if self.peek():
                    yield Broken(index, f"{self.where()}: text after the end of the array")
                return
            if not character:
                if self.bad_bytes:
                    yield Broken(index, f"{self.where()}: {self.bad_bytes}")
                elif array:
                    yield Broken(index, f"{self.where()}: truncated JSON: the array is not closed")
                return
            if index > self.index and array:
                if character != ",":
                    yield Broken(
                        index, f"{self.where()}: broken JSON: expected ',' or ']', found {character!r}"
                    )
                    return
                self.position += 1
                self.peek()
            line = self.line_here()
            try:
                value = self.value()
            except json.JSONDecodeError as error:
                cut = not self.is_real(error) and not re.search(r"[\]}]", self.text[error.pos :])
                kind = "truncated" if cut or error.msg.startswith("Unterminated") else "broken"
                detail = self.bad_bytes or f"{kind} JSON: {error.msg}"
                yield Broken(index, f"{self.where(error.pos)}: {detail}")
                return
            except (ValueError, RecursionError) as error:
                yield Broken(index, f"{self.where()}: {_unreadable(error)}")
                return
            yield _told(index, line, value, self.source.encode("utf-8", "surrogatepass"))
            index += 1

    def peek(self) -> str:
        """The next character that is not white space, or "" at the end."""
        while True:
            match = _space.match(self.text, self.position)
            self.position = match.end() if match else self.position
            if self.position < len(self.text):
                return self.text[self.position]
            if not self.more():
                return ""

    def value(self) -> object:
        size = CHUNK_BYTES
        while True:
            try:
                value, end = _decode(self.text, self.position)
                # A number that touches the end of the window, or stops short of it at a cut fraction or exponent
                # ("1." or "1e+"), may go on behind it.
                whole = isinstance(value, (dict, list, str)) or not _cut_number.fullmatch(self.text, end)
                if whole or not self.more(size):
                    self.source = self.text[self.position : end]
                    self.position = end
                    return value
            except json.JSONDecodeError as error:
                if self.is_real(error) or not self.more(size):
                    raise
            size *= 2  # an element longer than the window: read on in growing steps

    def is_real(self, error: json.JSONDecodeError) -> bool:
        """False where more text could still repair the failure."""
        return not error.msg.startswith("Unterminated string") and error.pos < len(self.text) - CUT_MARGIN

    def more(self, size: int | None = None) -> bool:
        """Read on, dropping the text before the position; False where the file has ended and none is left."""
        if self.ended:
            return False
        self.line_here()
        self.byte += len(self.text[: self.position].encode())
        self.text = self.text[self.position :]
        self.position = self.counted = 0
        raw = self.file.read(CHUNK_BYTES if size is None else size)
        self.ended = not raw
        try:
            self.text += self.decoder.decode(raw, final=self.ended)
        except UnicodeDecodeError as error:
            self.text += error.object[: error.start].decode("utf-8", "replace")
            self.bad_bytes = f"not UTF-8 ({error.reason})"
            self.ended = True
        return not self.ended or bool(self.text)

    def line_here(self) -> int:
        """The line of the position; what was counted once is not counted again, or reading would be quadratic."""
        self.line += self.text.count("\n", self.counted, self.position)
        self.counted = self.position
        return self.line

    def where(self, position: int | None = None) -> str:
        place = self.position if position is None else position
        line = self.line_here() + self.text.count("\n", self.position, place)
        return f"line {line}, byte {self.byte + len(self.text[:place].encode())}"
