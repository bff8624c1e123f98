"""The check of the data as a page: a table, samples with their pictures, and the supervised text marked."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from PIL import Image

from cotbal.data.chat import ChatRenderer
from cotbal.data.check import SetSummary
from cotbal.data.pictures import load_picture
from cotbal.data.records import ImageSource, Record, RecordError

__all__ = ["Sample", "check_page", "samples_of"]

SAMPLES = 4
_THUMBNAIL = 320
_LISTED = 20

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 }
th, td { padding: .25rem .6rem; text-align: right }
th:first-child, td:first-child { text-align: left }
tr { border-bottom: 1px solid #ddd }
figure { margin: 1rem 0; padding: .8rem; border: 1px solid #ddd; border-radius: 6px }
figure img { max-height: 14rem; margin-right: .5rem }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 }
mark { background: #bde5b8 }
mark.none { background: #e3e3e3 }
.bad { color: #a40000 }
@media (prefers-color-scheme: dark) {
  body { background: #1b1b1b; color: #ddd }
  mark { background: #2d5a2b; color: #fff }
  mark.none { background: #444 }
  tr, figure { border-color: #444 }
  .bad { color: #ff8a80 }
}
"""


@dataclass(frozen=True)
class Sample:
    """A record as it is trained on: its pictures, and its text with the supervised parts."""

    task: str
    split: str
    place: str
    pictures: tuple[Image.Image, ...]
    text: str
    prompt_length: int
    answers: tuple[tuple[int, int, float], ...]


def samples_of(task: str, split: str, records: Sequence[Record], processor: Any) -> list[Sample]:
    """A few records of a set, spread over it; those that cannot be shown are passed over."""
    renderer = ChatRenderer(processor)
    shown: list[Sample] = []
    step = max(1, len(records) // SAMPLES)
    for record in [records[index] for index in range(0, len(records), step)][:SAMPLES]:
        try:
            chat = renderer.render(record)
            pictures = tuple(map(_thumbnail, record.images))
        except RecordError:
            continue
        answers = tuple((a, b, weight) for (a, b), weight in zip(chat.answers, chat.weights, strict=True))
        place = f"{record.source.name}, record {record.index}"
        shown.append(Sample(task, split, place, pictures, chat.text, len(chat.prompt), answers))
    return shown


def check_page(sets: Sequence[SetSummary], samples: Iterable[Sample], title: str) -> str:
    """The page as one HTML document without outside parts."""
    rows = "".join(_row(item) for item in sets)
    problems = "".join(_problems(item) for item in sets if item.problems)
    notes = "".join(
        f"<p>{escape(note)}</p>" for note in dict.fromkeys(n for item in sets for n in item.notes)
    )
    figures = "".join(map(_figure, samples))
    heads = "".join(f"<th>{head}</th>" for head in COLUMNS)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{escape(title)}</h1><table><tr>{heads}</tr>{rows}</table>{notes}{problems}"
        f"<h2>Samples</h2><p>What a model is trained to write is <mark>marked</mark>; an answer of loss weight 0 is "
        f"<mark class=none>grey</mark>.</p>{figures}</html>\n"
    )


COLUMNS = (
    "set",
    "records",
    "pictures",
    "answer tokens",
    "longest",
    "truncated",
    "skipped",
    "also in training",
)


def cells(item: SetSummary) -> tuple[str, ...]:
    """One line of the table, as `COLUMNS` names them."""
    partly = "" if item.looked_at == item.records else f" ({item.looked_at:,} looked at whole)"
    return (
        f"{item.task} {item.split}",
        f"{item.records:,}{partly}",
        f"{item.pictures:,}",
        f"{item.answer_tokens:,}",
        f"{item.longest:,}",
        f"{item.truncated:,}",
        f"{len(item.problems):,}",
        f"{item.duplicates:,}" if item.split != "train" else "",
    )


def _row(item: SetSummary) -> str:
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells(item)) + "</tr>"


def _problems(item: SetSummary) -> str:
    kinds = "".join(f"<li>{count:,} x {escape(kind)}</li>" for kind, count in item.reasons.items())
    lines = "".join(f"<li>{escape(str(problem))}</li>" for problem in item.problems[:_LISTED])
    more = len(item.problems) - _LISTED
    rest = f"<li>... and {more:,} more</li>" if more > 0 else ""
    return (
        f"<h2 class=bad>{escape(item.task)} {escape(item.split)}: {len(item.problems):,} cannot be used</h2>"
        f"<ul>{kinds}</ul><ul>{lines}{rest}</ul>"
    )


def _figure(sample: Sample) -> str:
    pictures = "".join(f'<img alt="" src="{_address(picture)}">' for picture in sample.pictures)
    parts: list[str] = []
    at = 0
    for start, end, weight in sample.answers:
        parts.append(escape(sample.text[at:start]))
        kind = "" if weight > 0 else " class=none"
        label = "" if weight in (0, 1) else f' title="loss weight {weight:g}"'
        parts.append(f"<mark{kind}{label}>{escape(sample.text[start:end])}</mark>")
        at = end
    parts.append(escape(sample.text[at:]))
    caption = escape(f"{sample.task} {sample.split}: {sample.place}")
    return f"<figure><figcaption>{caption}</figcaption>{pictures}<pre>{''.join(parts)}</pre></figure>"


def _thumbnail(source: ImageSource) -> Image.Image:
    picture = load_picture(source)
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return picture


def _address(picture: Image.Image) -> str:
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"
