"""Reading records from files: which format a record is in, and whether it can be trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path

from cotbal.data import completion, llava, messages
from cotbal.data.json_stream import Broken, Element, iter_json
from cotbal.data.records import (
    IMAGE_PLACEHOLDER,
    BadRecordsError,
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

_FORMATS = (llava, messages, completion)


def read_records(
    paths: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    task: str | None = None,
    image_root: str | PathLike[str] | None = None,
    on_bad: OnBad = "refuse",
    check_images: bool = True,
) -> RecordSet:
    """Read the records of one or several JSON or JSON Lines files.

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
    (Turn(role='assistant', text='4'), ('4',))
    >>> [(problem.index, problem.reason) for problem in found.problems]
    [(1, "no answer: the last turn is not the assistant's")]
    """
    check_on_bad(on_bad)
    files = [paths] if isinstance(paths, (str, PathLike)) else list(paths)
    if not files:
        raise ValueError("paths is empty; expected at least one JSON or JSON Lines file")
    records: list[Record] = []
    problems: list[Problem] = []
    for file in files:
        for item in iter_records(file, task=task, image_root=image_root, check_images=check_images):
            if isinstance(item, Problem):
                problems.append(item)
            else:
                records.append(item)
    if problems and on_bad == "refuse":
        advice = f"{len(records)} others are good. Mend the files, or leave bad records out with 'skip'."
        raise BadRecordsError(problems, advice)
    return RecordSet(tuple(records), tuple(problems))


def iter_records(
    path: str | PathLike[str],
    *,
    task: str | None = None,
    image_root: str | PathLike[str] | None = None,
    check_images: bool = True,
) -> Iterator[Record | Problem]:
    """Yield the records and problems of one file in order, a few MiB of the file in memory at a time.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    root = file.parent if image_root is None else Path(image_root)
    empty = True
    for element in iter_json(file):
        empty = False
        if isinstance(element, Broken):
            yield Problem(file, element.index, element.reason)
            continue
        try:
            yield _record(element, file, root, task, check_images)
        except RecordError as error:
            yield Problem(file, element.index, str(error))
    if empty:
        yield Problem(file, 0, "the file holds no record")


def _record(element: Element, file: Path, root: Path, task: str | None, check_images: bool) -> Record:
    raw = element.value
    if not isinstance(raw, Mapping):
        raise RecordError(f"line {element.line}: a record is {type(raw).__name__}; expected an object")
    for form in _FORMATS:
        if form.matches(raw):
            sample = form.parse(raw)
            break
    else:
        raise RecordError(
            f"no 'conversations', 'messages' or 'prompt' among its fields ({', '.join(list(raw)[:8]) or 'none'})"
        )
    name = task if task is not None else sample.task
    if name is None:
        raise RecordError(
            "no task: neither the config nor a 'task', 'channel', 'dataset' or 'source' field names one"
        )
    turns = _checked_turns(sample)
    images = tuple(root / image for image in sample.images)
    if check_images:
        for image in images:
            if not image.is_file():
                raise RecordError(f"missing image {image}")
    return Record(
        id=sample.id if sample.id is not None else str(element.index),
        task=name,
        images=images,
        turns=turns,
        references=sample.references if sample.references is not None else (turns[-1].text,),
        source=file,
        index=element.index,
    )


def _checked_turns(sample: RawSample) -> tuple[Turn, ...]:
    """The turns, in an order chat templates accept, with as many placeholders as images.

    Raises:
        RecordError: an answer is missing or empty, turns do not alternate, or placeholders do not fit.
    """
    turns = sample.turns
    if not any(turn.role == "assistant" for turn in turns):
        raise RecordError(
            "no answer: " + ("there is no turn" if not turns else "the last turn is not the assistant's")
        )
    expected: Role = "user"
    for position, turn in enumerate(turns):
        if turn.role == "system" and expected == "user" and all(t.role == "system" for t in turns[:position]):
            continue
        if turn.role != expected:
            raise RecordError(f"turn {position} is the {turn.role}'s; expected the {expected}'s")
        if turn.role == "assistant" and not turn.text.strip():
            raise RecordError(f"no answer: turn {position} (assistant) is empty")
        if turn.role != "user" and IMAGE_PLACEHOLDER in turn.text:
            raise RecordError(
                f"turn {position} ({turn.role}) holds {IMAGE_PLACEHOLDER}; images belong to the user"
            )
        expected = "assistant" if turn.role == "user" else "user"
    if turns[-1].role != "assistant":
        raise RecordError("no answer: the last turn is not the assistant's")
    return _placed_images(turns, len(sample.images))


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
