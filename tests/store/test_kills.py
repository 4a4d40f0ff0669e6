"""Processes killed at any moment: nothing is damaged, all goes on to the same bytes, `clean` finds the rest."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from tests.conftest import Folder, make_small
from tests.killing import Nursery, digests, open_nursery

from cinecube.status.timings import expected_s, read_timings
from cinecube.store.base.paths import StudyPaths
from cinecube.store.clean import leftovers
from cinecube.store.verify.find_cubes import find_cubes, verify_cube

from .conftest import MODEL, Published
from .test_importing import drop_model, mine

pytestmark = pytest.mark.slow
assert mine  # the fixture

INPUTS = ("data/stimuli", "data/scans", "data/weights", "data/truth")
# What no command has to leave as it was: the machine's own notes, and locks that stay.
NOTES = (".cinecube/timings", ".cinecube/locks", ".cinecube/digests.json", ".cinecube/ready.json", ".dvc", ".git")

STAGES: dict[str, list[str]] = {
    "films": ["data/films.csv"],
    "checkpoint vit": ["data/checkpoints/vit.json"],
    "features vit amber": ["data/features/vit/amber.zarr"],
    "features wav2vec2 dune": ["data/features/wav2vec2/dune.zarr"],
    "features tvlt dune": ["data/features/tvlt/dune.zarr"],
    "brain sub-01": ["data/brain/sub-01.zarr", "data/brain/sub-01.qc.csv"],
    "contents": ["data/contents.json"],
    "ceiling": ["data/ceiling.zarr", "results/tables/ceiling_growth.csv", "results/tables/run_timing.csv"],
    "residual-features PAIR": ["data/residual/PAIR"],
    "encode vit": ["results/scores/vit.zarr", "results/predictions/vit.zarr"],
    "whole-brain": ["results/tables/whole_brain.csv"],
    "layerwise": ["results/tables/layerwise.csv", "results/plots/layers"],
    "residual": ["results/tables/residual.csv"],
    "partition-layers": ["results/partition_layers.json"],
    "partition": ["results/partition.zarr"],
    "partition-tables": ["results/tables/partition.csv", "results/tables/partition_roi.csv"],
    "significance": ["results/significance.zarr"],
    "figures": ["results/figures"],
    "oracle": ["results/tables/oracle_residual.csv"],
    "report": ["results/report", "results/metrics.json"],
}


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Where commands are started."""
    with open_nursery(tmp_path_factory.mktemp("nursery")) as nursery:
        yield nursery


@pytest.fixture(scope="module")
def reference(study: Folder) -> dict[str, str]:
    """Digests of what the finished study holds."""
    return digests(study.root, *INPUTS, *NOTES)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Folder], list[Path]]:
    """What `clean` lists of a study in which nobody writes."""
    monkeypatch.setattr(leftovers, "STILL_S", -1.0)

    def list_all(folder: Folder) -> list[Path]:
        return [Path(row["path"]) for row in json.loads(folder.must("clean", "--json", "--dry-run").stdout)]

    return list_all


Listed = Callable[[Folder], list[Path]]


def refuse_damage(root: Path) -> None:
    """Every cube that stands in its place is whole."""
    for top in ("data", "results"):
        for cube in find_cubes(root / top) if (root / top).is_dir() else []:
            assert verify_cube(cube) == []


def strays(folder: Folder, known: dict[str, str], listed: Listed, *without: str) -> list[str]:
    """Files that are neither a study's nor in what `clean` lists."""
    new = [name for name in digests(folder.root, *INPUTS, *NOTES, *without) if name not in known]
    found = listed(folder) if new else []
    return [name for name in new if not any((folder.root / name).is_relative_to(path) for path in found)]


def refuse_changes(root: Path, known: dict[str, str]) -> None:
    """What stands in its place is what stood there, and of a cube nothing is missing."""
    now = digests(root, *INPUTS, *NOTES)
    assert {name: digest for name, digest in now.items() if name in known and known[name] != digest} == {}
    lost = [name for name in known if name not in now]
    assert [
        name for name in lost if ".zarr/" in name and (root / (name.partition(".zarr/")[0] + ".zarr")).exists()
    ] == []


