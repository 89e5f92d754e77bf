"""Write copies of the lessons in which every search takes a fifth of its steps, for `make test`.

    python tools/short_lessons.py FOLDER

`make notebooks` and `make gallery` run them whole.
"""

import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent


def shortened(source: str) -> str:
    """A cell's source with a fifth of the steps, at least 8; what a check asks for stays."""
    if source.startswith("check."):
        return source
    return re.sub(r"(?<=steps=)\d+", lambda found: str(max(int(found[0]) // 5, 8)), source)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.ipynb"):
        old.unlink()
    for path in ROOT.glob("notebooks/*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.source = shortened(cell.source)
        nbformat.write(notebook, folder / path.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
