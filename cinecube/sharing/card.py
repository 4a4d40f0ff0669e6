"""The study's card: one static page that says what its store holds, where it comes from and how to use and cite it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cinecube.features.extraction.checkpoint import is_non_commercial
from cinecube.sharing.citing import Citation, package_citation, study_citation
from cinecube.sharing.origin import Origin
from cinecube.sharing.privacy import Share
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import data_name, open_cube
from cinecube.store.cube.schema import stored_rows
from cinecube.store.params.document import Study
from cinecube.wording import size_text

NOT_STATED = "not stated"

# How a network was read, in the field's words; what is not set is left out.
_READING = {
    "extractor": "network",
    "source": "features",
    "checkpoint": "checkpoint",
    "revision": "revision",
    "weights_digest": "weights, SHA-256 begins",
    "untrained": "fresh weights, seed",
    "keep": "what is kept",
    "remove": "what is removed from it",
    "by": "removed by",
    "frames_per_window": "frames per window",
    "sampling": "frames of a window",
    "frame_pooling": "frames pooled by",
    "pooling": "tokens pooled by",
    "final_norm": "last block read after the final norm",
    "rate_hz": "sound sampled at",
    "window_s": "window",
    "stride_s": "a window every",
    "resample": "windows made rows by",
    "context_s": "look-back before a window",
    "precision": "precision in the network",
    "compat": "repeats the errors of",
}
_UNITS = {"_s": "s", "_hz": "Hz"}
_SHOWN_LAYERS = 4
# Letters of a hash; enough to distinguish two.
_DIGITS = 12


@dataclass(frozen=True)
class _Cube:
    """The labels of one cube on disk."""

    name: str
    labels: xr.Dataset

    @property
    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = json.loads(self.labels.attrs.get("spec", "{}"))
        return spec

    @property
    def fingerprint(self) -> str:
        return str(self.labels.attrs.get("fingerprint", ""))[:_DIGITS]

    @property
    def versions(self) -> dict[str, str]:
        versions: dict[str, str] = json.loads(self.labels.attrs.get("created_by", "{}"))
        return versions

    @property
    def rows(self) -> int:
        return int(self.labels.sizes["time"])

    @property
    def n_bytes(self) -> int:
        """Bytes of its numbers, whether they are here or not."""
        return stored_rows(self.rows) * int(self.labels["width"].sum()) * self.labels["features"].dtype.itemsize


def render_card(study: Study, root: Path, origin: Origin, shared: Sequence[Share] = ()) -> str:
    """The page as HTML; everything that comes from files is escaped. Reads labels only.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    origin : Origin
        Where others find the study.
    shared : sequence of Share
        What its remote holds, and what stays with its authors.

    Returns
    -------
    str

    Raises
    ------
    StudyError
        If the store holds no feature cube, or a cube or CITATION.cff cannot be read.
    """
    import jinja2

    paths = StudyPaths(root)
    found = _features(paths, paths.data / "features")
    known = [name for name in (*study.encoded, *study.models) if name in found]
    models = {name: found[name] for name in (*known, *found)}
    if not models:
        raise StudyError(
            where=paths.relative(paths.data / "features"),
            found="no feature cube",
            expected="cubes to write of",
            do="make them with `dvc repro`, or fetch them with `dvc pull`",
        )
    residual = _features(paths, paths.data / "residual")
    brains, scores = _cubes(paths, paths.data / "brain"), _cubes(paths, paths.results / "scores")
    every = [*(cube for cubes in (*models.values(), *residual.values()) for cube in cubes), *brains, *scores]
    versions = _versions(every)
    text = files("cinecube").joinpath("templates", "card.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(text).render(
        study=study,
        lead=_lead(study, models, brains),
        films=_films(study, models),
        models=[_model(study, name, cubes, origin) for name, cubes in models.items()],
        residual=[_model(study, name, cubes, origin) for name, cubes in residual.items()],
        brains=[_brain(cube) for cube in brains],
        scores=[_scores(cube) for cube in scores],
        shared=[
            {
                "place": share.place,
                "bytes": size_text(share.n_bytes),
                "where": "with the authors" if share.stays else "in the remote",
            }
            for share in shared
        ],
        python_lines=_python_lines(origin, next(iter(models))),
        citations=_citations(root, versions),
        versions=versions,
    )


def _features(paths: StudyPaths, folder: Path) -> dict[str, list[_Cube]]:
    """Feature cubes on disk, by model."""
    return {
        place.name: cubes
        for place in (sorted(folder.iterdir()) if folder.is_dir() else [])
        if not place.name.startswith(".") and (cubes := _cubes(paths, place, "features"))
    }


def _cubes(paths: StudyPaths, folder: Path, holds: str | None = None) -> list[_Cube]:
    found = []
    for path in sorted(folder.glob("*.zarr")):
        if not path.name.startswith("."):
            labels = open_cube(path, where=paths.relative(path), complete=False)
            if holds is None or data_name(labels) == holds:
                found.append(_Cube(path.stem, labels))
    return found


def _lead(study: Study, models: Mapping[str, Sequence[_Cube]], brains: Sequence[_Cube]) -> str:
    size = size_text(sum(cube.n_bytes for cubes in models.values() for cube in cubes))
    films = {cube.name for cubes in models.values() for cube in cubes}
    people = f", and responses of {_count(len(brains), 'subject')}" if brains else ""
    return (
        f"Features of {_count(len(models), 'model')} for {_count(len(films), 'film')}, {size}{people}. "
        f"A row is {study.clock.window_s:g} s of film; rows begin every {study.clock.tr_s:g} s."
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


def _films(study: Study, models: Mapping[str, Sequence[_Cube]]) -> list[dict[str, Any]]:
    """Rows of every film and of its segments, by the first cube of it."""
    cubes = {cube.name: cube for own in reversed(list(models.values())) for cube in own}
    rows = []
    for film in [*study.films, *sorted(set(cubes) - set(study.films))]:
        count: dict[str, int] = {}
        for segment in cubes[film].labels["segment"].values if film in cubes else ():
            count[str(segment)] = count.get(str(segment), 0) + 1
        names = study.films.get(film, list(count))
        split = [key for key in ("train", "test") if film in getattr(study.split, key)]
        rows.append(
            {
                "name": film,
                "segments": ", ".join(f"{name}\u00a0({count[name]})" if name in count else name for name in names),
                "rows": f"{sum(count.values()):,}" if count else "no cube here",
                "split": ", ".join(split),
            }
        )
    return rows


def _model(study: Study, name: str, cubes: Sequence[_Cube], origin: Origin) -> dict[str, Any]:
    first = cubes[0]
    licences = list(dict.fromkeys(str(cube.labels.attrs.get("licence") or NOT_STATED) for cube in cubes))
    missing = [film for film in study.films if film not in {cube.name for cube in cubes}]
    return {
        "name": name,
        "licence": ", ".join(licences),
        "non_commercial": any(map(is_non_commercial, licences)),
        "limits": _limits(licences),
        "dtype": str(first.labels["features"].dtype),
        "bytes": size_text(sum(cube.n_bytes for cube in cubes)),
        "streams": _streams(first.labels),
        "reading": _reading(first.spec),
        "preprocessing": _plain(first.spec.get("preprocessing")),
        "films": [
            {
                "name": cube.name,
                "rows": f"{cube.rows:,}",
                "bytes": size_text(cube.n_bytes),
                "fingerprint": cube.fingerprint,
            }
            for cube in cubes
        ],
        "missing": ", ".join(missing),
        "mixed": len({json.dumps(_reading(cube.spec)) for cube in cubes}) > 1,
        "made_by": ", ".join(f"{package} {version}" for package, version in _versions(cubes)),
        "import_line": f"cinecube import {_repository(origin)} --model {shlex.quote(name)} --rev {_revision(origin)}",
    }


def _limits(licences: Sequence[str]) -> str:
    if any(map(is_non_commercial, licences)):
        return "non-commercial use only"
    return "ask the authors of this study" if NOT_STATED in licences else "see the licence"


def _streams(labels: xr.Dataset) -> list[dict[str, str]]:
    """Layers and widths of each stream."""
    rows = []
    for m, stream in enumerate(labels["model"].values):
        width = labels["width"].values[m]
        layers = [str(labels["layer"].values[k]) for k in np.flatnonzero(width > 0)]
        few = len(layers) <= _SHOWN_LAYERS
        rows.append(
            {
                "name": str(stream),
                "layers": ", ".join(layers) if few else f"{layers[0]}, {layers[1]} … {layers[-1]}",
                "count": str(len(layers)),
                "widths": ", ".join(str(own) for own in sorted({int(own) for own in width if own > 0})),
            }
        )
    return rows


def _reading(spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Reading of a network: words and values."""
    found = [(words, _value(key, spec[key])) for key, words in _READING.items() if _is_set(key, spec.get(key))]
    if spec.get("weights_digest") and not spec.get("checkpoint"):
        found.insert(1, ("checkpoint", "of no hub; see the digest of its weights"))
    return found


