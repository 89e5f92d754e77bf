"""Command of the self-check: check."""

from pathlib import Path
from typing import Annotated

import typer

from helpers.commands.common import app
from helpers.course.check_notebook import check_notebook
from helpers.course.sandbox import available
from helpers.figures import results_table


@app.command()
def check(notebook: Annotated[Path, typer.Argument(help="Your notebook.")]) -> None:
    """Run the visible checks of your notebook in a fresh kernel, as the grader does."""
    show_checks(notebook)


def show_checks(notebook: Path, lessons: list | None = None) -> None:
    """Print the table of checks; exit code 1 where one fails. lessons: of an authored course, not of a release."""
    if available()[0] == "unsafe":
        typer.echo("No sandbox here (bubblewrap is not installed): your code runs with your own rights.", err=True)
    rows = check_notebook(notebook, lessons)
    passed = sum(row["points"] for row in rows if row["result"] == "passed")
    typer.echo(results_table(rows))
    typer.echo(f"\n{passed:g} of {sum(row['points'] for row in rows):g} points pass the visible checks")
    if any(row["result"] != "passed" for row in rows):
        raise typer.Exit(1)
