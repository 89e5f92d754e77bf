"""Run the lessons with another MODEL; report why a cell fails, and how many minutes each lesson takes.

    python tools/try_model.py FILE_OR_NAME [--only 01 02] [--steps 2] [--out output/try_model]

The executed notebooks are written to the folder, figures and all; a cell that fails does not stop its lesson.
``--steps`` cuts every search short: in a few minutes one sees whether a checkpoint gets through.
Leaves with 1 if a cell failed.
"""

import argparse
import re
import sys
from datetime import datetime
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent


def with_model(notebook: nbformat.NotebookNode, model: str, steps: int | None = None) -> nbformat.NotebookNode:
    """The notebook with MODEL switched, and with so many steps for every search where they are given."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = re.sub(r"^MODEL = \w+", f"MODEL = {model!r}", cell.source, flags=re.MULTILINE)
            if steps is not None and not cell.source.startswith("check."):
                cell.source = re.sub(r"\bsteps=\d+", f"steps={steps}", cell.source)
    return notebook


def seconds(cell: nbformat.NotebookNode) -> float:
    """How long a cell ran."""
    times = cell.metadata.get("execution", {})
    if "shell.execute_reply" not in times:
        return 0.0
    first, last = (datetime.fromisoformat(times[k]) for k in ("iopub.execute_input", "shell.execute_reply"))
    return (last - first).total_seconds()


def failures(notebook: nbformat.NotebookNode) -> list[str]:
    """One line for every cell that failed."""
    return [
        f"cell {i}: {output.ename}: {output.evalue.splitlines()[0] if output.evalue else ''}"
        for i, cell in enumerate(notebook.cells)
        for output in cell.get("outputs", [])
        if output.output_type == "error"
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint file, or a name of `weights list`")
    parser.add_argument("--only", nargs="*", default=[""], help="beginnings of the notebooks' names")
    parser.add_argument("--steps", type=int, help="of every search")
    parser.add_argument("--out", type=Path, default=ROOT / "output" / "try_model")
    options = parser.parse_args()
    model = str(Path(options.model).resolve()) if Path(options.model).is_file() else options.model
    options.out.mkdir(parents=True, exist_ok=True)
    failed = False
    for path in sorted(ROOT.glob("notebooks/*.ipynb")):
        if not path.name.startswith(tuple(options.only)):
            continue
        notebook = with_model(nbformat.read(path, as_version=4), model, options.steps)
        client = NotebookClient(
            notebook, timeout=None, allow_errors=True, resources={"metadata": {"path": str(path.parent)}}
        )
        client.execute()
        nbformat.write(notebook, options.out / path.name)
        times = [seconds(cell) for cell in notebook.cells]
        slowest = sorted(range(len(times)), key=times.__getitem__)[-3:][::-1]
        print(
            f"{path.stem}: {sum(times) / 60:.1f} min; slowest cells "
            + ", ".join(f"{i} ({times[i]:.0f} s)" for i in slowest),
            flush=True,
        )
        for line in failures(notebook):
            failed = True
            print(f"  {line}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