def kill_one(nursery: Nursery, folder: Folder, known: dict[str, str], stage: str, seed: int, listed: Listed) -> int:
    """Kill a stage at a moment that the seed says, look, and run it again; its first exit status."""
    rng = random.Random(f"{stage} {seed}")
    pair = next(path.name for path in (folder.root / "data/residual").iterdir())
    words = stage.replace("PAIR", pair).split()
    if rng.random() < 0.5:  # DVC removes outputs before it runs a stage, people do not
        for output in STAGES[stage]:
            path = folder.root / output.replace("PAIR", pair)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    kind, work = words[0].replace("-", "_"), 1.0
    if kind == "features":
        films = pd.read_csv(folder.root / "data/films.csv")
        work = float(films.loc[films["film"] == words[2], "rows"].sum())
    took_s = expected_s(read_timings(folder.root), kind, *(words[1:2] or [""]), work) or 2.0
    status = nursery.run(*words, "--study", str(folder.root), kill_after_s=rng.uniform(0, 1.1 * took_s))
    assert status in (0, -9), nursery.log.read_text()
    refuse_changes(folder.root, known)
    assert strays(folder, known, listed, ".cinecube/journal") == []
    nursery.must(*words, "--study", str(folder.root))
    again = digests(folder.root, *INPUTS, *NOTES)
    assert {name: again.get(name) for name in known} == known
    assert strays(folder, known, listed) == []
    assert list((nursery.log.parent / "tmp").iterdir()) == []
    return status


