"""Commands of the course: release, check, grade."""

from pathlib import Path
from typing import Annotated

import typer

from helpers.commands import check as student
from helpers.commands.common import app


@app.command("check")
def check(notebook: Annotated[Path, typer.Argument(help="A notebook of the authored course, or a student's.")]) -> None:
    """Run the visible checks of a notebook in a fresh kernel, as the grader does."""
    from staff.grading.authoring import read_course

    student.show_checks(notebook, read_course())


@app.command()
def release(
    out: Annotated[Path, typer.Option(help="New folder for the student repository.")],
    repository: Annotated[str, typer.Option(help="Address from which students fetch it.")] = "",
    branch: Annotated[str, typer.Option(help="Branch that they fetch; by default the one checked out here.")] = "",
) -> None:
    """Write the student repository: without solutions, staff and tests, with a manifest."""
    from staff.grading.release import release as write

    manifest = write(out, repository=repository, branch=branch)
    items = [cell for lesson in manifest["lessons"] for cell in lesson["cells"] if cell.get("item")]
    points = sum(cell["points"] for cell in items if not cell.get("bonus"))
    typer.echo(f"{out}: version {manifest['version']}, {len(manifest['lessons'])} notebooks, {points:g} points")


@app.command()
def grade(
    folder: Annotated[Path | None, typer.Argument(help="Holds a folder, notebook or zip for each student.")] = None,
    out: Annotated[Path, typer.Option(help="Gradebook, reports and raw results; a second call resumes.")] = Path(
        "output/grades"
    ),
    workers: Annotated[int, typer.Option(min=1, help="Submissions that run at a time.")] = 1,
    regrade: Annotated[bool, typer.Option(help="Only give points again, from what earlier runs left.")] = False,
    unsafe: Annotated[bool, typer.Option(help="Without a sandbox: students' code runs with your rights.")] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the hidden inputs; drawn and kept if not given.")] = None,
    roster: Annotated[Path | None, typer.Option(help="CSV with ids: also write its rows with totals, lms.csv.")] = None,
    self_test: Annotated[
        bool, typer.Option(help="Grade the course's own solutions and stubs instead of a folder.")
    ] = False,
) -> None:
    """Grade submissions in a sandbox: CSV for the gradebook, JSON, and a page for each student."""
    from staff.grading import grade as grading
    from staff.grading.selftest import self_test as test

    if self_test:
        typer.echo(test(out, workers=workers, seed=seed, unsafe=unsafe, report=typer.echo))
        return
    if folder is None:
        raise ValueError("name the folder that holds the submissions, or pass --self-test.")
    options = {"workers": workers, "unsafe": unsafe, "seed": seed, "report": typer.echo}
    rows = grading.grade(folder, out, regrade=regrade, **options)
    for row in rows:
        todo = f"  open: {' '.join(row['open'])}" if row["open"] else ""
        typer.echo(f"{row['student']:30} {row['total']:6g} / {row['of']:g}{todo}")
    typer.echo(f"\n{out / 'grades.csv'}, {out / 'students'}")
    if roster is not None:
        from staff.grading.manual import export

        unknown = export(out / "lms.csv", rows, roster)
        typer.echo(f"{out / 'lms.csv'}{'; not in the roster: ' + ', '.join(unknown) if unknown else ''}")
