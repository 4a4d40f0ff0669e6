"""Summaries of studies and cubes, as text and as HTML that shows names as they are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd
import xarray as xr

from cinecube.store.base.errors import StudyError
from cinecube.store.params.document import Study

_SHOWN = 12
_FINGERPRINT = 12


@dataclass(frozen=True)
class Summary:
    """Contents of a cube, and where they come from; from `describe`. A notebook shows them as a table.

    Attributes
    ----------
    facts : dict of str to str
        In words.
    """

    facts: dict[str, str]

    def __repr__(self) -> str:
        """A line for each fact."""
        longest = max(map(len, self.facts), default=0)
        return "\n".join(f"{name:<{longest}}  {text}" for name, text in self.facts.items())

    def _repr_html_(self) -> str:
        return _table(pd.DataFrame({"what": self.facts.keys(), "": self.facts.values()}))


def describe(cube: xr.Dataset | xr.DataArray) -> Summary:
    """Say what is in a cube: models, layers, films by their segments, rows, and provenance.

    Parameters
    ----------
    cube : Dataset or DataArray
        Of any kind, or a part of one; values are not read.

    Returns
    -------
    Summary

    Raises
    ------
    StudyError
        If it is no cube.
    """
    if not isinstance(cube, xr.Dataset | xr.DataArray):
        raise StudyError(
            where="describe",
            found=repr(cube),
            expected="a cube that is open, a Dataset or DataArray",
            do='open it first, as in `study.scores("vit")`',
        )
    sizes = {str(dim): size for dim, size in cube.sizes.items()}
    facts = {"axes": ", ".join(f"{size} {dim}" for dim, size in sizes.items()) or "a single value"}
    if isinstance(cube, xr.Dataset):
        facts["variables"] = ", ".join(map(str, cube.data_vars))
    for axis in ("model", "layer", "subject", "parcel"):
        if axis in cube.coords:
            facts[axis] = _listed([str(label) for label in cube[axis].values.ravel()])
    if "segment" in cube.coords:
        rows = pd.Series([str(name) for name in cube["segment"].values.ravel()]).value_counts(sort=False)
        facts["segments"] = _listed([f"{name} ({count} rows)" for name, count in rows.items()])
    facts |= _provenance(cube.attrs)
    return Summary(facts)


def _provenance(attrs: Any) -> dict[str, str]:
    facts = {name: str(attrs[name]) for name in ("kind", "licence", "space", "tr_s") if name in attrs}
    if "fingerprint" in attrs:
        facts["fingerprint"] = str(attrs["fingerprint"])[:_FINGERPRINT]
    versions = _object(attrs.get("created_by"))
    if versions:
        facts["made by"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    return facts


def _object(text: Any) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _listed(names: list[str]) -> str:
    unique = list(dict.fromkeys(filter(None, names)))  # outside all parcels a label is empty
    return ", ".join(unique[:_SHOWN]) + (f", … ({len(unique)} in all)" if len(unique) > _SHOWN else "")


def study_page(study: Study, cubes: pd.DataFrame) -> str:
    """A study and its cubes as HTML.

    Parameters
    ----------
    study : Study
    cubes : DataFrame
        From `AnalysedStudy.contents`.

    Returns
    -------
    str
    """
    lines = [
        f"{len(study.brain.subjects)} subjects: {_listed(study.brain.subjects)}",
        f"trained on {', '.join(study.split.train)}; tested on {', '.join(study.split.test)}",
        f"a TR of {study.clock.tr_s:g} s; space {study.brain.space}",
    ]
    page = [f"<h3>Study {escape(study.study)}</h3>", *(f"<p>{escape(line)}</p>" for line in lines)]
    if cubes.empty:
        return "".join([*page, "<p>No cubes are here.</p>"])
    features = cubes[cubes["kind"] == "features"]
    if not features.empty:
        page += ["<h4>Features</h4>", _table(_by_model(features))]
    others = cubes[cubes["kind"] != "features"]
    if not others.empty:
        shown = others.assign(fingerprint=others["fingerprint"].astype(str).str[:_FINGERPRINT])
        page += ["<h4>Other cubes</h4>", _table(shown[["kind", "name", "axes", "path", "fingerprint"]])]
    return "".join(page)


def _by_model(features: pd.DataFrame) -> pd.DataFrame:
    """A row per network: streams, layers, dims, and the films with their rows and fingerprints."""
    rows = []
    for model, own in features.groupby(features["path"].str.split("/").str[-2], sort=True):
        films = [
            f"{path.rpartition('/')[2].removesuffix('.zarr')} ({count:g} rows, {str(fingerprint)[:_FINGERPRINT]})"
            for path, count, fingerprint in zip(own["path"], own["time"], own["fingerprint"], strict=True)
        ]
        first = own.iloc[0]
        rows.append(
            {
                "network": model,
                "models": _listed(first["models"]),
                "layers": _listed(first["layers"]),
                "dims": f"{first['dim']:g}",
                "films": _listed(films),
            }
        )
    return pd.DataFrame(rows)


def _table(table: pd.DataFrame) -> str:
    with pd.option_context("display.max_colwidth", None):
        return str(table.to_html(index=False, escape=True, border=0))