@pytest.mark.parametrize(
    "stage",
    [
        *("features vit amber", "brain sub-01", "ceiling", "residual-features PAIR", "encode vit", "whole-brain"),
        *(
            pytest.param(stage, marks=pytest.mark.long)
            for stage in ("films", "checkpoint vit", "features wav2vec2 dune", "partition", "significance")
        ),
    ],
)
def test_a_killed_stage_goes_on(
    stage: str, nursery: Nursery, scratch: Folder, reference: dict[str, str], listed: Listed
) -> None:
    kill_one(nursery, scratch, reference, stage, 0, listed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("stage", STAGES)
def test_killed_stages_go_on(
    stage: str, seed: int, nursery: Nursery, scratch: Folder, reference: dict[str, str], listed: Listed
) -> None:
    kill_one(nursery, scratch, reference, stage, seed, listed)


@pytest.mark.long
def test_killed_simulations_begin_anew(nursery: Nursery, tmp_path: Path, listed: Listed) -> None:
    folder = make_small(tmp_path / "study", subjects=1, segment_s=12)
    words = ("simulate", "--study", str(folder.root))
    nursery.must(*words)
    known, took_s = digests(folder.root, *NOTES), expected_s(read_timings(folder.root), "simulate", "") or 0.0
    rng = random.Random(0)
    for _ in range(4):
        assert nursery.run(*words, kill_after_s=rng.uniform(0, took_s)) in (0, -9)
        now = digests(folder.root, *NOTES)
        assert {name: now[name] for name in known if name in now} == {
            name: digest for name, digest in known.items() if name in now
        }
        found = listed(folder)
        assert not [n for n in now if n not in known and not any((folder.root / n).is_relative_to(p) for p in found)]
    nursery.must(*words)
    assert {name: digests(folder.root, *NOTES)[name] for name in known} == known


def kill_import(nursery: Nursery, root: Path, there: Path, known: dict[str, str], after_s: float) -> int:
    """Kill an import, and run it again. DVC lays a cube's files one by one: what stands there meanwhile is no cube."""
    words = ("import", str(there), "--model", MODEL, "--remote", "http", "--study", str(root))
    status = nursery.run(*words, kill_after_s=after_s)
    assert status in (0, -9), nursery.log.read_text()
    if status:
        nursery.must(*words)
    refuse_damage(root)
    now = digests(root, *NOTES)
    assert {name: now.get(name) for name in known} == known
    assert [name for name in now if name not in known] == []
    return status


def _copy(root: Path, to: Path) -> Path:
    return shutil.copytree(root, to, symlinks=True)


@pytest.fixture
def imported(nursery: Nursery, published: Published, mine: Path, tmp_path: Path) -> tuple[Path, dict[str, str], float]:
    """A repository to import from, what an import leaves that nobody disturbs, and the seconds it takes."""
    there = published.clone(tmp_path / "there", "http")
    whole = _copy(mine, tmp_path / "whole")
    took_s = nursery.must("import", str(there), "--model", MODEL, "--remote", "http", "--study", str(whole))
    return there, digests(whole, *NOTES), took_s


def test_a_killed_import_goes_on(
    nursery: Nursery, mine: Path, imported: tuple[Path, dict[str, str], float], tmp_path: Path
) -> None:
    there, known, took_s = imported
    for number, part in enumerate((0.3, 0.6)):
        kill_import(nursery, _copy(mine, tmp_path / str(number)), there, known, part * took_s)


def test_a_killed_import_leaves_the_parameters_as_they_were(
    nursery: Nursery, published: Published, mine: Path, tmp_path: Path
) -> None:
    """Of a model that the study does not compute; the next import, or `clean`, removes what had come."""
    drop_model(mine)
    before = (mine / "params.yaml").read_bytes()
    words = (
        "import",
        str(published.clone(tmp_path / "there", "http")),
        "--model",
        MODEL,
        "--remote",
        "http",
        "--study",
    )
    took_s, in_the_middle = nursery.must(*words, str(_copy(mine, tmp_path / "whole"))), 0
    for number in range(2, 10):
        root = _copy(mine, tmp_path / str(number))
        if nursery.run(*words, str(root), kill_after_s=number / 10 * took_s):
            killed, in_the_middle = root, in_the_middle + any(root.glob("data/features/*/*.zarr*"))
            assert (root / "params.yaml").read_bytes() == before
    assert in_the_middle
    nursery.must(*words, str(killed))


@pytest.mark.long
def test_killed_imports_go_on_or_are_undone(
    nursery: Nursery, mine: Path, imported: tuple[Path, dict[str, str], float], tmp_path: Path, listed: Listed
) -> None:
    there, known, took_s = imported
    rng = random.Random(0)
    before = digests(mine, *NOTES)
    for number in range(20):
        root = _copy(mine, tmp_path / str(number))
        kill_import(nursery, root, there, known, rng.uniform(0, took_s))
    undone = 0
    for number in range(20, 32):
        root = _copy(mine, tmp_path / str(number))
        words = ("import", str(there), "--model", MODEL, "--remote", "http", "--study", str(root))
        if nursery.run(*words, kill_after_s=rng.uniform(0, took_s)):
            notes = [path for path in listed(Folder(root)) if path.parent.name == "imports"]
            assert len(notes) == (StudyPaths(root).imports / f"{MODEL}.json").is_file()
            undone += len(notes)
            Folder(root).must("clean", "--yes")
            now = {name: digest for name, digest in digests(root, *NOTES).items() if not name.endswith(".gitignore")}
            assert now == before
    assert undone


@pytest.mark.long
def test_killed_pulls_go_on(nursery: Nursery, published: Published, tmp_path: Path, listed: Listed) -> None:
    def words(root: Path) -> tuple[str, ...]:
        return ("pull", "--model", MODEL, "--film", "amber", "--film", "dune", "--study", str(root))

    def cached(root: Path) -> dict[str, str]:
        return digests(root / ".dvc/cache")

    whole = published.clone(tmp_path / "whole", "http")
    took_s = nursery.must(*words(whole))
    rng, killed = random.Random(0), 0
    for number in range(8):
        root = published.clone(tmp_path / str(number), "http")
        killed += nursery.run(*words(root), kill_after_s=rng.uniform(0, took_s)) != 0
        known, found = cached(whole), listed(Folder(root))
        for name, digest in cached(root).items():
            path = root / ".dvc/cache" / name
            assert known.get(name) == digest or any(path.is_relative_to(one) for one in found)
        nursery.must(*words(root))
        Folder(root).must("clean", "--yes")
        assert cached(root) == known
    assert killed


@pytest.mark.long
def test_killed_additions_go_on(nursery: Nursery, scratch: Folder, tmp_path: Path, listed: Listed) -> None:
    films = pd.read_csv(scratch.root / "data/films.csv")
    labels = pd.DataFrame(
        [(row.segment, i * 1.49) for row in films.itertuples() for i in range(row.rows)], columns=["segment", "onset_s"]
    )
    labels.to_csv(tmp_path / "rows.csv", index=False)
    np.save(tmp_path / "loud.npy", np.random.default_rng(0).standard_normal((len(labels), 3)))

    def words(folder: Folder) -> tuple[str, ...]:
        own: Any = ("--model", "loud", "--rows", str(tmp_path / "rows.csv"), "--study", str(folder.root))
        return ("add", str(tmp_path / "loud.npy"), *own)

    whole = scratch.copy(tmp_path / "whole")
    took_s = nursery.must(*words(whole))
    known = digests(whole.root, *INPUTS, *NOTES)
    rng, killed = random.Random(0), 0
    for number in range(8):
        folder = scratch.copy(tmp_path / str(number))
        killed += nursery.run(*words(folder), kill_after_s=rng.uniform(0, took_s)) != 0
        refuse_damage(folder.root)
        yaml.safe_load((folder.root / "params.yaml").read_text())
        assert strays(folder, known, listed) == []
        nursery.must(*words(folder))
        now = digests(folder.root, *INPUTS, *NOTES)
        assert {name: now.get(name) for name in known} == known
    assert killed
