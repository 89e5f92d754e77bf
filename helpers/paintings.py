"""Public-domain paintings to take styles from: title, painter, year, link; fetched on request, never bundled."""

import csv
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pooch
import torch

from helpers.files import atomic_path
from helpers.images import ImageError, read_image

DATA = Path(__file__).resolve().parent.parent / "data"
FOLDER = DATA / "downloads"
WIDTH = 1024  # pixels of the scan that is asked for
COMMONS = "https://commons.wikimedia.org/wiki/"


@dataclass(frozen=True)
class Painting:
    """A painting whose painter died more than 70 years ago; ``file`` is its scan on Wikimedia Commons."""

    title: str
    painter: str
    year: str
    file: str

    @property
    def link(self) -> str:
        """The page with origin and licence."""
        return f"{COMMONS}File:{quote(self.file.replace(' ', '_'))}"

    @property
    def download(self) -> str:
        return f"{COMMONS}Special:FilePath/{quote(self.file)}?width={WIDTH}"


with open(DATA / "paintings.csv", encoding="utf-8", newline="") as _table:
    PAINTINGS = {row.pop("name"): Painting(**row) for row in csv.DictReader(_table)}


def painting_path(name: str, folder: str | Path = FOLDER) -> Path:
    """Where a painting is stored, or will be. Raises ImageError for a name not in PAINTINGS."""
    if name not in PAINTINGS:
        raise ImageError(f"expected a painting of {', '.join(PAINTINGS)} but got {name!r}")
    return Path(folder) / f"{name}.jpg"


def fetch(name: str, folder: str | Path = FOLDER) -> Path:
    """Download a painting unless it is there; its path. Raises ImageError when it cannot be fetched."""
    path, painting = painting_path(name, folder), PAINTINGS[name]
    if path.exists():
        return path
    with atomic_path(path) as partial:
        agent = {"User-Agent": "gan-photo-editing course"}  # the server turns away clients without a name
        downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=30, headers=agent)
        try:
            downloader(painting.download, str(partial), None)
        except (OSError, ValueError) as error:  # what requests raises are OSErrors
            failed = f"{painting.title} could not be fetched ({type(error).__name__})"
            advice = f"check the network, or save the scan of {painting.link} as {path}"
            raise ImageError(f"{failed}; {advice}") from error
        read_image(partial, name=painting.title)
    return path


def fetched(size: int | None = None, folder: str | Path = FOLDER) -> dict[str, torch.Tensor]:
    """The paintings that are on disk, by name: (1, 3, H, W), or their squares of that size."""
    paths = {name: painting_path(name, folder) for name in PAINTINGS}
    return {name: read_image(path, size) for name, path in paths.items() if path.is_file()}
