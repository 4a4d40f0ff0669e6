"""Processes of `cinecube` and `dvc` that begin warm: forked from one that has imported the libraries, and none of ours.

Each is what Python would have started: arguments, folder, environment with `PYTHONPATH` and a `sitecustomize` there,
and an end of its own. What takes seconds of every start, the libraries, is imported once.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path

_MODULES = (
    *("numpy", "pandas", "xarray", "zarr", "dask.array", "h5py", "pydantic", "click", "rich.progress", "jinja2"),
    *("scipy.linalg", "scipy.stats", "scipy.signal", "sklearn.metrics", "sklearn.linear_model", "himalaya.ridge"),
    *("nilearn.image", "nilearn.maskers", "nilearn.plotting", "matplotlib.figure", "av", "PIL.Image"),
    *("torch", "safetensors.torch", "transformers", "dvc.cli", "dvc.repo", "dvc.api", "dvc.commands.repro"),
    *("transformers.models.vit.modeling_vit", "transformers.models.wav2vec2.modeling_wav2vec2"),
)

# Starts no thread: none would survive the fork. The first child waits for the second, and tells how it ended.
_SERVER = """
import atexit, importlib, json, os, select, shutil, site, socket, sys, traceback
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
assert not {"cinecube", "cinecube.cli"} & set(sys.modules)

def call(job):
    os.setsid()  # whoever kills its group, or has it kill its own, means what it started
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environ"])
    sys.argv[:] = job["words"]
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.modules.pop("sitecustomize", None)
    site.execsitecustomize()
    code = 0
    try:
        if job["words"][0].endswith("dvc"):
            from dvc.cli import main
            sys.exit(main(job["words"][1:]))
        from cinecube.cli import main
        main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

def serve(asked):
    said, files, _, _ = socket.recv_fds(asked, 2**20, 3)
    while more := asked.recv(2**20):
        said += more
    pid = os.fork()
    if pid == 0:
        asked.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        call(json.loads(said))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    asked.sendall(str(code).encode())
    os._exit(0)

listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[2])
listener.listen()
print("ready", flush=True)
while listener in select.select([listener, sys.stdin], [], [])[0]:
    asked, _ = listener.accept()
    if os.fork() == 0:
        listener.close()
        serve(asked)
    asked.close()
    while True:
        try:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                break
        except ChildProcessError:
            break
shutil.rmtree(os.path.dirname(sys.argv[2]))
"""

# The command that DVC finds on the path; Python without its site starts in a few hundredths of a second.
_SHIM = """#!{python} -SEs
import json, os, socket, sys
asked = socket.socket(socket.AF_UNIX)
asked.connect({address!r})
job = dict(words=[{name!r}, *sys.argv[1:]], folder=os.getcwd(), environ=dict(os.environ))
socket.send_fds(asked, [json.dumps(job).encode()], [0, 1, 2])
asked.shutdown(socket.SHUT_WR)
code = int(asked.recv(16) or -9)
sys.exit(code if code >= 0 else 128 - code)  # as shells say that a signal ended it
"""


@cache
def _place() -> Path:
    """Folder of the socket, and of commands that ask for a process there; the server starts with it."""
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    server = subprocess.Popen(
        [sys.executable, "-P", "-W", "ignore", "-c", _SERVER, json.dumps(_MODULES), str(folder / "socket")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # What lies on a path of the first command is not for those after it.
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": ""},
        start_new_session=True,  # Ctrl-C is for the tests
    )
    assert server.stdin is not None
    assert server.stdout is not None
    atexit.register(lambda: (server.stdin.close(), server.wait()))  # type: ignore[union-attr]
    assert server.stdout.readline() == b"ready\n"
    for name in ("cinecube", "dvc"):
        shim = folder / name / name
        shim.parent.mkdir()
        text = _SHIM.format(python=sys.executable, address=str(folder / "socket"), name=name)
        shim.write_text(text, encoding="utf-8")
        shim.chmod(0o755)
    return folder


def command(name: str = "cinecube") -> Path:
    """A `cinecube`, or a `dvc`, that runs in a warm process."""
    return _place() / name / name


def call(words: list[str], folder: Path, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `dvc` or `cinecube`, and what it starts, in warm processes.

    Parameters
    ----------
    words : list of str
        The command, beginning with its name.
    folder : Path
        Where it runs.
    environ : mapping
    """
    path = os.pathsep.join([str(command().parent), environ["PATH"]])
    job = {"words": words, "folder": str(folder), "environ": {**environ, "PATH": path}}
    with ExitStack() as stack:
        nothing = stack.enter_context(open(os.devnull, "rb"))
        out, err = (stack.enter_context(tempfile.TemporaryFile("w+", errors="replace")) for _ in range(2))
        asked = stack.enter_context(socket.socket(socket.AF_UNIX))
        asked.connect(str(_place() / "socket"))
        socket.send_fds(asked, [json.dumps(job).encode()], [file.fileno() for file in (nothing, out, err)])
        asked.shutdown(socket.SHUT_WR)
        code = int(asked.recv(16) or -9)
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(words, code, out.read(), err.read())
