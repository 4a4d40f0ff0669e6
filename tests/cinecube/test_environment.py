"""Disks and permissions: every command is right, or says in one line what was refused, and keeps what there was."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.conftest import REPOSITORY, tree_digest

pytestmark = pytest.mark.usefixtures("bounded")

if TYPE_CHECKING:
    from tests.conftest import Folder

LINE = re.compile(r"Error: \S.*: found .+, expected .+; .+")
# What a refusal of the machine must never be taken for.
MISTAKEN = re.compile(r"Traceback|Aborted|damaged|unreadable|nobody expected|not a cube|no cube|broken")

PAIR = "imagebind.concat-videomae"
WRITES: dict[str, tuple[str, ...]] = {
    "films": ("films",),
    "checkpoint": ("checkpoint", "vit"),
    "features": ("features", "vit", "amber"),
    "brain": ("brain", "sub-01"),
    "ceiling": ("ceiling",),
    "encode": ("encode", "vit"),
    "residual-features": ("residual-features", PAIR),
    "whole-brain": ("whole-brain",),
    "layerwise": ("layerwise",),
    "residual": ("residual",),
    "partition": ("partition",),
    "significance": ("significance",),
    "figures": ("figures",),
    "oracle": ("oracle",),
    "report": ("report",),
    "card": ("card",),
    "export": ("export", "score", "map.csv", "--model", "vit"),
    "add": ("add", "loudness.csv", "--model", "loudness"),
    "init": ("init", "new"),
    "simulate": ("simulate",),
}
READS: dict[str, tuple[str, ...]] = {
    "ls": ("ls",),
    "show": ("show", "data/brain/sub-01.zarr"),
    "verify": ("verify", "data/brain"),
    "plan": ("plan",),
    "why": ("why", "data/features/vit/amber.zarr"),
    "clean": ("clean", "--dry-run"),
}
ALL = WRITES | READS
# Of these nothing is there yet in the second study, so that they have something to write.
ANEW = ("features", "encode")


class Disk:
    """Two studies on a disk: one that is finished, and one in which cubes are still to be made of the same inputs."""

    def __init__(self, folder: Path, finished: Path) -> None:
        self.study, self.begun = folder / "study", folder / "begun"
        shutil.copytree(finished, self.study, ignore=shutil.ignore_patterns("weights", "scans", "stimuli"))
        for name in ("weights", "scans", "stimuli"):
            (self.study / "data" / name).symlink_to(finished / "data" / name)
        (self.study / "loudness.csv").write_text(_loudness(self.study), encoding="utf-8")
        features = self.begun / "data" / "features"
        features.mkdir(parents=True)
        shutil.copy(self.study / "params.yaml", self.begun)
        for name in ("weights", "stimuli", "checkpoints", "films.csv", "brain", "features/vivit"):
            (self.begun / "data" / name).symlink_to(self.study / "data" / name)

    def words(self, command: Sequence[str]) -> list[str]:
        name, *rest = command
        if name == "init":
            return [name, str(self.study / "new")]
        if name == "encode":
            rest = ["vivit"]
        here = [str(self.study / word) if word.endswith(".csv") else word for word in rest]
        return [name, "--study", str(self.begun if name in ANEW else self.study), *here]


def _loudness(root: Path) -> str:
    lines = (root / "data" / "films.csv").read_text(encoding="utf-8").splitlines()
    columns = lines[0].split(",")
    segment, rows = columns.index("segment"), columns.index("rows")
    found = [line.split(",") for line in lines[1:]]
    written = [f"{line[segment]},{row * 1.49:.2f},{row % 7}" for line in found for row in range(int(line[rows]))]
    return "\n".join(["segment,onset_s,loudness", *written]) + "\n"


def run(
    commands: Sequence[Sequence[str]], prefix: Sequence[str] = (), limits: tuple[int, int] = (0, 0), **environ: str
) -> list[dict[str, Any]]:
    """How each command ends, all run in one process, with its limits of open files and of bytes of a file."""
    done = subprocess.run(
        # -P: in the script's folder lies one called cinecube.
        [*prefix, sys.executable, "-P", str(REPOSITORY / "tests" / "commands_in_turn.py"), *map(str, limits)],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environ},
    )
    ended: list[dict[str, Any]] = json.loads(done.stdout)
    return ended


def as_a_user() -> list[str]:
    """What goes before a command so that permissions count: root's power over them is taken away."""
    return ["setpriv", "--bounding-set=-all"] if os.getuid() == 0 else []


