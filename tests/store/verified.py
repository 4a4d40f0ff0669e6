"""Small cubes of every kind, as the writer writes them, and ways to break them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from cinecube.store.cube.cubes import write_cube, write_feature_cube
from cinecube.store.cube.schema import DIMS, Stream, feature_template, provenance, rows_index, string_coordinate

N_TARGETS, ROWS = 6, (30, 20)
SPEC = {"dtype": "float32", "layers": ["embed", "block01", "head"], "segments": ["a01", "a02"], "weights": "abc"}
STREAMS = (Stream("m.video", ["embed", "block01", "head"], [12, 12, 6]), Stream("m.audio", ["embed"], [6]))
SHARD = "features/c/0/0/0/1"
PLACE = {"space": "MNI", "tr_s": 1.49}
GRID = {"targets": "voxels", "affine": json.dumps(np.eye(4).tolist()), "shape": "[99, 9, 9]"}


def write_features(path: Path, spec: dict[str, Any] | None = None, seed: int = 0, licence: str = "MIT") -> Path:
    rows = rows_index({f"a{i + 1:02d}": np.arange(n) * 1.49 for i, n in enumerate(ROWS)})
    attrs = provenance("features", spec or SPEC, ["numpy"], licence=licence)
    template = feature_template(rows, 1.49, STREAMS, "float32", attrs)
    width = template["width"].values

    def values(m: int, k: int) -> np.ndarray:
        return np.random.default_rng([seed, m, k]).standard_normal((len(rows), width[m, k])).astype(np.float32)

    write_feature_cube(path, template, values)
    return path


def _targets() -> dict[str, Any]:
    names = {name: ("target", string_coordinate(["x"] * N_TARGETS)) for name in ("hemi", "parcel")}
    return {
        "target": np.arange(10, 10 + N_TARGETS, dtype=np.int64),
        **names,
        **{f"{axis}_mm": ("target", np.arange(N_TARGETS, dtype=float)) for axis in "xyz"},
    }


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def write_brain(path: Path) -> Path:
    n_rows = sum(ROWS)
    cube = xr.Dataset(
        {"bold": (DIMS["bold"], _random(n_rows, N_TARGETS))},
        coords={
            "segment": ("time", string_coordinate(np.repeat(["a01", "a02"], ROWS))),
            "repeat": ("time", np.ones(n_rows, np.int32)),
            "session": ("time", string_coordinate(["001"] * n_rows)),
            "onset_s": ("time", np.concatenate([np.arange(n) * 1.49 for n in ROWS])),
            **_targets(),
        },
        attrs=provenance("brain", {"subject": "sub-01"}, [], **PLACE, **GRID),
    )
    write_cube(path, cube)
    return path


def write_scores(path: Path) -> Path:
    sizes = {"subject": 2, "model": 1, "layer": 2, "target": N_TARGETS}
    cube = xr.Dataset(
        {name: (DIMS["score"], _random(*sizes.values())) for name in ("score", "cv_score", "alpha")}
        | {"lag_score": (("subject", "model", "lag", "target"), _random(2, 1, 3, N_TARGETS))},
        coords={
            "subject": string_coordinate(["sub-01", "sub-02"]),
            "model": string_coordinate(["vit"]),
            "layer": string_coordinate(["embed", "block01"]),
            "depth": (("model", "layer"), np.array([[0.0, 1.0]])),
            "lag": np.arange(3, dtype=np.int32),
            **_targets(),
        },
        attrs=provenance("scores", {"models": ["vit"]}, [], **PLACE),
    )
    write_cube(path, cube)
    return path


def write_ceiling(path: Path) -> Path:
    names = ("cross_subject", "cross_subject_low", "cross_subject_high", "repeats", "repeats_low", "repeats_high")
    names += ("explainable_variance", "split_half")
    variables: dict[str, Any] = {name: (("subject", "target"), _random(2, N_TARGETS)) for name in names}
    variables["cross_subject_converged"] = (("subject", "target"), np.ones((2, N_TARGETS), bool))
    variables["cross_subject_score"] = (("subject", "size", "target"), _random(2, 1, N_TARGETS))
    coords = {"subject": string_coordinate(["sub-01", "sub-02"]), "size": np.array([1], np.int32), **_targets()}
    write_cube(path, xr.Dataset(variables, coords=coords, attrs=provenance("ceiling", {}, [], **PLACE)))
    return path


def write_significance(path: Path) -> Path:
    variables = {name: (("subject", "model", "target"), _random(1, 1, N_TARGETS)) for name in ("score", "p", "q")}
    coords = {"subject": string_coordinate(["sub-01"]), "model": string_coordinate(["vit"]), **_targets()}
    attrs = provenance("significance", {}, [], space="MNI", block_rows="{}")
    write_cube(path, xr.Dataset(variables, coords=coords, attrs=attrs))
    return path


def write_empty(path: Path) -> Path:
    """What a study without sets has as its partition."""
    write_cube(path, xr.Dataset(attrs=provenance("partition", {"sets": []}, ())))
    return path


KINDS: dict[str, Callable[[Path], Path]] = {
    "features": write_features,
    "brain": write_brain,
    "scores": write_scores,
    "ceiling": write_ceiling,
    "significance": write_significance,
    "partition": write_empty,
}


def files(cube: Path) -> dict[str, bytes]:
    found = (file for file in sorted(cube.rglob("*")) if file.is_file())
    return {file.relative_to(cube).as_posix(): file.read_bytes() for file in found}


def flip(file: Path, at: int | None = None, with_: int = 0xFF) -> None:
    """Flip a byte where it stands: of a hard link, in all of its names."""
    mode = file.stat().st_mode
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[len(data) // 3 if at is None else at] ^= with_
    with file.open("r+b") as opened:
        opened.write(bytes(data))
    os.chmod(file, mode)


def relabel(cube: Path, name: str, values: Any) -> None:
    """Write values as a program would: with right checksums."""
    made = np.asarray(values, dtype=object if isinstance(np.ravel(values)[0], str) else None)
    with zarr.config.set({"array.write_empty_chunks": True}):
        zarr.open_group(cube, mode="r+", use_consolidated=False)[name][...] = made  # type: ignore[index]


def edit_root(cube: Path, change: Callable[[dict[str, Any]], object]) -> None:
    root = json.loads((cube / "zarr.json").read_text(encoding="utf-8"))
    change(root)
    (cube / "zarr.json").unlink()
    (cube / "zarr.json").write_text(json.dumps(root), encoding="utf-8")


def track(root: Path, remote: Path | None, cache_type: str = "copy") -> None:
    """Let DVC track the cubes of a folder, and push them."""
    from dvc.repo import Repo

    with Repo.init(str(root), no_scm=True) as repo, repo.config.edit() as config:
        config["cache"]["type"] = cache_type
        config["core"]["analytics"] = False
        if remote:
            config["remote"]["store"] = {"url": str(remote)}
            config["core"]["remote"] = "store"
    with Repo(str(root)) as repo, chdir(root):
        repo.add([path.relative_to(root).as_posix() for path in sorted(root.rglob("*.zarr"))])
        if remote:
            repo.push()
