"""The versions of what computes results: pipelines of studies that hold no code depend on them in its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cinecube import simulation
from cinecube.analysis import ceilings, encoders, partition, regions, report, residuals, significance, truth, weights
from cinecube.features import films
from cinecube.features.networks import READING_VERSION
from cinecube.features.networks.registry import network_version
from cinecube.store import scans
from cinecube.store.base.atomic import write_text
from cinecube.store.base.fingerprint import differences
from cinecube.store.base.paths import StudyPaths
from cinecube.store.params.document import BrainParams, Study

Versions = Mapping[str, Mapping[str, Any]]
_OPTIONAL = ("choose", "detrend", "meshes", "surface", "tasks")


def study_versions(study: Study) -> Versions:
    """Versions with which this installation computes a study's results.

    Returns
    -------
    Mapping
        Kind of result -> folder of code -> its version; of `networks` model -> its network's version, and that of
        decoding and windows.

    Raises
    ------
    StudyError
        If `params.yaml` names an extractor that there is not.
    """
    networks = {model: study.model(model).extractor for model in study.compute.models}
    return {
        "brain": {"scans": scans.VERSION, **_settings(study.brain)},
        "ceiling": ceilings.VERSIONS,
        "films": films.VERSIONS,
        "networks": {
            model: {"network": network_version(name, f"models.{model}.extractor"), "reading": READING_VERSION}
            for model, name in networks.items()
        },
        "partition": partition.VERSIONS,
        "regions": regions.VERSIONS,
        "report": {"report": report.VERSION},
        "residual_features": {"residuals": residuals.VERSION, **residuals.SHARED_VERSIONS},
        "residual_tables": {"tables": residuals.TABLES_VERSION, **regions.VERSIONS},
        "scores": encoders.VERSIONS,
        "significance": significance.VERSIONS,
        "simulation": {"simulation": simulation.VERSION},
        "truth": truth.VERSIONS,
        "weights": weights.VERSIONS,
    }


def _settings(brain: BrainParams) -> dict[str, Any]:
    """Keys that no pipeline can name: `params.yaml` may lack them, and DVC refuses a parameter that is not there."""
    fields = {name: BrainParams.model_fields[name] for name in _OPTIONAL}
    chosen = {name: getattr(brain, name) for name, field in fields.items()}
    chosen = {
        name: value for name, value in chosen.items() if value != fields[name].get_default(call_default_factory=True)
    }
    return {"settings": chosen} if chosen else {}


def write_versions(study: Study, root: Path) -> Versions:
    """Write the versions to `data/versions.json`, on which the other stages depend, and return them.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    """
    versions = study_versions(study)
    write_text(StudyPaths(root).versions, json.dumps(versions, indent=1, sort_keys=True) + "\n")
    return versions


def differing(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Name the fields in which two specs differ, as `differences` does; versions in words.

    Parameters
    ----------
    stored, asked : Mapping
        Specs.
    """
    versions = told_apart(stored.get("version"), asked.get("version"))
    return [*filter(None, [versions]), *differences({**stored, "version": None}, {**asked, "version": None})]


def _said(versions: Mapping[str, Any]) -> str:
    return json.dumps(versions.get("settings") or "as by default", sort_keys=True)


def told_apart(stored: Any, asked: Any) -> str:
    """Differences of the versions that made a result from this installation's, in words; empty if there are none.

    Parameters
    ----------
    stored, asked : Mapping or None
        Folder of code -> version; None where a result says none, as those of earlier versions do. A folder that is not
        among them is at version 1.
    """
    if stored == asked:
        return ""
    if not isinstance(stored, Mapping):
        return "it is of an older version of cinecube, which did not record its own"
    asked = asked or {}
    if stored.get("settings") != asked.get("settings"):
        return f"brain: {', '.join(_OPTIONAL)} were {_said(stored)}, here {_said(asked)}"
    both = {name: (stored.get(name, 1), asked.get(name, 1)) for name in sorted({*stored, *asked})}
    changed = {name: pair for name, pair in both.items() if pair[0] != pair[1]}
    if not changed:
        return ""
    older = all(isinstance(before, int) and before < now for before, now in changed.values())
    age = "an older" if older else "another"
    named = ", ".join(f"{name} {before}, here {now}" for name, (before, now) in changed.items())
    return f"it is of {age} version of cinecube ({named})"
