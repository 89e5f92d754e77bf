"""Options of a command from a dataclass: what a search can be set to is written once, in its own room.

    @app.command()
    @with_options
    def invert(photos: Photos, out: Out, options: InversionOptions, device: Device = None) -> None:

gives ``invert`` an option for every field of ``InversionOptions`` that has a help (see ``search.option``), unless the
command has a parameter of its name. A Sequence is a text with commas, a dict of floats one option per key (``--l1``).
"""

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

PLAIN = (bool, int, float, str, Path)  # the first of a union's that is among them is the option's type


def with_options(command: Callable) -> Callable:
    """The command with an option for each field of its parameters that are dataclasses; see above."""
    parameters = inspect.signature(command, eval_str=True).parameters
    bundles = {name: p.annotation for name, p in parameters.items() if dataclasses.is_dataclass(p.annotation)}
    shown = {name: p.replace(kind=p.KEYWORD_ONLY) for name, p in parameters.items() if name not in bundles}
    readers: dict[str, dict[str, Callable]] = {name: {} for name in bundles}  # bundle to field to function of what came
    for name, kind in bundles.items():
        for field, options, reader in _fields(kind):
            readers[name][field] = reader
            shown |= {option.name: option for option in options if option.name not in parameters}

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        made = {name: {field: reader(given) for field, reader in readers[name].items()} for name in bundles}
        own = {name: given[name] for name in parameters if name not in bundles}
        return command(**own, **{name: kind(**made[name]) for name, kind in bundles.items()})

    run.__signature__ = inspect.Signature(list(shown.values()))
    run.__annotations__ = {name: parameter.annotation for name, parameter in shown.items()}
    return run


def _fields(kind: type) -> Iterator[tuple[str, list[inspect.Parameter], Callable[[dict], Any]]]:
    """Of each field its name, the parameters of the command that give it, and how its value is made of theirs."""
    hints = get_type_hints(kind)
    for field in (field for field in dataclasses.fields(kind) if "help" in field.metadata):
        name, hint, facts = field.name, hints[field.name], field.metadata
        default = facts.get("default", field.default)
        members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        kinds = [get_origin(member) or member for member in members]
        plain = next((t for t in PLAIN if t in kinds), None)
        if isinstance(default, dict):
            weights = [_parameter(key, float, default[key], {**facts, "help": f"Weight of {key}."}) for key in default]
            yield name, weights, lambda given, keys=tuple(default): {key: given[key] for key in keys}
        elif plain is not None:
            optional = plain | None if type(None) in kinds else plain
            yield name, [_parameter(name, optional, default, facts)], itemgetter(name)
        else:
            text = None if default is None else ",".join(map(str, default))
            yield name, [_parameter(name, str | None, text, facts)], lambda given, name=name: listed(given[name])


def whole64(value: int | None) -> int | None:
    """A whole number that torch can take, as a typer callback."""
    if value is not None and not -(2**63) <= value < 2**63:
        raise typer.BadParameter(f"expected a whole number below 2^63 but got {value}")
    return value


def _parameter(name: str, kind: Any, default: Any, facts: dict) -> inspect.Parameter:
    whole = {"callback": whole64} if kind in (int, int | None) else {}
    option = Annotated[kind, typer.Option(help=facts["help"], min=facts.get("min"), max=facts.get("max"), **whole)]
    default = inspect.Parameter.empty if default is dataclasses.MISSING else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=option)


def listed(text: Any) -> Any:
    """``conv1_2, 3`` as ("conv1_2", 3); anything but text stays."""
    if not isinstance(text, str):
        return text
    return tuple(int(part) if part.strip().lstrip("-").isdigit() else part.strip() for part in text.split(","))
