"""Command of the self-check: check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from helpers.commands.common import app


@app.command()
def check(notebook: Annotated[Path, typer.Argument(help="Your notebook.")]) -> None:
    """Run the visible checks of your notebook in a fresh kernel, as the grader finds it."""
    from helpers.course.check_notebook import check_notebook, table

    rows = check_notebook(notebook)
    typer.echo(table(rows))
    if any(row["result"] != "passed" for row in rows):
        raise typer.Exit(1)
