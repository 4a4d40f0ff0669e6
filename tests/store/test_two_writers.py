"""Two processes that would write the same thing: one does, the other is told; what neither finished is taken away."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.conftest import Folder
from tests.killing import digests

from cinecube.store.base.atomic import old_of, publish, staged, whole_of, write_text
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer, scratch_folder
from cinecube.store.cube.cubes import open_cube
from cinecube.store.params.document import load_study
from cinecube.store.params.editing import edit_params, list_imported
from cinecube.store.verify.find_cubes import verify_cube

from .test_kills import INPUTS, NOTES, STAGES
from .test_two_processes import publish as publish_cube
from .test_two_processes import start_writer, version_of

TOLD = "found another process writing it, expected one writer at a time; wait for it, or stop it"


def test_the_second_writer_is_told_and_others_go_on(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path)
    refused = pytest.raises(StudyError, match=f"data/brain/sub-01.zarr: {TOLD}")
    with one_writer(paths, paths.brain("sub-01")):
        with refused, one_writer(paths, paths.brain("sub-02"), paths.brain("sub-01")):
            pass
        with one_writer(paths, paths.brain("sub-02"), paths.scores("sub-01")):
            pass
    with one_writer(paths, paths.brain("sub-01")):
        pass
    assert not (tmp_path / "data").exists(), "locks lie where DVC does not look"


def test_whoever_may_write_takes_away_what_killed_writers_have_left(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path)
    for film in ("amber", "dune"):
        publish_cube(tmp_path, film, 3)
    cube, other = paths.features("amber", "amber"), paths.features("dune", "amber")
    dead = [cube.with_name(f".amber.zarr{middle}.partial") for middle in ("", ".17", ".17-0123abcd")]
    kept = [cube.with_name(f".{name}.partial") for name in ("amber.zarr.mine", "amber.17-0123abcd", "dune.zarr")]
    for path in (*dead[1:], *kept):
        path.mkdir()
    dead[0].write_text("half")
    cube.rename(old_of(cube))
    shutil.copytree(other, old_of(other))
    with one_writer(paths, cube, other):
        assert version_of(open_cube(cube)) == 3, "it was the only copy"
        assert sorted(cube.parent.iterdir()) == sorted([cube, *kept])
        assert list(other.parent.iterdir()) == [other]


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        (".amber.zarr.partial", "amber.zarr"),
        (".amber.zarr.17-0123abcd.partial", "amber.zarr"),
        (".params.yaml.4194304-00000000.partial", "params.yaml"),
        (".amber.zarr.old", "amber.zarr"),
        (".a.b.c.1-12345678.partial", "a.b.c"),
        ("amber.zarr.partial", None),
        (".DS_Store", None),
    ],
)
def test_what_a_partial_thing_is_of(name: str, whole: str | None) -> None:
    assert whole_of(Path("x", name)) == (Path("x", whole) if whole else None)


def test_names_of_partial_things_are_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with staged(path) as first, staged(path) as second:
        first.write_text("one")
        second.write_text("two")
        assert whole_of(first) == whole_of(second) == path
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_the_only_copy_outlives_a_writer_that_fails(tmp_path: Path) -> None:
    """It was left by one that was killed between two renames."""
    path, whole = tmp_path / "cube.zarr", tmp_path / "whole"
    old_of(path).mkdir()
    with pytest.raises(FileNotFoundError):
        publish(whole, path)
    assert old_of(path).is_dir()
    whole.mkdir()
    publish(whole, path)
    assert list(tmp_path.iterdir()) == [path]


def test_cubes_that_are_published_at_once_are_whole(tmp_path: Path) -> None:
    """By scripts that hold no lock."""
    writers = [start_writer(tmp_path, "vit", 25, 0) for _ in range(3)]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    path = StudyPaths(tmp_path).features("vit", "amber")
    assert verify_cube(path) == []
    assert version_of(open_cube(path)) == 24
    assert list(path.parent.iterdir()) == [path]


def test_scratch_lies_in_the_study_and_goes(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path)
    (paths.scratch / "brain.sub-01").mkdir(parents=True)
    (paths.scratch / "brain.sub-01" / "dead.npy").write_bytes(b"1")
    seen = []

    def fail() -> None:
        with scratch_folder(paths, "brain.sub-01") as folder:
            seen.extend(folder.iterdir())
            (folder / "0.npy").write_bytes(b"1")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert seen == list(paths.scratch.iterdir()) == []


def test_edits_of_parameters_do_not_get_lost(own: Folder) -> None:
    def add(number: int) -> None:
        edit_params(own.root, lambda params: list_imported(params, {"model": f"m{number}", "source": "x.npy"}))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(16)))
    assert {entry.model for entry in load_study(own.root).imported} == {f"m{number}" for number in range(16)}


@pytest.fixture
def own(tmp_path: Path) -> Folder:
    """A study whose parameters are all there is of it."""
    from tests.conftest import make_small

    return make_small(tmp_path / "own")


WAITS = """
import sys
import cinecube.store.base.writing as writing
from cinecube.cli import main
clear = writing.clear
def slowly(path):
    if path.name == sys.argv[1]:
        print("writing", flush=True)
        sys.stdin.readline()
    clear(path)
