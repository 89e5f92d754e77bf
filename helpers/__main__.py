"""Command line: ``python -m helpers COMMAND --help``."""

import importlib
import itertools
import os
import sys
import warnings
from pathlib import Path

import typer

from helpers.commands.common import app

COMMANDS = {  # name: (its module, its line in the list); only the module of the command that is run is imported
    "demo": ("helpers.commands.inversion", "Invert one real photo with every bundled model in every space."),
    "invert": ("helpers.commands.inversion", "Find the latents of photos."),
    "interpolate": ("helpers.commands.inversion", "Morph between two photos, as GIF and MP4."),
    "sample": ("helpers.commands.inversion", "Draw images from a generator."),
    "blend": ("helpers.commands.blending", "Blend two photos in one face."),
    "inpaint": ("helpers.commands.blending", "Fill a hole in a photo with a likely face."),
    "scribble": ("helpers.commands.blending", "Turn strokes painted on a photo into a likely change of the face."),
    "local-style": ("helpers.commands.blending", "Give a region the texture and colours of a second image."),
    "transfer": ("helpers.commands.blending", "Carry an attribute of one photo, such as its eyes, into another."),
    "sketch": ("helpers.commands.sketch", "Find images that follow a sketch."),
    "style": ("helpers.commands.style", "Paint photos in the style of images."),
    "state": ("helpers.commands.states", "Write what a state file of a panel holds: images, masks, settings."),
    "device": ("helpers.commands.device", "Show the device and what is the fastest on it."),
    "check": ("helpers.commands.check", "Run the visible checks of your notebook."),
    "report": ("helpers.commands.report", "Write your report as one HTML file, to be handed in."),
    "weights": ("helpers.commands.weights", "List, fetch, check and convert weights."),
    "data": ("helpers.commands.style", "Style images: ours, and public-domain paintings."),
}
FILES = ("blend", "inpaint", "interpolate", "local-style", "scribble", "state", "transfer")  # commands that need all
FILES_OF_MANY = ("invert", "sketch", "style")  # those that do the others where one is not there
STOPPED = 130  # typer's exit code after Ctrl-C


def register(arguments: list[str]) -> None:
    """Add the command that the arguments name to ``app``; where they name none, the list of all of them."""
    staff = (Path(__file__).resolve().parents[1] / "staff").is_dir()  # a student release comes without it
    commands = COMMANDS | (importlib.import_module("staff.commands").COMMANDS if staff else {})
    name = next((argument for argument in arguments if not argument.startswith("-")), None)
    if name in commands:
        importlib.import_module(commands[name][0])
        return
    for name, (_, line) in commands.items():
        app.command(name, help=line)(lambda: None)


def check_files(arguments: list[str]) -> None:
    """Raise ValueError where a command's files, which follow no option, are missing: it would notice seconds later."""
    pairs = (pair for pair in itertools.pairwise(arguments) if not any(word.startswith("-") for word in pair))
    given = [name for _, name in pairs if Path(name).suffix]
    missing = [name for name in given if not os.path.exists(name)]
    if missing and (arguments[0] in FILES or arguments[0] in FILES_OF_MANY and missing == given):
        raise ValueError(f"expected a file but there is no {missing[0]}; check the path")


def _at_home(argument: str) -> str:
    """An argument or, as few shells do it, the value in ``--option=~/value`` with ~ expanded."""
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return option + equals + os.path.expanduser(value)


def main() -> None:
    """Run a command; bad input is one sentence and exit code 2, a warning is one line."""
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal's code page lacks must not end a run
            stream.reconfigure(errors="backslashreplace")
    sys.argv[1:] = map(_at_home, sys.argv[1:])
    try:
        check_files(sys.argv[1:])
        register(sys.argv[1:])
        app()
    except (ValueError, OSError, NotImplementedError) as error:  # the last in a release: an exercise to be done
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == STOPPED:
            typer.echo("Stopped. Finished results are on disk; run the same command again to continue.", err=True)
        raise


if __name__ == "__main__":
    main()
