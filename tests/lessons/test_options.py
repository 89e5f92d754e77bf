"""Options of a command that come from a dataclass, and the command line itself."""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import torch
import typer
from typer.testing import CliRunner

from helpers import __main__ as program
from helpers.commands.common import app
from helpers.commands.options import with_options
from helpers.search import option

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Options:
    steps: int = option(300, "Over all phases.")
    start: str | torch.Tensor | None = option(None, '"mean" or "best".')
    lr: float | None = option(None, "Rate.")
    fast: bool = option(False, "Few steps.")
    layers: Sequence[str | int] = option(("conv1_2", 3), "Layers.")
    weights: dict[str, float] | None = option(None, "Weight.", min=0, default={"l1": 1.0, "delta": 0.0})
    candidates: int = 64


def test_every_field_with_a_help_is_an_option_with_its_default_and_its_bounds():
    app, calls = typer.Typer(rich_markup_mode=None), []

    @app.command()
    @with_options
    def command(photos: list[str], options: Options, seed: Annotated[int, typer.Option()] = 0, steps: int = 40) -> None:
        calls.append((photos, options, seed))

    def call(*arguments):
        """What the command got, or what it printed where it was not called."""
        printed = CliRunner().invoke(app, list(arguments)).output
        return calls.pop() if calls else " ".join(printed.split())

    weights = {"l1": 1.0, "delta": 0.0}  # the command line's own default, as are the command's steps
    assert call("a", "b") == (["a", "b"], Options(steps=40, weights=weights), 0)
    given = "--start best --lr 0.5 --fast --layers 4,conv5 --delta 0.1 --seed 3 --steps 2"
    expected = Options(2, "best", 0.5, True, (4, "conv5"), {"l1": 1.0, "delta": 0.1})
    assert call("a", *given.split()) == (["a"], expected, 3)
    assert all(part in call("--help") for part in ('"mean" or "best".', "Weight of l1.", "conv1_2,3"))
    assert "--candidates" not in call("--help") and "Invalid value for '--l1'" in call("a", "--l1", "-1")


@pytest.mark.slow
@pytest.mark.parametrize("arguments, said", [("--help", "interpolate"), ("blend LICENSE a.png", "no a.png; check")])
def test_a_list_of_commands_and_a_file_that_is_not_there_need_no_torch(arguments, said):
    code = f"import sys; sys.argv = ['helpers', *{arguments.split()}]\nfrom helpers import __main__ as program\n"
    code += "try: program.main()\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "False" and said in done.stdout + done.stderr


def test_every_command_of_the_list_is_in_its_module_and_any_name_can_be_printed(monkeypatch):
    commands = program.COMMANDS | importlib.import_module("staff.commands").COMMANDS
    for module, _ in commands.values():
        importlib.import_module(module)
    given = {entry.name or entry.callback.__name__ for entry in app.registered_commands if entry.callback.__doc__}
    assert given | {entry.name for entry in app.registered_groups} == set(commands)
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "argv", ["helpers", "~/a", "--out=~/b", "c=~/d"])
    monkeypatch.setattr(program, "register", lambda arguments: None)
    monkeypatch.setattr(program, "app", lambda: typer.echo("猫.png"))
    program.main()
    assert sys.argv[1:] == [f"{Path.home()}/a", f"--out={Path.home()}/b", "c=~/d"]
    terminal.flush()
    assert terminal.buffer.getvalue().split() == [b"\\u732b.png"]
