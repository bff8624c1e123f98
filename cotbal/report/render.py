"""Turn the document into HTML and Markdown with the templates beside this file."""

from __future__ import annotations

import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cotbal.report.document import Document, Listing, Table, Text

FIGURES = "figures"


def render_html(document: Document) -> str:
    """Render one self-contained page: styles and pictures are inside, and nothing is fetched."""
    style = Markup(_environment().get_template("style.css").render())
    return _environment().get_template("report.html.j2").render(document=document, style=style)


def render_markdown(document: Document) -> str:
    """Render GitHub-flavoured Markdown; the pictures are files in the folder `figures` beside it."""
    text = _environment().get_template("report.md.j2").render(document=document, figures=FIGURES)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cotbal.report"),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = escape_markdown
    environment.filters["fence"] = _fence
    environment.filters["heading"] = lambda text: text.split("\n", 1)
    environment.tests["table"] = lambda block: isinstance(block, Table)
    environment.tests["words"] = lambda block: isinstance(block, Text)
    environment.tests["listing"] = lambda block: isinstance(block, Listing)
    return environment


def escape_markdown(text: str) -> str:
    r"""Escape text so that Markdown shows it unchanged, on one line, even in a table.

    >>> print(escape_markdown("a|b *c* <d> plus_vqa _e_"))
    a\|b \*c\* \<d\> plus_vqa \_e\_
    """
    text = re.sub(r"[\\`*\[\]<>|#~$]", r"\\\g<0>", text)
    text = text.replace("&", "&amp;")
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
    return re.sub(r"\s*\n\s*", " ", text)


def _fence(text: str) -> str:
    """Return a code fence longer than any run of backticks inside."""
    return "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text) or [""]))
