"""Command line: ``python -m helpers COMMAND --help``."""

from __future__ import annotations

import importlib.util
import sys
import warnings

import typer

from helpers.commands import blending, check, inversion, sketch, states, style, weights  # noqa: F401  (each registers)
from helpers.commands.common import app

if importlib.util.find_spec("staff"):  # a student release comes without it
    importlib.import_module("staff.commands")

STOPPED = 130  # what typer makes of Ctrl-C


def main() -> None:
    """Run a command; bad input is one sentence and exit code 2, a warning is one line."""
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    try:
        app()
    except (ValueError, OSError, NotImplementedError) as error:  # the last in a release: an exercise to be done
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == STOPPED:
            typer.echo("stopped; what was finished is on disk, and the same command goes on from there.", err=True)
        raise


if __name__ == "__main__":
    main()
