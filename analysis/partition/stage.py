"""The stage `partition`: what sets of streams explain alone and together, in every target of every subject."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from cinecube.analysis.cubes.parcels import regions
from cinecube.analysis.cubes.results import find_stream
from cinecube.analysis.encoders.oota2025 import without_choices
from cinecube.analysis.encoders.problem import make_settings, read_problem
from cinecube.analysis.partition import VERSIONS
from cinecube.analysis.partition.layers import choose_layers
from cinecube.analysis.partition.partition_fits import (
    SHARES,
    Best,
    Entry,
    Ground,
    candidates,
    count_work,
    fit_all,
)
from cinecube.analysis.partition.parts import Subset, inclusion_exclusion, part_labels, subsets
from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import canonical
from cinecube.store.base.journal import open_journal
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer
from cinecube.store.clock.clock import SAME_S
from cinecube.store.cube.cubes import write_cube
from cinecube.store.cube.schema import SCHEMA, provenance, string_coordinate
from cinecube.store.open.recorded import input_digests, last_run, stored_inputs
from cinecube.store.params.document import Study

if TYPE_CHECKING:
    from cinecube.analysis.cubes.rows import RowsGroup
    from cinecube.analysis.cubes.spaces import Responses
    from cinecube.store.jobs.tasks import Progress

_log = logging.getLogger(__name__)
_AXES = {"part_r2": "part", "r2": "subset", "split_r2": "space", "penalty": "space"}


def partition(study: Study, root: Path, progress: Progress | None = None) -> bool:
    """Partition the variance among each set of `partition`, and write a cube.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    progress : callable, optional
        Told `(fits done, fits in all)`.

    Returns
    -------
    bool
        Whether all sets were fitted, and none was left of the last run.

    Raises
    ------
    StudyError
        If a cube is missing, a stream is in none, streams differ in rows, or another process does the same.
    """
    from cinecube.store.jobs.tasks import open_workers

    root = root.absolute()  # a worker may run in another folder
    paths = StudyPaths(root)
    if not study.partition:
        with one_writer(paths, paths.partition):  # DVC expects a stage's output
            write_cube(paths.partition, xr.Dataset(attrs=provenance("partition", {"sets": []}, ())))
        return True
    study = without_choices(study)
    entries, brains = read_entries(study, root, choose_layers(study, root))
    spec = partition_spec(study, entries, brains)
    grounds = make_grounds(study, entries, brains)
    with (
        one_writer(paths, paths.partition),
        open_journal(paths.journals, spec, paths.relative(paths.partition)) as journal,
    ):
        window_s = _widest_window_s(entries)
        inputs = input_digests(study, root, list(spec["features"]))
        kept = kept_sets(study, last_run(paths, paths.partition), spec, inputs, window_s)
        tried = candidates(list(entries), [names for names in study.partition if _label(names) not in kept])
        with open_workers(study.dask, study.run.threads, count_work(tried, grounds), root) as workers:
            found = fit_all(entries, grounds, tried, workers, progress, journal)
        cube = partition_cube(study.partition, entries, brains, grounds, found, kept)
        write_cube(
            paths.partition,
            cube.assign_attrs(
                _attrs(study, spec, brains), widest_window_s=window_s, inputs=json.dumps(inputs, sort_keys=True)
            ),
        )
        journal.remove()
    if kept:
        _log.info("as the last run left them, since nothing of theirs has changed: %s", ", ".join(kept))
    return not kept


def kept_sets(
    study: Study, cube: xr.Dataset | None, spec: Mapping[str, Any], inputs: Mapping[str, Any], window_s: float
) -> dict[str, xr.Dataset]:
    """Sets of an earlier cube that would be the same now: their streams, layers, rows, folds and settings are.

    Parameters
    ----------
    study : Study
    cube : Dataset, optional
        Of an earlier run.
    spec : Mapping
        Of this one.
    inputs : Mapping
        From `input_digests`, of this run.
    window_s : float
        Seconds of the film that a row of the widest stream covers, on which the folds of all sets depend.

    Returns
    -------
    dict of str to Dataset
        Label of the set -> the cube there.
    """
    if cube is None or cube.attrs.get("widest_window_s") != window_s:
        return {}
    before, now = json.loads(str(cube.attrs["spec"])), json.loads(canonical(spec))
    of_sets, read = ("sets", "layers", "features"), stored_inputs(cube.attrs)
    if read["brain"] != inputs["brain"]:
        return {}
    if {**before, **dict.fromkeys(of_sets)} != {**now, **dict.fromkeys(of_sets)}:
        return {}
    owners = {stream: study.owner(stream) for stream in now["layers"]}
    same = {
        stream
        for stream, layer in now["layers"].items()
        if before["layers"].get(stream) == layer
        and read["features"].get(owners[stream]) == inputs["features"][owners[stream]]
    }
    names_of = {_label(names): names for names in now["sets"] if names in before["sets"]}
    return {label: cube.sel(set=label) for label, names in names_of.items() if same.issuperset(names)}


def _label(names: Sequence[str]) -> str:
    return " + ".join(names)


def _widest_window_s(entries: Mapping[str, Entry]) -> float:
    return max(entry.space.window_s for entry in entries.values())


def _attrs(study: Study, spec: Mapping[str, Any], brains: Mapping[str, Responses]) -> dict[str, Any]:
    from cinecube.analysis.cubes.spaces import check_same_space

    place = check_same_space(list(brains.values()))
    attrs = provenance("partition", spec, ("himalaya", "numpy"), **place, tr_s=study.clock.tr_s)
    return dict(sorted(attrs.items()))


def read_entries(study: Study, root: Path, layers: Mapping[str, str]) -> tuple[dict[str, Entry], dict[str, Responses]]:
    """Open the cubes of streams and all brain cubes, and match their rows.

    Parameters
    ----------
    study : Study
    root : Path
    layers : Mapping of str to str
        Stream -> its layer.

    Returns
    -------
    entries : dict of str to Entry
        By stream.
    brains : dict of str to Responses
        By subject.

    Raises
    ------
    StudyError
        If a cube is missing, lacks a stream or its layer, or streams differ in rows.
    """

    opened = {owner: read_problem(study, root, owner) for owner in dict.fromkeys(map(study.owner, layers))}
    first, lead = next(iter(opened.items()))
    entries = {}
    for stream, layer in layers.items():
        owner = study.owner(stream)
        space, groups = opened[owner].space, opened[owner].groups
        _refuse_other_rows(owner, groups, first, lead.groups)
        m = find_stream(space.models, stream, f"features of {owner}", "partition")
        if layer not in space.layers or not space.width[m, space.layers.index(layer)]:
            raise StudyError(
                where=f"features of {owner}",
                found=f"no layer {layer} of {stream}, which its scores have",
                expected="the cubes that were scored",
                do="run `dvc repro`",
            )
        entries[stream] = Entry(space, groups, m, space.layers.index(layer))
    return entries, dict(lead.brains)


def _refuse_other_rows(owner: str, groups: Sequence[RowsGroup], first: str, lead: Sequence[RowsGroup]) -> None:
    """Refuse rows that differ by segment or onset from those of the first model; positions may."""
    for ours, theirs in itertools.zip_longest(groups, lead):
        count, expected = (len(group.segment) if group else 0 for group in (ours, theirs))
        if count != expected:
            found = f"{count} rows that all subjects have"
        elif (ours.segment != theirs.segment).any() or np.abs(ours.onset_s - theirs.onset_s).max() > 2 * SAME_S:
            found = "rows at other times"
        else:
            continue
        raise StudyError(
            where=f"features of {owner}",
            found=found,
            expected=f"the {expected} rows of {first}, since streams of `partition` are fitted together",
            do="extract both of the same films at one clock",
        )


def make_grounds(study: Study, entries: Mapping[str, Entry], brains: Mapping[str, Responses]) -> list[Ground]:
    """Folds and blocks of targets for each group of rows: targets in parcels, or all where there is no atlas.

    Parameters
    ----------
    study : Study
    entries : Mapping of str to Entry
        By stream.
    brains : Mapping of str to Responses
        By subject.

    Returns
    -------
    list of Ground
        One per group of rows.
    """
    from cinecube.analysis.encoders.problem import blocks_of, make_layout

    settings = make_settings(study)
    inside = {name: np.flatnonzero(regions(brain.cube["parcel"].values) != "") for name, brain in brains.items()}
    # Folds drop film that both of their sides see, so the stream that sees most in a row decides for all.
    widest = max(entries.values(), key=lambda entry: entry.space.window_s)
    return [
        Ground(
            number,
            group,
            make_layout(widest.space, group, settings, max(settings.delays)),
            settings,
            brains,
            blocks_of(group, inside, settings.targets_per_block),
        )
        for number, group in enumerate(widest.groups)
    ]


def partition_spec(study: Study, entries: Mapping[str, Entry], brains: Mapping[str, Responses]) -> dict[str, Any]:
    """Spec that the cube's fingerprint hashes, without sizes of blocks, which change the speed only.

    Parameters
    ----------
    study : Study
    entries : Mapping of str to Entry
        By stream.
    brains : Mapping of str to Responses
        By subject.

    Returns
    -------
    dict
        Field -> value.
    """
    films = [*study.split.train, *study.split.test]
    return {
        "schema": SCHEMA,
        "kind": "partition",
        "version": VERSIONS,
        "sets": study.partition,
        "layers": {stream: entry.layer for stream, entry in entries.items()},
        "shares": list(SHARES),
        "films": {film: study.films[film] for film in films},
        "split": study.split.model_dump(),
        "repeats": study.brain.repeats,
        "encode": study.encode.model_dump(exclude={"targets_per_block", "solver"}),
        "features": {study.owner(stream): entry.space.fingerprints() for stream, entry in entries.items()},
        "brain": {name: str(brain.cube.attrs["fingerprint"]) for name, brain in brains.items()},
    }


def partition_cube(
    sets: Sequence[Sequence[str]],
    entries: Mapping[str, Entry],
    brains: Mapping[str, Responses],
    grounds: Sequence[Ground],
    found: Sequence[Mapping[Subset, Best]],
    kept: Mapping[str, xr.Dataset] | None = None,
) -> xr.Dataset:
    """Join what was found of all sets and subjects.

    Parameters
    ----------
    sets : sequence of sequence of str
        Streams of each set.
    entries : Mapping of str to Entry
        By stream.
    brains : Mapping of str to Responses
        By subject.
    grounds : sequence of Ground
    found : sequence of dict of tuple of str to Best
        From `partition_fits.fit_all`, by ground.
    kept : Mapping of str to Dataset, optional
        From `kept_sets`: these sets need not be in `found`.

    Returns
    -------
    Dataset
        float32, NaN where a set lacks a label or a subject a target: `part_r2 (set, part, subject, target)`, shares of
        variance, which may be slightly negative; `r2 (set, subset, subject, target)`; and of all streams of a
        set together `split_r2` and `penalty`, `(set, space, subject, target)`. A space is a stream by its `layer`.
    """
    from cinecube.analysis.cubes.target_axis import join_targets

    target, subjects, kept = join_targets(list(brains.values())), list(brains), kept or {}
    labels = [_labels(names) for names in sets]
    known = [[] if _label(names) in kept else [_named(names, list(entries), best) for best in found] for names in sets]
    variables: dict[str, Any] = {}
    coords: dict[str, list[str]] = {}
    for name, axis in _AXES.items():
        every = dict.fromkeys(label for of_set in labels for label in of_set[name])
        coords[axis] = sorted(every, key=lambda label: label.count(" + "))
        whole = np.full((len(sets), len(coords[axis]), len(subjects), len(target.labels)), np.nan, np.float32)
        for number, names in enumerate(sets):
            rows = np.array([coords[axis].index(label) for label in labels[number][name]])
            for parts, ground in zip(known[number], grounds, strict=False):
                for subject, columns, own in _places(ground, target.place):
                    stacked = np.stack([parts[name][label][own] for label in labels[number][name]])
                    whole[number, :, subjects.index(subject)][np.ix_(rows, columns)] = stacked
            if not known[number]:
                before = kept[_label(names)][name].sel({axis: labels[number][name], "subject": subjects})
                whole[number, rows] = before.transpose(axis, "subject", "target").values
        variables[name] = (("set", axis, "subject", "target"), whole)
    return xr.Dataset(
        variables,
        coords={
            "set": string_coordinate(list(map(_label, sets))),
            **{axis: string_coordinate(names) for axis, names in coords.items()},
            "layer": ("space", string_coordinate([entries[stream].layer for stream in coords["space"]])),
            "subject": string_coordinate(subjects),
            **target.coords(),
        },
    )


def _labels(names: Sequence[str]) -> dict[str, list[str]]:
    """Labels of a set's values: variable -> those of its axis."""
    joined = [_label(subset) for subset in subsets(names)]
    return {"part_r2": part_labels(names), "r2": joined, "split_r2": list(names), "penalty": list(names)}


def _named(names: Sequence[str], order: Sequence[str], best: Mapping[Subset, Best]) -> dict[str, dict[str, np.ndarray]]:
    """A set's values in the targets of a ground: variable -> label -> (target,)."""

    # Fits name their streams in one order, whatever the set's.
    fits = {subset: best[tuple(s for s in order if s in subset)] for subset in subsets(names)}
    r2 = np.stack([fit.r2 for fit in fits.values()])
    whole, place = fits[tuple(names)], [[s for s in order if s in names].index(s) for s in names]
    values = {
        "part_r2": inclusion_exclusion(r2, len(names)),
        "r2": r2,
        "split_r2": whole.split[place],
        "penalty": whole.penalty[place],
    }
    return {name: dict(zip(own, values[name], strict=True)) for name, own in _labels(names).items()}


def _places(ground: Ground, place: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray, slice]]:
    """Subject, positions on the cube's target axis, and the part of a ground's targets that belongs there."""
    start = 0
    for piece in itertools.chain.from_iterable(ground.blocks):
        own = place[piece.subject][piece.targets]
        yield piece.subject, own, slice(start, start + len(own))
        start += len(own)
