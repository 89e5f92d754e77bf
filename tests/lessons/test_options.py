"""Options of a command that come from a dataclass."""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
import torch
import typer
from typer.testing import CliRunner

from helpers import __main__ as program
from helpers.commands.common import app
from helpers.commands.options import with_options

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Options:
    """What a search is set to.

    steps: over all phases,
        at least one in each.
    start: "mean" or "best".
    lr, fast: Rate.
    """

    steps: int = 300
    start: str | torch.Tensor | None = None
    lr: float | None = None
    fast: bool = False
    layers: Sequence[str | int] = ("conv1_2", 3)
    weights: dict[str, float] = field(default_factory=lambda: {"l1": 1.0, "delta": 0.0}, metadata={"min": 0})
    candidates: int = field(default=64, metadata={"flag": "--among"})
    encoder: torch.nn.Module | None = None
    number: int = field(default=0, init=False)


@dataclass(frozen=True)
class Noise:
    """What has a help is an option, of a name of its own."""

    steps: int = field(default=600, metadata={"help": "Of the noise."})
    rounds: int = 4


@pytest.fixture
def call():
    """A function from arguments to what the command got, or to what it printed where it was not called."""
    app, came = typer.Typer(rich_markup_mode=None), []

    @app.command()
    @with_options
    def command(photos: list[str], options: Options, seed: Annotated[int, typer.Option()] = 0, steps: int = 40) -> None:
        came.append((photos, options, seed))

    def run(*arguments):
        said = CliRunner().invoke(app, list(arguments))
        return came.pop() if came else said.output

    return run


def test_every_field_is_an_option_with_its_default(call):
    assert call("a", "b") == (["a", "b"], Options(steps=40), 0)  # the command's own default of the steps
    given = "--start best --lr 0.5 --fast --layers 4,conv5 --delta 0.1 --among 5 --seed 3 --steps 2"
    expected = Options(2, "best", 0.5, True, (4, "conv5"), {"l1": 1.0, "delta": 0.1}, 5)
    assert call("a", *given.split()) == (["a"], expected, 3)


def test_help_comes_from_the_docstring_and_bounds_from_the_metadata(call):
    said = " ".join(call("--help").split())
    assert '"mean" or "best".' in said and "Rate." in said and "--encoder" not in said and "--number" not in said
    assert "conv1_2,3" in said
    assert "Invalid value for '--l1'" in call("a", "--l1", "-1")


def test_descriptions_of_several_lines_and_fields_of_one_name():
    app = typer.Typer(rich_markup_mode=None)

    @app.command()
    @with_options
    def command(options: Options, noise: Noise) -> None:
        print(options.steps, noise)

    said = " ".join(CliRunner().invoke(app, ["--help"]).output.split())
    assert "over all phases, at least one in each." in said and "Of the noise." in said and "--rounds" not in said
    said = CliRunner().invoke(app, ["--steps", "5", "--noise-steps", "6"]).output
    assert said == "5 Noise(steps=6, rounds=4)\n"


# --- the command line itself -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_list_of_commands_needs_no_torch():
    code = "import sys; sys.argv = ['helpers', '--help']\nfrom helpers import __main__ as program\n"
    code += "try: program.main()\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "False" and "interpolate" in done.stdout, done.stderr


def test_every_command_of_the_list_is_in_its_module():
    commands = program.COMMANDS | importlib.import_module("staff.commands").COMMANDS
    for module, _ in commands.values():
        importlib.import_module(module)
    given = {entry.name or entry.callback.__name__ for entry in app.registered_commands if entry.callback.__doc__}
    given |= {entry.name for entry in app.registered_groups}
    assert given == set(commands)


def test_a_name_that_the_terminals_code_page_lacks_is_escaped(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "argv", ["helpers", "--help"])
    monkeypatch.setattr(program, "register", lambda arguments: None)
    monkeypatch.setattr(program, "app", lambda: typer.echo("猫.png"))
    program.main()
    terminal.flush()
    assert terminal.buffer.getvalue().split() == [b"\\u732b.png"]
