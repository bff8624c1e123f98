"""The report on disk: `report.html`, `report.md` with its pictures, and `report.json`."""

from __future__ import annotations

import json
import re
from pathlib import Path

from cotbal.atomic import replacing
from cotbal.report.build import build, judgement_of
from cotbal.report.inputs import ReportInput
from cotbal.report.json_form import as_json
from cotbal.report.render import FIGURES, render_html, render_markdown


def write_report(report: ReportInput, folder: str | Path) -> Path:
    """Write the report into `folder` and return the path of its page.

    `report.html` is one file with everything in it. `report.md` shows the pictures in `figures/`. `report.json`
    holds every number, in full precision, null where one is undefined. The same input gives the same bytes, with one
    version of matplotlib. Pictures of an earlier report in the folder that this one does not have are removed.

    Args:
        report: what to write.
        folder: made where it is missing.

    Returns:
        The path of `report.html`.

    Raises:
        OSError: the folder cannot be written.
    """
    target = Path(folder)
    document = build(report)
    pictures = {f"{picture.name}.svg": picture.file for picture in document.pictures}
    (target / FIGURES).mkdir(parents=True, exist_ok=True)
    for old in _shown_before(target) - set(pictures):
        (target / FIGURES / old).unlink(missing_ok=True)
    content = json.dumps(as_json(report, judgement_of(report)), indent=1, allow_nan=False, ensure_ascii=False)
    files = {f"{FIGURES}/{name}": text for name, text in pictures.items()}
    files |= {
        "report.json": content + "\n",
        "report.md": render_markdown(document),
        "report.html": render_html(document),
    }
    for name, text in files.items():
        with replacing(target / name, newline="\n") as file:
            file.write(text)
    return target / "report.html"


def _shown_before(folder: Path) -> set[str]:
    """The pictures of the report in a folder; others that are there are not the report's."""
    try:
        text = (folder / "report.md").read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return set()
    return set(re.findall(rf"\]\({FIGURES}/([\w.-]+\.svg)\)", text))
