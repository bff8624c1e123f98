"""A report as values, before it becomes HTML or Markdown: the same content for both."""

from __future__ import annotations

from dataclasses import dataclass

from cotbal.report.plots.svg import Picture


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Attributes:
        text: its text.
        small: a second, quieter text, such as an interval or a change.
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
        title: its heading, which screen readers read too.
        columns: headings; what follows a line break is set smaller.
        rows: the rows, each with one cell per column.
        note: a sentence below the table.
        foot: the last rows, set apart.
        folded: whether the page shows only the title until the reader clicks it.
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
    """Text that is shown unchanged.

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
    """A number that is shown large."""

    label: str
    value: str
    small: str = ""


@dataclass(frozen=True)
class Document:
    """The whole report.

    Attributes:
        title: heading. facts: what was done, in a few short phrases.
        verdict: the verdict of the comparison, or what is missing for one. outcome: one of the verdict's outcomes.
        figures: key figures. notices: what the reader must know before relying on the rest.
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
    """Make the first cell of a row."""
    return Cell(text, kind="words")


def absent(text: str) -> Cell:
    """Make a cell that says why there is no number."""
    return Cell(text, kind="quiet")
