"""Reading records from files: which format a record is in, and whether it can be trained on."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from cotbal.config.hub import HubSet, hub_path
from cotbal.data import alpaca, completion, llava, messages
from cotbal.data.dataset_info import listed_file, split_name
from cotbal.data.fields import record_id, record_references, record_system, record_task
from cotbal.data.json_stream import Broken, Element, iter_json
from cotbal.data.loss_weights import refuse_without_loss, weighted
from cotbal.data.notation import THOUSANDTHS, BoxNotation
from cotbal.data.objects import fill_objects
from cotbal.data.packed import Packer
from cotbal.data.plain_llava import packed_plainly, path_prefix
from cotbal.data.records import (
    IMAGE_PLACEHOLDER,
    BadRecordsError,
    ImageSource,
    OnBad,
    Problem,
    RawSample,
    Record,
    RecordError,
    RecordSet,
    Role,
    Turn,
    check_on_bad,
)
from cotbal.data.tables import is_table, iter_rows
from cotbal.data.unsupported import refuse_marks, refuse_other_placeholders, refuse_unsupported

__all__ = [
    "IMAGE_PLACEHOLDER",
    "BadRecordsError",
    "OnBad",
    "Problem",
    "Record",
    "RecordSet",
    "Role",
    "Turn",
    "iter_records",
    "read_records",
]

Notation = Callable[[], BoxNotation]
Parse = Callable[[Mapping[str, Any]], RawSample]
# A record is of the first format whose field it has.
_FORMATS: dict[str, Parse] = {
    llava.FIELD: llava.parse,
    messages.FIELD: messages.parse,
    completion.FIELD: completion.parse,
    "instruction": alpaca.parse_instruction,
    "query": alpaca.parse_query,
    "conversation": alpaca.parse_conversation,
}


def read_records(
    paths: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    task: str | None = None,
    image_root: str | PathLike[str] | None = None,
    on_bad: OnBad = "refuse",
    check_images: bool = True,
    notation: Notation = lambda: THOUSANDTHS,
    packed: bool = False,
) -> RecordSet:
    """Read the records of one or several files: JSON, JSON Lines, Parquet, or folders that `datasets` saved.

    `hf://org/name#train` is a split of a data set that `datasets` loads, from the hub or (`hf://./folder#train`) from
    a folder of data files.

    `dataset_info.json#NAME` is the file that LLaMA-Factory lists under that name.

    Formats are recognised record by record: LLaVA (`conversations`), chat (`messages`), and
    `prompt` / `completion`; images in `image` or `images`, a string or a list.

    Args:
        paths: a file, or several, read in the order given.
        task: name of the task all records belong to; None takes each record's own `task`, `channel`,
            `dataset` or `source` field.
        image_root: folder that relative image paths start from; None: the folder of the file.
        on_bad: "refuse" raises when any record is bad, after reading all files; "skip" leaves bad records
            out and returns them as `problems`.
        check_images: look whether every image file exists.
        notation: makes the notation in which boxes from `objects` are written, such as
            `lambda: notation_of(processor)`.
        packed: hold the records as `PackedRecords`, in little more memory than the files' size, and not as a tuple.

    Raises:
        BadRecordsError: on_bad is "refuse" and there are bad records. It lists file, index and reason.
        FileNotFoundError: a file does not exist.
        ValueError: no path is given, or on_bad is neither of the two.

    >>> import json, tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.json").write_text(json.dumps([
    ...     {"id": 7, "conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]},
    ...     {"id": 8, "conversations": [{"from": "human", "value": "2 + 3?"}]},
    ... ]))
    >>> found = read_records(folder / "a.json", task="sums", on_bad="skip")
    >>> found.records[0].turns[1], found.records[0].references
    (Turn(role='assistant', text='4', weight=1.0), ('4',))
    >>> [(problem.index, problem.reason) for problem in found.problems]
    [(1, "no answer: the last turn is not the assistant's")]
    """
    check_on_bad(on_bad)
    given = [paths] if isinstance(paths, (str, PathLike)) else list(paths)
    files = [Path(str(hub_path(path, Path())) if isinstance(path, str) else path) for path in given]
    if not files:
        raise ValueError("paths is empty; expected at least one JSON or JSON Lines file")
    records: list[Record] = []
    packer = Packer() if packed else None
    keep = records.append if packer is None else packer.add
    problems: list[Problem] = []
    # Millions of small values are kept: looking for cycles among them again and again costs as much as making them.
    collecting = gc.isenabled()
    gc.disable()
    try:
        for file in files:
            for item in _items(file, task, image_root, check_images, notation, packer):
                if isinstance(item, Problem):
                    problems.append(item)
                else:
                    keep(item)
    finally:
        if collecting:
            gc.enable()
    found: Sequence[Record] = tuple(records) if packer is None else packer.records()
    if problems and on_bad == "refuse":
        raise BadRecordsError(problems, refusal(len(found)))
    return RecordSet(found, tuple(problems))


def refusal(good: int) -> str:
    """What to do about bad records, when so many others are good."""
    return f"{good} others are good. Mend the files, or leave bad records out with 'skip'."


def iter_records(
    path: str | PathLike[str],
    *,
    task: str | None = None,
    image_root: str | PathLike[str] | None = None,
    check_images: bool = True,
    notation: Notation = lambda: THOUSANDTHS,
) -> Iterator[Record | Problem]:
    """Yield the records and problems of one file in order, a few MiB of the file in memory at a time.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    return _items(Path(path), task, image_root, check_images, notation, None)


