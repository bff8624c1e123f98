"""Reads an HTML page strictly: tags must nest and close, and what matters in a report is collected."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "hr", "input", "path", "rect", "use", "circle", "line", "stop"}


@dataclass
class Page(HTMLParser):
    """The page after `feed`: ids, references, pictures and texts; `errors` holds tags that do not nest."""

    ids: list[str] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    inner_links: list[str] = field(default_factory=list)
    pictures: list[dict[str, str | None]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    cells: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._see(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._see(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self._open or self._open.pop() != tag:
            self.errors.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if not data.strip():
            return
        self.texts.append(data.strip())
        if self._open and self._open[-1] in {"td", "th"}:
            self.cells.append(data.strip())

    def close(self) -> None:
        super().close()
        self.errors += [f"<{tag}> is not closed" for tag in self._open]

    def _see(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        if "id" in values:
            self.ids.append(values["id"] or "")
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            if values.get(name) is not None:
                self.references.append(values[name] or "")
        for name in ("aria-labelledby", "aria-describedby"):
            self.inner_links += (values.get(name) or "").split()
        if tag == "svg":
            self.pictures.append(values)


def read_page(text: str) -> Page:
    """Parse a whole page."""
    page = Page()
    page.feed(text)
    page.close()
    return page
