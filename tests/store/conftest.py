"""A small study whose feature cubes lie in remotes of every kind, each on a real server."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, chdir
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from cinecube.store.base.labels import layer_labels
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import write_feature_cube
from cinecube.store.cube.schema import Stream, feature_template, provenance, rows_index

from .scan_tree import Tree, make_tree
from .servers import SITES, Site, lacking

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL, FILMS = "vit", ("amber", "dune")
ROWS, DIMS, LAYERS = 1000, 64, 3
# A shard holds whole chunks of 512 rows, each with a checksum, and an index.
SHARD_BYTES = 1024 * DIMS * 4


# What `models` may ask for, of a network at its defaults.
SPEC: dict[str, object] = {
    "extractor": "vit",
    "pooling": "mean",
    "frame_pooling": "mean",
    "final_norm": False,
    "stride_s": None,
}
SPEC |= {"dtype": "float32", "precision": "float32", "untrained": None, "compat": None}
SPEC |= {"layers": layer_labels(LAYERS - 1)}


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True, env=env)
    return done.stdout.strip()


def values(film: str, layer: int) -> np.ndarray:
    """What the cubes hold, (time, dim)."""
    seed = 10 * FILMS.index(film) + layer
    return np.random.default_rng(seed).standard_normal((ROWS, DIMS)).astype(np.float32)


def write_cube_of(root: Path, film: str, **spec: object) -> None:
    rows = rows_index({f"{film}01": np.arange(ROWS) * 1.49})
    streams = [Stream(MODEL, layer_labels(LAYERS - 1), [DIMS] * LAYERS)]
    attrs = provenance("features", {"film": film, **spec}, ["zarr"])
    template = feature_template(rows, 1.49, streams, "float32", attrs)
    write_feature_cube(StudyPaths(root).features(MODEL, film), template, lambda m, k: values(film, k))


@dataclass(frozen=True)
class Published:
    """A study that somebody has pushed: a bare Git repository, and remotes."""

    root: Path
    bare: Path
    sites: dict[str, Site]

    def clone(self, to: Path, remote: str) -> Path:
        """A fresh clone that reads one of the remotes; without bytes."""
        git(to.parent, "clone", "-q", str(self.bare), to.name)
        config = f"[core]\n    remote = {remote}\n"
        (to / ".dvc" / "config.local").write_text(config)
        return to


PIPELINE = {
    "stages": {
        "features": {
            "matrix": {"film": list(FILMS)},
            "cmd": "echo this study is finished >&2; exit 1",
            "deps": ["params.yaml"],
            "outs": [f"data/features/{MODEL}/${{item.film}}.zarr"],
        }
    }
}


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    """Two cubes that stages made, pushed to every server that there is."""
    from dvc.repo import Repo

    base = tmp_path_factory.mktemp("published")
    root, bare = base / "study", base / "study.git"
    root.mkdir()
    shutil.copy(REPOSITORY / "params.yaml", root / "params.yaml")
    (root / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
    (root / ".gitignore").write_text("/data/features/*/*\n")
    for film in FILMS:
        write_cube_of(root, film, **SPEC)
    git(root, "init", "-q")
    with ExitStack() as stack:
        sites = {}
        for name, make in SITES.items():
            if lacking(name):
                continue
            (base / name).mkdir()
            sites[name] = stack.enter_context(make(base / name))
        with Repo.init(str(root)) as repo:
            with repo.config.edit() as config:
                for name, site in sites.items():
                    config["remote"][name] = dict(site.config)
                config["core"].update(remote=next(iter(sites)), autostage=False, analytics=False)
            with chdir(root):
                repo.commit(force=True)
            for name in sites:
                repo.push(remote=name)
        git(root, "add", "-A", ".")
        git(root, "commit", "-qm", "cubes")
        git(base, "clone", "-q", "--bare", str(root), str(bare))
        yield Published(root, bare, sites)


@pytest.fixture(params=list(SITES))
def site(request: pytest.FixtureRequest, published: Published) -> Iterator[Site]:
    """Each server in turn, whole."""
    if missing := lacking(request.param):
        pytest.skip(f"not installed: {missing}")
    found = published.sites[request.param]
    found.wire.reset()
    yield found
    found.wire.reset()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A tiny study of scans to spoil."""
    return make_tree(tmp_path / "study")


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The brain cube of that study unspoilt."""
    return make_tree(tmp_path_factory.mktemp("plain") / "study").cube()