def _items(
    path: Path,
    task: str | None,
    image_root: str | PathLike[str] | None,
    check_images: bool,
    notation: Notation,
    packer: Packer | None,
) -> Iterator[Record | Problem]:
    """As `iter_records`; the plainest records go straight to the packer, if there is one, and are not yielded."""
    file, name = split_name(path)
    named = HubSet.of_path(file)
    if not (file if named is None else named.folder or Path()).exists():
        raise FileNotFoundError(f"{file}: no such file")
    # LLaMA-Factory's paths start from the folder of its list, those of a data set in a folder from there.
    root = (named and named.folder) or file.parent if image_root is None else Path(image_root)
    listed = None if name is None else listed_file(file, name)
    if listed is not None:
        file = listed.path
    empty = True
    prefix = path_prefix(root)
    straight = None if task is None or listed is not None else packer
    for element in _rows(file) if is_table(file) else iter_json(file):
        empty = False
        if isinstance(element, Broken):
            yield Problem(file, element.index, element.reason)
            continue
        if straight is not None and task is not None:
            plain = packed_plainly(element.value, element.index, prefix, task, check_images=check_images)
            if plain is not None:
                straight.add_packed(*plain, file, element.index)
                continue
        if listed is not None:
            element = replace(element, value=listed.record(element.value))
        try:
            yield _record(element, file, root, task, check_images, notation)
        except RecordError as error:
            yield Problem(file, element.index, str(error))
    if empty:
        yield Problem(file, 0, "the file holds no record")


def _rows(file: Path) -> Iterator[Element | Broken]:
    index = -1
    try:
        for index, row in enumerate(iter_rows(file)):
            yield Element(index, index + 1, row)
    except ValueError as error:
        yield Broken(index + 1, str(error))


def _record(
    element: Element, file: Path, root: Path, task: str | None, check_images: bool, notation: Notation
) -> Record:
    if not isinstance(element.value, Mapping):
        raise RecordError(
            f"line {element.line}: a record is {type(element.value).__name__}; expected an object"
        )
    return record_of(
        element.value,
        file,
        element.index,
        root=root,
        task=task,
        check_images=check_images,
        notation=notation,
    )


def record_of(
    raw: Mapping[str, Any],
    source: Path,
    index: int,
    *,
    root: Path,
    task: str | None = None,
    check_images: bool = True,
    notation: Notation = lambda: THOUSANDTHS,
) -> Record:
    """The record that a dictionary describes, in any of the formats.

    Args:
        source, index: where it comes from, for messages.
        root: folder that relative image paths start from.
        task, check_images, notation: as for `read_records`.

    Raises:
        RecordError: why it cannot be used.
    """
    refuse_unsupported(raw)
    sample = _parsed(raw)
    name = task if task is not None else record_task(raw)
    if name is None:
        raise RecordError(
            "no task: neither the config nor a 'task', 'channel', 'dataset' or 'source' field names one"
        )
    images: tuple[ImageSource, ...] = tuple(
        image if isinstance(image, bytes) else Path(os.path.join(root, image)) for image in sample.images
    )
    turns = weighted(sample.turns, raw)
    turns = fill_objects(turns, raw, lambda which: _size(images, which), notation)
    turns = _checked_turns(_with_system(turns, record_system(raw)), len(images))
    if check_images:
        for image in images:
            # Not Path.is_file: it raises where a name is too long for the file system.
            if not isinstance(image, bytes) and not os.path.isfile(image):
                raise RecordError(_missing(str(image)))
    own, references = record_id(raw), record_references(raw)
    return Record(
        id=own if own is not None else str(index),
        task=name,
        images=images,
        turns=turns,
        references=references if references is not None else (turns[-1].text,),
        source=source,
        index=index,
    )


