"""The command bench: measure, and write what README, docs and model cards quote."""

from pathlib import Path
from typing import Annotated

import typer

from helpers.commands.common import Device, Out, app, device_of
from staff.benchmarks import BENCHES


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(BENCHES)}; or all, one after the other.")],
    out: Out = Path("output/bench"),
    data: Annotated[Path | None, typer.Option(help="Aligned face photos, or photos/ and paintings/.")] = None,
    held_out: Annotated[int | None, typer.Option(min=1, help="Last photos that are for validation.")] = None,
    models: Annotated[list[str] | None, typer.Option("--model", help="Models of the face photos.")] = None,
    parts: Annotated[str, typer.Option(help="What to measure, with commas between.")] = "",
    sizes: Annotated[str, typer.Option(help="Sides in pixels, with commas between.")] = "",
    network: Annotated[str, typer.Option(help="Network of styles but for their speed.")] = "vgg19-slim",
    quick: Annotated[bool, typer.Option("--quick", help="Small settings: whether all runs, not how fast.")] = False,
    only: Annotated[str, typer.Option(help="Benches of all, with commas between.")] = "",
    fresh: Annotated[bool, typer.Option("--fresh", help="With all: measure again what is finished.")] = False,
    publish: Annotated[bool, typer.Option("--publish", help="With all: the page to docs/benchmarks.md too.")] = False,
    device: Device = None,
) -> None:
    """Measure, and write what README and model cards quote: tables here, and a file of them in OUT."""
    if name == "all":
        from staff.benchmarks.suite import run as run_all

        words = (["--quick"] if quick else []) + (["--device", device] if device else [])
        typer.echo(run_all(out, words, data, _list(only), fresh=fresh, publish=publish))
        return
    from staff.benchmarks.common import Settings, run

    given = {"models": tuple(models or ()), "sizes": tuple(int(size) for size in _list(sizes))}
    given |= {"held_out": held_out, "network": network, "quick": quick}
    for text in run(name, Settings(out, device_of(device), data, **given), _list(parts)):
        typer.echo(text)


def _list(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
