"""Is a cube whole: its labels, its shards, its bytes, its numbers, its fingerprint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from cinecube.store.cubes import data_name, missing_shards, open_cube
from cinecube.store.errors import StudyError
from cinecube.store.fingerprint import fingerprint
from cinecube.store.labels import layer_number
from cinecube.store.schema import DIMS


def find_cubes(path: Path) -> list[Path]:
    """All cubes at or under a path, sorted.

    Raises
    ------
    StudyError
        If there is no such folder, or the path is a file.
    """
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
        raise StudyError(where=str(path), found=found, expected="a cube or a folder of cubes", do="correct the path")
    if path.suffix == ".zarr":
        return [path]
    return sorted(
        cube for cube in path.rglob("*.zarr") if not any(part.startswith(".") for part in cube.relative_to(path).parts)
    )


def verify_cube(path: Path) -> list[str]:
    """Everything wrong with a cube, one line each; reads every byte of it.

    Returns
    -------
    list of str
        Empty if the cube is whole.
    """
    try:
        cube = open_cube(path, complete=False)
        problems = _fingerprint_problems(cube)
        kind = data_name(cube)
        if kind == "features":
            problems += _layer_label_problems(cube)
        if "onset_s" in cube.coords:
            problems += _row_problems(cube)
    except StudyError as error:
        return [str(error)]
    except Exception as error:  # a damaged chunk of labels raises whatever its codec raises
        return [f"{path}: labels cannot be read ({_first_line(error)})"]
    if kind == "features":
        missing = missing_shards(path, cube)
        problems += [f"no shard of {layer}" for layer in missing]
        problems += _feature_problems(cube, set(missing))
    else:
        problems += _value_problems(cube)
    return [f"{path}: {problem}" for problem in problems]


def _fingerprint_problems(cube: xr.Dataset) -> list[str]:
    spec, stated = cube.attrs.get("spec"), cube.attrs.get("fingerprint")
    if spec is None or stated is None:
        return ["no spec or no fingerprint"]
    real = fingerprint(json.loads(spec))
    return [] if real == stated else [f"fingerprint {stated[:12]} does not match its spec ({real[:12]})"]


def _layer_label_problems(cube: xr.Dataset) -> list[str]:
    problems = []
    if cube["features"].dims != DIMS["features"]:
        problems.append(f"dims {cube['features'].dims}, expected {DIMS['features']}")
    labels = [str(label) for label in cube["layer"].values]
    numbers = [number for label in labels if (number := layer_number(label)) is not None]
    if numbers != sorted(set(numbers)):
        problems.append(f"layers out of order: {', '.join(labels)}")
    return problems


def _row_problems(cube: xr.Dataset) -> list[str]:
    keys = [key for key in ("segment", "repeat") if key in cube.coords]
    rows = pd.DataFrame({key: cube[key].values for key in (*keys, "onset_s")})
    problems = []
    for name, run in rows.groupby(keys, sort=False):
        steps = np.diff(run["onset_s"].to_numpy())
        if (steps <= 0).any():
            label = " ".join(str(part) for part in name)
            problems.append(f"{label}: onsets overlap or are out of order after row {int(np.argmin(steps))}")
        if len(run) != run.index[-1] - run.index[0] + 1:
            problems.append(f"{' '.join(str(part) for part in name)}: rows do not stand together")
    return problems


def _feature_problems(cube: xr.Dataset, missing: set[str]) -> list[str]:
    problems = []
    for m, model in enumerate(cube["model"].values):
        for k, layer in enumerate(cube["layer"].values):
            width = int(cube["width"].values[m, k])
            if width == 0 or f"{model} {layer}" in missing:
                continue
            try:
                values = cube["features"].isel(model=m, layer=k).values
            except Exception as error:  # crc32c, a short shard and a bad index raise different classes
                problems.append(f"{model} {layer}: damaged ({_first_line(error)})")
                continue
            bad = int((~np.isfinite(values[:, :width])).sum())
            if bad:
                problems.append(f"{model} {layer}: {bad} values inside the width are NaN or infinite")
            if not np.isnan(values[:, width:]).all():
                problems.append(f"{model} {layer}: values past the width of {width}")
    return problems


def _value_problems(cube: xr.Dataset) -> list[str]:
    problems = []
    for name, variable in cube.data_vars.items():
        try:
            values = variable.values
        except Exception as error:  # as above
            problems.append(f"{name}: damaged ({_first_line(error)})")
            continue
        if name == "bold" and not np.isfinite(values).all():
            problems.append(f"{name}: {int((~np.isfinite(values)).sum())} values are NaN or infinite")
    return problems


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