writing.clear = slowly
main(sys.argv[2:])
"""


@contextmanager
def waiting(output: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own, which waits for a line as soon as it is the only writer of an output."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", WAITS, Path(output).name, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        try:
            yield process
        finally:
            process.kill()


def go_on(process: subprocess.Popen[str]) -> int:
    assert process.stdin is not None
    print(file=process.stdin, flush=True)
    return process.wait(timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "beside"), [(("brain", "sub-01"), ("brain", "sub-02")), (("residual",), ("layerwise",))]
)
def test_two_processes_on_one_output(scratch: Folder, words: tuple[str, ...], beside: tuple[str, ...]) -> None:
    known = digests(scratch.root, *INPUTS, *NOTES)
    output = STAGES[" ".join(words)][0]
    with waiting(output, *words, "--study", str(scratch.root)) as first:
        assert f"{output}: {TOLD}" in scratch.error(*words)
        scratch.must(*beside)
        assert go_on(first) == 0
    assert digests(scratch.root, *INPUTS, *NOTES) == known
    scratch.must(*words)


@pytest.mark.slow
def test_every_stage_refuses_to_be_the_second(scratch: Folder) -> None:
    paths = StudyPaths(scratch.root)
    pair = next(path.name for path in (scratch.root / "data/residual").iterdir())
    for stage, outputs in {**STAGES, "simulate": ["data/stimuli"]}.items():
        output = scratch.root / outputs[0].replace("PAIR", pair)
        with one_writer(paths, output):
            if stage.startswith("features"):
                output.rename(scratch.root / "aside")  # or there is nothing to write
            line = scratch.error(*stage.replace("PAIR", pair).split())
            if stage.startswith("features"):
                (scratch.root / "aside").rename(output)
        assert line == f"Error: {paths.relative(output)}: {TOLD} (killing dvc leaves its child running)"


@pytest.mark.slow
def test_two_models_are_added_at_once(scratch: Folder, tmp_path: Path) -> None:
    films = pd.read_csv(scratch.root / "data/films.csv")
    labels = [(row.segment, i * 1.49) for row in films.itertuples() for i in range(row.rows)]
    pd.DataFrame(labels, columns=["segment", "onset_s"]).to_csv(tmp_path / "rows.csv", index=False)
    np.save(tmp_path / "own.npy", np.ones((len(labels), 2)) * np.arange(len(labels))[:, None])
    adding = [
        subprocess.Popen(
            [
                *(sys.executable, "-W", "ignore", "-c", "from cinecube.cli import main; main()", "add"),
                *(str(tmp_path / "own.npy"), "--rows", str(tmp_path / "rows.csv"), "--model", model),
                *("--study", str(scratch.root)),
            ]
        )
        for model in ("loudness", "motion")
    ]
    assert [process.wait(timeout=120) for process in adding] == [0, 0]
    assert {"loudness", "motion"} <= {entry.model for entry in load_study(scratch.root).imported}


def test_text_is_whole_whoever_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    texts = [str(number) * 200_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: write_text(path, text), texts))
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]
