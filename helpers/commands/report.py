"""Command of the report: report."""

import base64
import mimetypes
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote

import typer

from helpers.commands.common import app
from helpers.files import atomic_path

IMAGE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)[^)]*\)")


@app.command()
def report(
    text: Annotated[Path, typer.Argument(help="Your report, such as notebooks/report.md.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("output/report.html"),
) -> None:
    """Write your report as one HTML file that holds its images, to be handed in."""
    count = write_report(text, out)
    typer.echo(f"{out}: {count} image{'s' * (count != 1)}")


def write_report(path: Path, out: Path) -> int:
    """Write Markdown as one HTML file with its images inside; returns how many. ValueError for one that is missing."""
    from nbconvert import HTMLExporter
    from nbformat.v4 import new_markdown_cell, new_notebook

    if path.suffix.lower() != ".md" or not path.is_file():
        raise ValueError(f"expected a Markdown file such as notebooks/report.md, got {path}.")
    source = path.read_text(encoding="utf-8")
    images = IMAGE.findall(source)
    if missing := [name for name in images if not (path.parent / unquote(name)).is_file()]:
        raise ValueError(f"{path} shows {', '.join(missing)}, not found; name files as seen from {path.parent}.")
    notebook = new_notebook(cells=[new_markdown_cell(IMAGE.sub(lambda found: _held(found, path.parent), source))])
    page, _ = HTMLExporter().from_notebook_node(notebook, resources={"metadata": {"name": path.stem}})
    with atomic_path(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return len(images)


def _held(found: re.Match, folder: Path) -> str:
    """An image of a report with its file inside."""
    kind, data = mimetypes.guess_type(found[1])[0] or "image/png", (folder / unquote(found[1])).read_bytes()
    return found[0].replace(f"({found[1]}", f"(data:{kind};base64,{base64.b64encode(data).decode()}")
