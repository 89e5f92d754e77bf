"""Options of a command from a dataclass: what a search can be set to is written once, in its own room.

    @app.command()
    @with_options
    def invert(photos: Photos, out: Out, options: InversionOptions, device: Device = None) -> None:

gives ``invert`` an option for every field of ``InversionOptions``; the function gets the filled dataclass. Of a field

- the name becomes the option (``noise_steps``: ``--noise-steps``), the default its default;
- the help is ``metadata["help"]``, else what the dataclass's docstring says in a line ``name: ...``;
- ``metadata`` may also have ``min`` and ``max`` of a number, ``flag``, the name of the option (``--l1``), and
  ``default``, where the command line needs another one;
- whole numbers, floats, texts, booleans and paths are themselves, None too; a tuple or Sequence is a text with commas
  between; a dict of floats is one option per key of its default (``--l1 1.0 --perceptual 0.1``);
- anything else (a tensor, a network) keeps its default; where fields have a help in metadata, so do all without.

A parameter of the command with a field's name replaces its option: another default, another text. Where two
dataclasses share a field, that of the second has the name of its parameter in front: ``--noise-steps``.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

PLAIN = (bool, int, float, str, Path)  # the first of a union's that is among them is the option's type


def with_options(command: Callable) -> Callable:
    """The command with an option for each field of its parameters that are dataclasses; see above."""
    parameters = inspect.signature(command, eval_str=True).parameters
    bundles = {name: p.annotation for name, p in parameters.items() if dataclasses.is_dataclass(p.annotation)}
    shown = {name: p.replace(kind=p.KEYWORD_ONLY) for name, p in parameters.items() if name not in bundles}
    own, fields = set(shown), {}
    for name, kind in bundles.items():
        fields[name] = list(_fields(kind, name, set(shown) - own))
        shown |= {p.name: p for field in fields[name] for p in field.parameters if p.name not in own}

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        made = {
            name: kind(**{field.name: field.value(given) for field in fields[name]}) for name, kind in bundles.items()
        }
        return command(**{name: given[name] for name in parameters if name not in made}, **made)

    run.__signature__ = inspect.Signature(list(shown.values()))
    run.__annotations__ = {name: parameter.annotation for name, parameter in shown.items()}
    return run


@dataclasses.dataclass
class _Field:
    """A field, the parameters of the command that give it, and how its value is made of theirs."""

    name: str
    parameters: list[inspect.Parameter]
    value: Callable[[dict], Any]


def _fields(kind: type, bundle: str, taken: set[str]) -> Iterator[_Field]:
    hints, texts = get_type_hints(kind), _described(kind)
    chosen = [field for field in dataclasses.fields(kind) if field.init]
    for field in [field for field in chosen if "help" in field.metadata] or chosen:
        facts = {"help": texts.get(field.name), **field.metadata}
        name = f"{bundle}_{field.name}" if field.name in taken else field.name
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        default = field.metadata.get("default", default)  # of the command line alone
        types_ = [get_origin(t) or t for t in _members(hints[field.name])]
        plain = next((t for t in PLAIN if t in types_), None)
        if isinstance(default, dict) and default:
            helps = {key: facts | {"help": f"Weight of {key}."} for key in default}
            parts = [_parameter(key, float, value, helps[key]) for key, value in default.items()]
            yield _Field(field.name, parts, lambda given, keys=tuple(default): {key: given[key] for key in keys})
        elif plain is not None:
            optional = plain | None if type(None) in types_ else plain
            yield _Field(field.name, [_parameter(name, optional, default, facts)], lambda given, name=name: given[name])
        elif any(isinstance(t, type) and issubclass(t, Sequence) for t in types_):
            text = None if default is None else ",".join(map(str, default))
            parameter = _parameter(name, str if text is not None else str | None, text, facts)
            yield _Field(field.name, [parameter], lambda given, name=name: _listed(given[name]))


def whole64(value: int | None) -> int | None:
    """A whole number that torch can take, as a typer callback."""
    if value is not None and not -(2**63) <= value < 2**63:
        raise typer.BadParameter(f"expected a whole number below 2^63 but got {value}")
    return value


def _parameter(name: str, kind: Any, default: Any, facts: dict) -> inspect.Parameter:
    flags = [facts["flag"]] if "flag" in facts else []
    whole = {"callback": whole64} if kind in (int, int | None) else {}
    option = typer.Option(*flags, help=facts["help"], min=facts.get("min"), max=facts.get("max"), **whole)
    default = inspect.Parameter.empty if default is dataclasses.MISSING else default
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=Annotated[kind, option])


def _members(hint: Any) -> tuple:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _listed(text: Any) -> Any:
    """``conv1_2, 3`` as ("conv1_2", 3); anything but text stays."""
    if not isinstance(text, str):
        return text
    return tuple(int(part) if part.strip().lstrip("-").isdigit() else part.strip() for part in text.split(","))


def _described(kind: type) -> dict[str, str]:
    """Name to description of the lines ``name: ...`` of a docstring, with the lines indented below them."""
    found: dict[str, str] = {}
    for line in (inspect.getdoc(kind) or "").splitlines():
        match = re.fullmatch(r"(\s*)(\w+(?:, \w+)*): (.*)", line)
        if match:
            depth, names = len(match[1]), match[2].split(", ")
            found |= dict.fromkeys(names, match[3])
        elif found and line.strip() and len(line) - len(line.lstrip()) > depth:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        else:
            names, depth = [], 10**9
    return found
