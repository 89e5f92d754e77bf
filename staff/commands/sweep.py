"""Command of sweeps: a table of jobs over processes or a Dask cluster."""

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from helpers.commands.common import Log, Out, app

HIDDEN = ("key", "task")
SHOWN = 100  # jobs; of more than that a table on the terminal is of no use


@app.command()
def sweep(
    spec: Annotated[Path, typer.Argument(help="YAML file: task, its inputs and options; every list is an axis.")],
    out: Out,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes on this machine; one per GPU or two cores.")
    ] = None,
    dask: Annotated[str | None, typer.Option(help="Address of a Dask scheduler, tcp://host:8786.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Jobs alike in all but their inputs that run as one batch.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each worker; its share of the cores.")] = None,
    log: Log = "jsonl",
) -> None:
    """Do every combination of a table of settings; run it again to continue after a stop or a kill."""
    import torch
    from tqdm import tqdm

    from helpers.commands.runs import table
    from helpers.logs import open_log
    from staff.sweep import Sweep, cluster
    from staff.sweep.spec import expand, read_spec
    from staff.sweep.tasks import TASKS

    settings = read_spec(spec)
    jobs = expand(settings, TASKS, spec.parent)
    cores = os.cpu_count() or 1
    if not dask:
        workers = workers or torch.cuda.device_count() or max(1, cores // 2)
        threads = threads or max(1, cores // workers)
    run = Sweep(jobs, TASKS, out, batch=batch, threads=threads)
    with ExitStack() as stack:
        client = stack.enter_context(cluster(dask, workers or 1))
        logged = stack.enter_context(open_log(log, out / "log", settings))
        failed = []
        bar = tqdm(run.run(client), total=len(run), unit="job", file=sys.stderr, disable=not len(run))
        for number, row in enumerate(bar):
            logged.row(number, row, out)
            failed += [row["error"]] if "error" in row else []
    rows = [{k: v for k, v in row.items() if k not in HIDDEN and not isinstance(v, dict)} for row in run.rows()]
    typer.echo(table(rows) if len(jobs) <= SHOWN else f"{len(jobs)} jobs.")
    typer.echo(f"\n{run.table.path}")
    if failed:
        raise ValueError(f"{len(failed)} of {len(jobs)} jobs failed; the first: {failed[0]}")
