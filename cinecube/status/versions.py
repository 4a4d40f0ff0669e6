"""The versions of what computes results: pipelines of studies that hold no code depend on them in its place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
from cinecube.store.base.paths import PARAMS_FILE, StudyPaths
from cinecube.store.base.section import Section
from cinecube.store.params.document import Study

Versions = Mapping[str, Mapping[str, Any]]
# Keys that no pipeline can name: `params.yaml` may lack them, and DVC refuses a parameter that is not there.
_OF_BRAIN = ("choose", "detrend", "meshes", "surface", "tasks")
_OF_ENCODE = ("compat", "rows", "solver")
_OF_CEILING = ("approximate", "block_rows", "bootstraps", "compat", "curve", "seed")


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
    encode, rows = _settings(study.encode, _OF_ENCODE), _settings(study.encode, ("rows",))
    return {
        "brain": {"scans": scans.VERSION, **_settings(study.brain, _OF_BRAIN)},
        "ceiling": {**ceilings.VERSIONS, **_settings(study.ceiling, _OF_CEILING)},
        "films": films.VERSIONS,
        "networks": {
            model: {
                "network": network_version(name, f"{PARAMS_FILE}: models.{model}.extractor"),
                "reading": READING_VERSION,
            }
            for model, name in networks.items()
        },
        "partition": {**partition.VERSIONS, **rows},
        "partition_tables": {"tables": partition.TABLES_VERSION, **regions.VERSIONS},
        "regions": regions.VERSIONS,
        "report": {"report": report.VERSION},
        "residual_features": {"residuals": residuals.VERSION, **residuals.SHARED_VERSIONS},
        "residual_tables": {"tables": residuals.TABLES_VERSION, **regions.VERSIONS},
        "scores": {**encoders.VERSIONS, **encode},
        "significance": {**significance.VERSIONS, **encode},
        "simulation": {"simulation": simulation.VERSION},
        "truth": {**truth.VERSIONS, **rows},
        "weights": {**weights.VERSIONS, **encode},
    }


def _settings(section: Section, names: Sequence[str]) -> dict[str, Any]:
    """Optional keys of a section that decide numbers, where they are not the default, as JSON values."""
    defaults = {name: type(section).model_fields[name].get_default(call_default_factory=True) for name in names}
    chosen = [name for name, default in defaults.items() if getattr(section, name) != default]
    return {"settings": section.model_dump(mode="json", include=set(chosen))} if chosen else {}


def write_versions(study: Study, root: Path) -> Versions:
    """Write the versions to `data/versions.json`, on which the other stages depend, and return them.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Returns
    -------
    dict
        As `study_versions` returns it.
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

    Returns
    -------
    list of str
        By key; empty where they are the same.
    """
    versions = told_apart(stored.get("version"), asked.get("version"))
    return [*filter(None, [versions]), *differences({**stored, "version": None}, {**asked, "version": None})]


def _settings_apart(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Optional keys that differ, in words."""
    both = [versions.get("settings") or {} for versions in (stored, asked)]
    changed = sorted(name for name in {*both[0], *both[1]} if both[0].get(name) != both[1].get(name))
    said = ([json.dumps(known[name]) if name in known else "as by default" for known in both] for name in changed)
    return "; ".join(f"{name} was {before}, here {now}" for name, (before, now) in zip(changed, said, strict=True))


def told_apart(stored: Any, asked: Any) -> str:
    """Differences of the versions that made a result from this installation's, in words; empty if there are none.

    Parameters
    ----------
    stored, asked : Mapping or None
        Folder of code -> version; None where a result says none, as those of earlier versions do. A folder that is not
        among them is at version 1.

    Returns
    -------
    str
    """
    if stored == asked:
        return ""
    if not isinstance(stored, Mapping):
        return "it is of an older version of cinecube, which did not record its own"
    asked = asked or {}
    if stored.get("settings") != asked.get("settings"):
        return _settings_apart(stored, asked)
    both = {name: (stored.get(name, 1), asked.get(name, 1)) for name in sorted({*stored, *asked})}
    changed = {name: pair for name, pair in both.items() if pair[0] != pair[1]}
    if not changed:
        return ""
    older = all(isinstance(before, int) and before < now for before, now in changed.values())
    age = "an older" if older else "another"
    named = ", ".join(f"{name} {before}, here {now}" for name, (before, now) in changed.items())
    return f"it is of {age} version of cinecube ({named})"
