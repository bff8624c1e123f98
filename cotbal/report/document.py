"""A report as values, before it becomes HTML or Markdown: the same content for both."""

from __future__ import annotations

from dataclasses import dataclass

from cotbal.report.plots.svg import Picture


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Attributes:
        text: what it says.
        small: a second, quieter text: an interval, a change.
        kind: `""`, `"strong"` (best, or the model's own task), `"quiet"` (undefined, absent), `"words"` (set to
            the left) or `"quiet words"`.
    """

    text: str
    small: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows.

    Attributes:
        title: its heading, read out by screen readers too.
        columns: headings; a line break sets the rest of one smaller.
        rows: as many cells each as there are columns.
        note: a sentence below.
        foot: the last rows, set apart.
        folded: whether a page shows only the title until it is clicked.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    foot: tuple[tuple[Cell, ...], ...] = ()
    folded: bool = False


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Listing:
    """Text to be shown as it is.

    Attributes:
        title: its heading. language: for highlighting in Markdown.
    """

    title: str
    text: str
    language: str = ""


Block = Table | Text | Listing | Picture


@dataclass(frozen=True)
class Section:
    """A part of the report under a heading; `name` is its anchor."""

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class KeyFigure:
    """A number worth being large."""

    label: str
    value: str
    small: str = ""


@dataclass(frozen=True)
class Document:
    """The whole report.

    Attributes:
        title: heading. facts: what was done, in a few short phrases.
        verdict: the last line of the comparison, or what is missing for one. outcome: one of the verdict's outcomes.
        figures: key figures. notices: what the reader must know before believing the rest.
        sections: the parts.
    """

    title: str
    facts: tuple[str, ...]
    verdict: str
    outcome: str
    figures: tuple[KeyFigure, ...]
    notices: tuple[str, ...]
    sections: tuple[Section, ...]

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """All pictures, in order."""
        blocks = [block for section in self.sections for block in section.blocks]
        return tuple(block for block in blocks if isinstance(block, Picture))


def name_cell(text: str) -> Cell:
    """The first cell of a row."""
    return Cell(text, kind="words")


def absent(text: str) -> Cell:
    """A cell that says why there is no number."""
    return Cell(text, kind="quiet")
