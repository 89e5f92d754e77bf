"""Make docs/gallery.md: three to five figures of each lesson, for readers without a kernel.

    python tools/make_gallery.py [--executed FOLDER]

A cell whose metadata has a ``gallery`` text is shown: its first figure with this text below. Where it also has a name
as ``expected``, a small copy shows students what to expect of an exercise: data/figures/expected-NAME.jpg.
The lessons are executed first, unless FOLDER holds executed ones, as tools/try_model.py writes them.
"""

import argparse
import base64
import io
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
WIDEST, QUALITY, MOST_BYTES = 1200, 88, 3_000_000  # pixels of a figure; of its JPEG; all figures together
SMALL, EXPECTED = (640, 320), ROOT / "data" / "figures"  # pixels of what students are to expect, at most; its folder


def executed(path: Path, folder: Path | None) -> nbformat.NotebookNode:
    """The notebook with its outputs."""
    notebook = nbformat.read((folder or path.parent) / path.name, as_version=4)
    if not folder:
        NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(path.parent)}}).execute()
    return notebook


def figures(notebook: nbformat.NotebookNode) -> list[tuple[str, str, Image.Image]]:
    """Text, name for students ("" where it has none) and figure of each cell that is to be shown."""
    shown = []
    for cell in notebook.cells:
        if "gallery" in cell.metadata:
            image = next(o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {}))
            picture = Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB")
            shown.append((cell.metadata.gallery, cell.metadata.get("expected", ""), picture))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executed", type=Path, metavar="FOLDER")
    folder, out = parser.parse_args().executed, ROOT / "docs" / "gallery"
    out.mkdir(exist_ok=True)
    text = ["# Gallery\n\nFigures of the five lessons, made by `make gallery`."]
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = executed(path, folder)
        text.append(f"## [{notebook.cells[0].source.splitlines()[0][2:]}](../notebooks/{path.name})")
        for number, (caption, expected, image) in enumerate(figures(notebook), 1):
            image.thumbnail((WIDEST, 10 * WIDEST))
            name = f"{path.stem[:2]}-{number}.jpg"
            image.save(out / name, quality=QUALITY)
            if expected:
                image.thumbnail(SMALL)
                image.save(EXPECTED / f"expected-{expected}.jpg", quality=65)
            text += [f"![{caption}](gallery/{name})", caption]
    (ROOT / "docs" / "gallery.md").write_text("\n\n".join(text) + "\n")
    total = sum(file.stat().st_size for file in out.iterdir())
    assert total <= MOST_BYTES, f"the figures have {total / 1e6:.1f} MB: show fewer, or lower QUALITY"


if __name__ == "__main__":
    main()