def is_refused(result: dict[str, Any], found: str) -> None:
    assert result["raised"] is None, result
    assert result["code"] == 1, result
    line = result["err"].splitlines()[-1]
    assert LINE.fullmatch(line)
    assert re.search(found, line)
    assert not MISTAKEN.search(result["err"])


@contextmanager
def disk(finished: Path, folder: Path) -> Iterator[tuple[Disk, bool]]:
    """The studies on a small disk of its own, or where none can be mounted, in a folder."""
    size = sum(file.stat().st_size for file in finished.rglob("*") if file.is_file()) + 2**26
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "cinecube-test", str(folder)]
    mounted = os.getuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield Disk(folder, finished), mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(folder: Path) -> None:
    with suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def _full(there: Disk, mounted: bool) -> tuple[list[dict[str, Any]], str]:
    commands = [there.words(command) for command in ALL.values()]
    if not mounted:
        return run(commands, limits=(0, 100)), "a file that grew past what the disk"
    _fill(there.study.parent)
    return run(commands), "no room left on the disk"


def _read_only(there: Disk, mounted: bool) -> tuple[list[dict[str, Any]], str]:
    if not mounted:
        return _denied(there, mounted)
    subprocess.run(["mount", "-o", "remount,ro", str(there.study.parent)], check=True)
    return run([there.words(command) for command in ALL.values()]), "a disk that can only be read"


def _denied(there: Disk, _: bool) -> tuple[list[dict[str, Any]], str]:
    folders = [folder for top in (there.study, there.begun) for folder, _, _ in os.walk(top)]
    for folder in folders:
        os.chmod(folder, 0o555)
    ended = run([there.words(command) for command in ALL.values()], as_a_user())
    for folder in folders:
        os.chmod(folder, 0o755)
    return ended, "no permission to write in"


@pytest.fixture(
    scope="module",
    params=[_full, *(pytest.param(one, marks=pytest.mark.long) for one in (_read_only, _denied))],
    ids=["full", "read only", "no permission"],
)
def refusing(
    request: pytest.FixtureRequest, study: Folder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[dict[str, Any], str]]:
    """How all commands end on such a disk, and what those that write must say."""
    with disk(study.root, tmp_path_factory.mktemp("disk")) as (there, mounted):
        kept = [there.study / "data", there.study / "results"]
        before = [tree_digest(folder) for folder in kept]
        ended, found = request.param(there, mounted)
        assert [tree_digest(folder) for folder in kept] == before
        yield dict(zip(ALL, ended, strict=True)), found


@pytest.mark.parametrize("command", WRITES)
def test_commands_that_write_say_what_the_disk_refuses(refusing: tuple[dict[str, Any], str], command: str) -> None:
    ended, found = refusing
    is_refused(ended[command], found)


@pytest.mark.parametrize("command", READS)
def test_commands_that_read_need_no_room(refusing: tuple[dict[str, Any], str], command: str) -> None:
    ended, _ = refusing
    assert (ended[command]["code"], ended[command]["raised"]) == (0, None)


INPUTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "parameters": ("params.yaml", ("plan",)),
    "table of films": ("data/films.csv", ("brain", "sub-01")),
    "record of a checkpoint": ("data/checkpoints/vit.json", ("features", "vit", "amber")),
    "film": ("data/stimuli/amber/amber01.mp4", ("films",)),
    "weights": ("data/weights/vit/model.safetensors", ("checkpoint", "vit")),
    "configuration": ("data/weights/vit/config.json", ("checkpoint", "vit")),
    "scan": ("data/scans/sub-01/**/*amber01*bold.nii.gz", ("brain", "sub-01")),
    "mask": ("data/scans/sub-01/**/*amber01*mask.nii.gz", ("brain", "sub-01")),
    "confounds": ("data/scans/sub-01/**/*amber01*timeseries.tsv", ("brain", "sub-01")),
    "atlas": ("data/scans/atlas/*.nii.gz", ("brain", "sub-01")),
    "names of parcels": ("data/scans/atlas/*.tsv", ("brain", "sub-01")),
    "metadata of a cube": ("data/features/vit/amber.zarr/zarr.json", ("encode", "vit")),
    "labels of a cube": ("data/features/vit/amber.zarr/segment/c/0", ("encode", "vit")),
    "layer": ("data/features/vit/amber.zarr/features/c/0/0/0/3", ("encode", "vit")),
    "brain cube": ("data/brain/sub-01.zarr/zarr.json", ("encode", "vit")),
    "responses": ("data/brain/sub-01.zarr/bold/c/0/0", ("ceiling",)),
    "scores": ("results/scores/vit.zarr/zarr.json", ("whole-brain",)),
    "table": ("results/tables/roi.csv", ("significance",)),
    "truth": ("data/truth/truth.json", ("oracle",)),
    "cube to verify": ("data/features/vit/amber.zarr/features/c/0/0/0/3", ("verify", "data/features/vit")),
    "cube to show": ("data/brain/sub-01.zarr/bold/c/0/0", ("show", "data/brain/sub-01.zarr")),
}


@pytest.fixture(scope="module")
def unreadable(study: Folder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Each input without the right to read it, and how the command ends that reads it."""
    paths, commands = {}, []
    for name, (pattern, command) in INPUTS.items():
        root = study.copy(tmp_path_factory.mktemp("input") / "study").root
        shutil.rmtree(root / "results" / "scores" / "vit.zarr" if command[0] == "encode" else root / "none", True)
        shutil.rmtree(root / "data/features/vit/amber.zarr" if command[0] == "features" else root / "none", True)
        paths[name] = next(path for path in sorted(root.glob(pattern)) if path.is_file())
        data = paths[name].read_bytes()
        paths[name].unlink()  # its name may be another one's too
        paths[name].write_bytes(data)
        paths[name].chmod(0)
        here = [str(root / word) if word.startswith("data/features/vit") else word for word in command[1:]]
        commands.append([command[0], "--study", str(root), *here])
    ended = run(commands, as_a_user())
    return {name: (paths[name], one) for name, one in zip(INPUTS, ended, strict=True)}


@pytest.mark.parametrize("name", INPUTS)
def test_an_input_that_may_not_be_read_is_named(unreadable: dict[str, tuple[Path, dict[str, Any]]], name: str) -> None:
    path, ended = unreadable[name]
    assert (ended["code"], ended["raised"]) == (1, None)
    lines = [line for line in ended["err"].splitlines() if "no permission to read it" in line]
    assert len(lines) == 1
    assert str(path) in lines[0]
    assert not MISTAKEN.search(ended["err"])


@pytest.mark.parametrize(
    "command",
    [
        *("ls", "brain", "whole-brain", "init"),
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in (*sorted({*READS} - {"ls"}), "report", "card", "ceiling")
        ),
    ],
)
def test_too_many_open_files_are_told_or_not_needed(study: Folder, command: str, tmp_path: Path) -> None:
    there = study.copy(tmp_path / "study").root
    words = [ALL[command]]
    name, *rest = words[0]
    here = [name, str(tmp_path / "new")] if name == "init" else [name, "--study", str(there), *rest]
    (ended,) = run([here], limits=(16, 0))
    if ended["code"]:
        is_refused(ended, "too many open files, expected at most 16 at once")