def _missing(path: str) -> str:
    if len(path) <= 300:
        return f"missing image {path}"
    return (
        f"missing image {path[:60]}... of {len(path)} characters; an image within the record is written as "
        "data:image/png;base64,..."
    )


def _parsed(raw: Mapping[str, Any]) -> RawSample:
    fields = [field for field in _FORMATS if raw.get(field) is not None]
    if not fields:
        there = ", ".join(map(str, list(raw)[:8])) or "none"
        raise RecordError(f"no 'conversations', 'messages' or 'prompt' among its fields ({there})")
    if {llava.FIELD, messages.FIELD} <= set(fields):
        raise RecordError(
            "both 'conversations' and 'messages' are there; keep the one that is to be trained on"
        )
    return _FORMATS[fields[0]](raw)


def _with_system(turns: tuple[Turn, ...], system: str | None) -> tuple[Turn, ...]:
    """The turns with the system prompt that stands beside them, unless it is the first of them already."""
    if system is None or (turns and turns[0] == Turn("system", system)):
        return turns
    if turns and turns[0].role == "system":
        raise RecordError("two system prompts that differ: one beside the turns, one as the first of them")
    return (Turn("system", system), *turns)


def _size(images: tuple[ImageSource, ...], which: int) -> tuple[int, int]:
    if not 0 <= which < len(images):
        raise RecordError(f"a box lies on image {which}, but the record has {len(images)} image(s)")
    # Reading records needs Pillow for boxes in pixels alone.
    from cotbal.data.pictures import picture_size

    return picture_size(images[which])


def _checked_turns(turns: tuple[Turn, ...], images: int) -> tuple[Turn, ...]:
    """The turns, in an order chat templates accept, with as many placeholders as images.

    Raises:
        RecordError: an answer is missing or empty, turns do not alternate, or placeholders do not fit.
    """
    if not turns or all(turn.role != "assistant" for turn in turns):
        raise RecordError(
            "no answer: " + ("there is no turn" if not turns else "the last turn is not the assistant's")
        )
    expected: Role = "user"
    for position, turn in enumerate(turns):
        if turn.role == "system" and expected == "user" and all(t.role == "system" for t in turns[:position]):
            continue
        if turn.role != expected:
            raise RecordError(f"turn {position} is the {turn.role}'s; expected the {expected}'s")
        if turn.role == "assistant" and (not turn.text or turn.text.isspace()):
            raise RecordError(f"no answer: turn {position} (assistant) is empty")
        if turn.role != "user" and IMAGE_PLACEHOLDER in turn.text:
            raise RecordError(
                f"turn {position} ({turn.role}) holds {IMAGE_PLACEHOLDER}; images belong to the user"
            )
        expected = "assistant" if turn.role == "user" else "user"
    if turns[-1].role != "assistant":
        raise RecordError("no answer: the last turn is not the assistant's")
    refuse_without_loss(turns)
    refuse_marks(turns)
    refuse_other_placeholders(turns, images)
    return _placed_images(turns, images)


def _placed_images(turns: tuple[Turn, ...], count: int) -> tuple[Turn, ...]:
    found = sum(turn.text.count(IMAGE_PLACEHOLDER) for turn in turns)
    if found == count:
        return turns
    if found:
        raise RecordError(f"{found} {IMAGE_PLACEHOLDER} placeholder(s) for {count} image(s)")
    # Some formats leave the placeholders out: the images then come before the first question.
    first = next(position for position, turn in enumerate(turns) if turn.role == "user")
    text = f"{IMAGE_PLACEHOLDER}\n" * count + turns[first].text
    return (*turns[:first], Turn("user", text), *turns[first + 1 :])
