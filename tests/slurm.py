"""A real SLURM of one node, of Debian's programs, in a folder of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Jobs without accounting, without munge, on loopback; what a job is limited to is its walltime. One that is put back
# into the queue starts again after the credential of its first start is void.
_CONF = """
ClusterName=alone
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
KillWait=1
SchedulerParameters=sched_interval=1
ReturnToService=2
NodeName=localhost NodeAddr=127.0.0.1 NodeHostname={host} CPUs={cores} RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
_START_S = 30
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scancel")


def why_not() -> str:
    """The programs that it lacks here, in words; empty if there are all."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    return f"no {', '.join(missing)}" if missing else ""


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Start one; yields the variables with which commands find it."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    conf = folder / "slurm.conf"
    cores = os.cpu_count() or 1
    text = _CONF.format(
        folder=folder, ports=_free_ports(), user=getpass.getuser(), host=socket.gethostname(), cores=cores
    )
    conf.write_text(text)
    environ = {"SLURM_CONF": str(conf), "PATH": os.pathsep.join([os.environ["PATH"], "/usr/sbin"])}
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in (["slurmctld", "-D", "-f", str(conf)], ["slurmd", "-D", "-N", "localhost", "-f", str(conf)]):
            output = (folder / f"{command[0]}.out").open("wb")
            started.append(
                subprocess.Popen(
                    command, env={**os.environ, **environ}, stdout=output, stderr=output, start_new_session=True
                )
            )
        _wait(lambda: "idle" in ask(environ, "sinfo", "-h", "-o", "%T"), "a node that is idle")
        yield environ
    finally:
        with suppress(subprocess.SubprocessError, OSError):
            ask(environ, "scancel", "--user", getpass.getuser())
        for process in reversed(started):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ask(environ: dict[str, str], *words: str) -> str:
    """What one of its commands prints."""
    done = subprocess.run(
        words, env={**os.environ, **environ}, capture_output=True, text=True, timeout=_START_S, check=False
    )
    return done.stdout


def wait_for_no_jobs(environ: dict[str, str], seconds: float = 90) -> None:
    """Come back when no job is left in the queue."""
    _wait(lambda: not ask(environ, "squeue", "-h").strip(), "an empty queue", seconds)


def _wait(is_so: object, what: str, seconds: float = _START_S) -> None:
    assert callable(is_so)
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.3)


def _free_ports() -> list[int]:
    with socket.socket() as one, socket.socket() as other:
        for bound in (one, other):
            bound.bind(("127.0.0.1", 0))
        return [one.getsockname()[1], other.getsockname()[1]]
