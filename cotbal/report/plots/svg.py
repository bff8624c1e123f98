"""Turn a matplotlib figure into an SVG that is reproducible, self-contained and readable by screen readers.

One drawing yields two texts: a file of its own (white paper, fixed colours), and an element for an HTML page, where
ink, grid and paper are CSS variables, so that the picture follows the page into dark mode.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

from matplotlib import rc_context, rcdefaults
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Stand-ins for roles, which become fixed colours or CSS variables when the SVG is written.
INK = "#010101"
MUTED = "#020202"
GRID = "#030303"
PAPER = "#040404"
BLUE = "#050505"

_ROLES = {  # stand-in: (CSS variable, colour on white paper)
    INK: ("--ink", "#1b2026"),
    MUTED: ("--muted", "#5d6670"),
    GRID: ("--grid", "#d9dee4"),
    PAPER: ("--paper", "#ffffff"),
    BLUE: ("--blue", "#0072b2"),
}
_FONTS = "font-family: system-ui, -apple-system, 'Segoe UI', Roboto, Arial, 'DejaVu Sans', sans-serif"
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, sharp, searchable
    "font.family": "DejaVu Sans",  # ships with matplotlib, so the layout is the same on every machine
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "text.color": INK,
    "text.usetex": False,
    "text.parse_math": False,  # a task name may hold a dollar sign
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 9.0,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.labelcolor": INK,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.06,
    "hatch.linewidth": 0.7,
    "path.simplify": False,
}


@dataclass(frozen=True)
class Picture:
    """One figure of the report.

    Attributes:
        name: file name without its ending; also the prefix of the ids inside the SVG.
        title: a few words, the heading of the figure.
        alt: what the picture shows, with its main figures, for readers who cannot see it.
        caption: one or two sentences that explain how to read it.
        page: the SVG element for an HTML page (CSS variables for ink, no XML header).
        file: the SVG document for a file of its own (white paper).
        width: natural width in CSS pixels.
    """

    name: str
    title: str
    alt: str
    caption: str
    page: str
    file: str
    width: int


@contextmanager
def drawing(name: str) -> Iterator[None]:
    """Apply matplotlib's settings for the report's figures, inside the block only.

    `name` salts the ids that matplotlib hashes, so that two pictures on one page share none.
    """
    with rc_context():
        # Start from the defaults, not from the user's matplotlibrc, for the same bytes everywhere.
        rcdefaults()
        with rc_context({**_SETTINGS, "svg.hashsalt": name}):
            yield


def picture(figure: Figure, *, name: str, title: str, alt: str, caption: str) -> Picture:
    """Write `figure` as SVG. Call it inside `drawing(name)`."""
    FigureCanvasSVG(figure)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    body, width, height = _strip(buffer.getvalue(), name)
    label = f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(alt)}</desc>'
    attributes = (
        f'viewBox="0 0 {width:g} {height:g}" role="img" aria-labelledby="{name}-title" '
        f'aria-describedby="{name}-desc"'
    )
    style = f"{_FONTS}; stroke-linejoin: round; stroke-linecap: butt"
    pixels = round(width * 4 / 3)
    page = f'<svg class="picture" {attributes} style="max-width: {pixels}px; {style}">{label}{body}</svg>'
    paper = f'<rect width="100%" height="100%" fill="{PAPER}"/>'
    file = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}pt" height="{height:g}pt" {attributes} '
        f'style="{style}">{label}{paper}{body}</svg>\n'
    )
    for stand_in, (variable, colour) in _ROLES.items():
        page = page.replace(stand_in, f"var({variable}, {colour})")
        file = file.replace(stand_in, colour)
    return Picture(name=name, title=title, alt=alt, caption=caption, page=page, file=file, width=pixels)


def _strip(svg: str, name: str) -> tuple[str, float, float]:
    """Return the bare drawing and its size in points: no header, metadata or font list, only this picture's ids."""
    head = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    if head is None:  # pragma: no cover - a matplotlib that writes another kind of SVG
        raise RuntimeError("matplotlib wrote an SVG without a viewBox; please report its version")
    body = svg[svg.index(">", head.end()) + 1 : svg.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"; font-family: [^;\"]*", "", body)
    body = re.sub(r"\bfont: ([^'\";]*?)([\d.]+px)[^;\"]*", _longhand, body)
    body = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", body)
    body = body.replace("xlink:href", "href")
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', body))
    body = re.sub(
        r' id="([^"]*)"', lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", body
    )
    body = re.sub(r'(href="|url\()#', lambda match: f"{match[1]}#{name}-", body)
    body = re.sub(r' (?:d|x|y|width|height|transform)="[^"]*"', _hundredths, body)
    body = re.sub(r"<defs>\s*</defs>", "", _without_bare_groups(body))
    body = re.sub(r'\s*\n(?=")', "", body)
    body = re.sub(r"(?<=[^>\s])\s*\n\s*", " ", body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    return body.strip(), float(head[1]), float(head[2])


def _without_bare_groups(body: str) -> str:
    """Drop groups without attributes and empty groups; matplotlib nests three around each tick."""
    bare: list[bool] = []

    def kept(tag: re.Match[str]) -> str:
        if tag[0].endswith("/>"):
            return ""
        if tag[0] == "</g>":
            return "" if bare.pop() else "</g>"
        bare.append(tag[0] == "<g>")
        return "" if bare[-1] else tag[0]

    return re.sub(r"<g\b[^>]*>|</g>", kept, body)


def _longhand(shorthand: re.Match[str]) -> str:
    """Split a font property: matplotlib before 3.11 writes style, weight, size and families as one."""
    parts = [
        f"font-weight: {word}" if word.isdigit() else f"font-style: {word}" for word in shorthand[1].split()
    ]
    return "; ".join([*parts, f"font-size: {shorthand[2]}"])


def _hundredths(attribute: re.Match[str]) -> str:
    """Round coordinates to a hundredth of a point: no eye sees more, and a page of curves is half the size."""
    return re.sub(
        r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), attribute[0]
    )