def _is_set(key: str, value: Any) -> bool:
    # 0 is a seed, and else what a network does not do.
    return value is not None and value is not False and (value != 0 or key == "untrained")


def _value(key: str, value: Any) -> str:
    if value is True:
        return "yes"
    if key == "weights_digest":
        return str(value)[:_DIGITS]
    unit = next((unit for suffix, unit in _UNITS.items() if key.endswith(suffix)), "")
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{shown} {unit}".strip()


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) if value else ""


def _brain(cube: _Cube) -> dict[str, Any]:
    attrs = cube.labels.attrs
    return {
        "subject": cube.name,
        "space": str(attrs.get("space", "")),
        "targets": f"{cube.labels.sizes['target']:,} {attrs.get('targets', 'targets')}",
        "rows": f"{cube.rows:,}",
        "fingerprint": cube.fingerprint,
    }


def _scores(cube: _Cube) -> dict[str, Any]:
    sizes = cube.labels.sizes
    return {
        "name": cube.name,
        "streams": ", ".join(str(name) for name in cube.labels["model"].values) if "model" in cube.labels else "",
        "subjects": str(sizes.get("subject", "")),
        "layers": str(sizes.get("layer", "")),
        "targets": f"{sizes.get('target', 0):,}",
        "fingerprint": cube.fingerprint,
    }


def _versions(cubes: Iterable[_Cube]) -> list[tuple[str, str]]:
    """Packages with the versions that made the cubes."""
    found: dict[str, set[str]] = {}
    for cube in cubes:
        for package, version in cube.versions.items():
            found.setdefault(str(package), set()).add(str(version))
    return [(package, ", ".join(sorted(own))) for package, own in sorted(found.items())]


def _citations(root: Path, versions: Sequence[tuple[str, str]]) -> list[Citation]:
    own, package = study_citation(root), package_citation(dict(versions).get("cinecube", ""))
    return [package] if own is None else [own, package]


def _python_lines(origin: Origin, model: str) -> str:
    url, rev, name = (
        json.dumps(text, ensure_ascii=False) for text in (origin.url or "REPO", origin.rev or "REV", model)
    )
    return f"import cinecube as cc\nstudy = cc.open({url}, rev={rev})\nstudy.features(model={name})"


def _repository(origin: Origin) -> str:
    return shlex.quote(origin.url or "REPO")


def _revision(origin: Origin) -> str:
    return shlex.quote(origin.rev or "REV")
