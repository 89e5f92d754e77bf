"""The applications of the staff's commands, under the one command line."""

import typer

from helpers.commands.common import app

train_app = typer.Typer(no_args_is_help=True, help="Train the bundled networks again, or on your own photos.")
bench_app = typer.Typer(no_args_is_help=True, help="Measure, and write what README and model cards quote.")
app.add_typer(train_app, name="train")
app.add_typer(bench_app, name="bench")
