"""A Slurm cluster of one node on this machine, to try sweeps on: munged, slurmctld and slurmd without systemd.

Run as root where Debian's packages ``slurm-wlm`` and ``munge`` are installed; nothing outside its folder is touched::

    python -m tests.slurm_node FOLDER     # prints what to export, and holds the cluster until Ctrl-C
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "sinfo", "squeue")
SECONDS = 30  # until the node answers

CONF = """\
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """What keeps a cluster from running here, None where nothing does."""
    path = os.environ["PATH"] + os.pathsep + "/usr/sbin"
    if missing := [name for name in NEEDED if not shutil.which(name, path=path)]:
        return f"{', '.join(missing)} not found; apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "the daemons of the cluster need root"


def write_conf(folder: Path, cpus: int) -> Path:
    """``slurm.conf`` in a folder, with free ports."""
    with socket.socket() as a, socket.socket() as b:
        a.bind(("127.0.0.1", 0)), b.bind(("127.0.0.1", 0))
        ports = a.getsockname()[1], b.getsockname()[1]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    host = socket.gethostname().split(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    path = folder / "slurm.conf"
    path.write_text(
        CONF.format(host=host, user=getpass.getuser(), folder=folder, ports=ports, cpus=cpus, memory=memory)
    )
    return path


@contextmanager
def slurm_node(folder: str | Path, cpus: int = 2) -> Iterator[dict[str, str]]:
    """Starts the daemons; gives the environment in which ``sbatch`` finds them; ends them all and their jobs.

    Raises RuntimeError with the daemons' last words where the node does not answer.
    """
    folder = Path(folder).resolve()
    environment = os.environ | {"SLURM_CONF": str(write_conf(folder, cpus))}
    environment["PATH"] += os.pathsep + "/usr/sbin"
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o600)
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    commands = (
        ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D"],
    )
    daemons = []
    try:
        for command in commands:
            with open(folder / f"{command[0]}.out", "w") as log:
                daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            time.sleep(0.5)  # munge's socket, then the controller's port
        _wait_until_idle(folder, environment, daemons)
        yield environment
    finally:
        subprocess.run(["scancel", "--user", getpass.getuser()], env=environment, capture_output=True)
        _wait_until_empty(environment)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()


def _ask(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout.strip()


def _wait_until_idle(folder: Path, environment: dict[str, str], daemons: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + SECONDS
    while _ask(environment, "sinfo", "-h", "-o", "%t") != "idle":
        if time.monotonic() > deadline or any(daemon.poll() is not None for daemon in daemons):
            words = {path.name: path.read_text(errors="replace")[-300:] for path in folder.glob("*.out")}
            raise RuntimeError(f"the Slurm node does not answer: {words}")
        time.sleep(0.2)


def _wait_until_empty(environment: dict[str, str]) -> None:
    deadline = time.monotonic() + SECONDS
    while _ask(environment, "squeue", "-h") and time.monotonic() < deadline:
        time.sleep(0.2)


def main() -> None:
    if reason := why_not():
        sys.exit(f"no Slurm cluster here: {reason}.")
    with slurm_node(sys.argv[1]) as environment:
        print(f"export SLURM_CONF={environment['SLURM_CONF']}", flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
