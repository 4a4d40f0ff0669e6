"""The stage `ceiling`: brain cubes in, the ceiling cube out."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from cinecube.analysis.ceilings import VERSIONS
from cinecube.analysis.ceilings.who_predicts import choose_sources
from cinecube.analysis.cubes import tables
from cinecube.analysis.cubes.rows import RowsGroup, align, find_unfit
from cinecube.analysis.cubes.spaces import FeatureSpace, Responses, check_same_space, open_responses
from cinecube.analysis.cubes.unscored import ceiling_notes
from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import fingerprint
from cinecube.store.base.journal import open_journal
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer, scratch_folder
from cinecube.store.clock.clock import SAME_S
from cinecube.store.cube.cubes import open_cube, write_cube
from cinecube.store.cube.schema import SCHEMA, provenance
from cinecube.store.open.open_study import FolderCubes
from cinecube.store.open.recorded import input_digests, take_back
from cinecube.store.params.document import Study

if TYPE_CHECKING:
    from cinecube.analysis.ceilings.ceiling_blocks import Cohort
    from cinecube.store.base.journal import Journal
    from cinecube.store.jobs.tasks import Progress, Workers

_log = logging.getLogger(__name__)
# Of the parameters those that change the cube's numbers; the others are of what is done with it.
_IN_FINGERPRINT = {"curve", "bootstraps", "block_rows", "seed", "compat"}
ALONE = "nobody else has a run of its test films and enough of its training films"
LAST = "there is nobody else with runs to predict it from"
"""Why a subject has no cross-subject ceiling."""
# Multiplications that take as long as one of scipy's fits, for `open_workers` to choose processes or threads.
_WORK_OF_FIT = 2e7


@dataclass(frozen=True)
class Inputs:
    """Inputs that ceilings are computed from.

    Attributes
    ----------
    root : Path
        The study's folder.
    brains : dict of str to Responses
        Of all subjects.
    own : list of RowsGroup
        Each subject's own rows.
    cohorts : list of Cohort
        Subjects with the sources that predict them, each subject in one; none where nobody has any.
    showings : dict of str to array of int, shape (row, showing)
        Test rows of each subject that saw them several times, by position in its brain cube.
    notes : dict of str to str
        By ceiling, why some or all subjects have none.
    rows : list of dict
        What the cube says of the rows of its cross-subject ceilings, see `unscored.ceiling_notes`.
    """

    root: Path
    brains: dict[str, Responses]
    own: list[RowsGroup]
    cohorts: list[Cohort]
    showings: dict[str, np.ndarray]
    notes: dict[str, str]
    rows: list[dict[str, Any]]

    @property
    def cohort(self) -> Cohort:
        """The only cohort, of a study all of whose subjects have the same runs."""
        (cohort,) = self.cohorts
        return cohort


def ceiling(study: Study, root: Path, progress: Progress | None = None) -> bool:
    """Write the ceiling cube, the table and plot of how scores grow with other subjects, and the table of runs' timing.

    A ceiling that the scans do not allow is NaN, and its attributes say why; `read_ceiling` refuses it. An interrupted
    run goes on where it was stopped. Runs on Dask where that is much work: blocks of targets are jobs, and so are
    subjects' kernels and subsets' factors.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    progress : callable, optional
        Told `(blocks done, blocks in all)`.

    Returns
    -------
    bool
        Whether they were computed, and not taken from the last run.

    Raises
    ------
    StudyError
        If a cube is missing, cubes do not fit each other, a subject's responses do not vary, workers are lost, or
        another process computes ceilings of this study.
    """
    from cinecube.analysis.ceilings.ceiling_cube import ceiling_growth
    from cinecube.analysis.ceilings.run_timing import run_timings, timing_notes
    from cinecube.analysis.encoders.encoding import refuse_still_subjects
    from cinecube.store.jobs.tasks import open_workers

    root = root.absolute()  # a worker may run in another folder
    paths = StudyPaths(root)
    inputs = read_brains(study, root)
    refuse_still_subjects(inputs.brains, inputs.own, study.encode.targets_per_block)
    spec = ceiling_spec(study, inputs)
    if "reduced" in spec:
        _log.warning(
            "ceilings across subjects are approximate, from the first %d components of each (within 0.005 on average; "
            "`ceiling.approximate: never` for all targets)",
            spec["reduced"]["components"],
        )
    with (
        one_writer(paths, paths.ceiling),
        open_journal(paths.journals, spec, paths.relative(paths.ceiling)) as journal,
    ):
        digests = input_digests(study, root, [])
        taken = take_back(paths, {paths.ceiling: fingerprint(spec)}, digests)
        if taken:
            cube = open_cube(paths.ceiling)
        else:
            work = _work(study, inputs)
            with (
                scratch_folder(paths, "ceiling") as scratch,
                open_workers(study.dask, study.run.threads, work, root) as workers,
            ):
                cube = make_ceilings(study, inputs, scratch, workers, journal, progress)
            write_cube(paths.ceiling, cube.assign_attrs(inputs=json.dumps(digests, sort_keys=True)))
        for line in ceiling_notes(cube):
            _log.warning("%s", line)
        growth = ceiling_growth(cube)
        tables.write_table(paths.tables / "ceiling_growth.csv", growth)
        everyone = growth[growth["subject"] == tables.EVERYONE]
        tables.write_table(paths.plots / "ceiling.csv", everyone[["size", "score"]])
        timing = run_timings(inputs.brains, study.clock)
        tables.write_table(paths.tables / "run_timing.csv", timing)
        for line in timing_notes(timing):
            _log.warning("%s", line)
        journal.remove()
    return not taken


def _work(study: Study, inputs: Inputs) -> float:
    """Multiplications of all ceilings, roughly."""
    from cinecube.analysis.ceilings.ceiling_blocks import cross_subject_work
    from cinecube.analysis.ceilings.reduced_blocks import reduced_work

    cohorts, bootstraps = inputs.cohorts, study.ceiling.bootstraps
    repeats = float(sum(inputs.brains[name].n_targets * shown.size for name, shown in inputs.showings.items()))
    if study.ceiling.compat:
        n_targets = sum(inputs.brains[name].n_targets for cohort in cohorts for name in cohort.predicted)
        return repeats + _WORK_OF_FIT * bootstraps * n_targets
    return repeats + sum(map(reduced_work if is_reduced(study, cohorts) else cross_subject_work, cohorts))


def read_brains(study: Study, root: Path, fitted: bool = True) -> Inputs:
    """Open all brain cubes, and match their rows; `fitted` as for `read_problem`.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    fitted : bool
        As for `read_problem`.

    Returns
    -------
    Inputs
        With a note on each ceiling that cannot be computed.

    Raises
    ------
    StudyError
        If a cube is missing, cubes do not fit each other, a segment is missing, or there is nothing to validate on.
    """
    from cinecube.analysis.ceilings.ceiling_blocks import Cohort
    from cinecube.analysis.encoders.problem import make_layout, make_settings

    paths, split, settings = StudyPaths(root), study.split, make_settings(study, fitted)
    cubes = {name: paths.brain(name) for name in study.brain.subjects}
    brains = {
        name: open_responses(name, FolderCubes(paths).open(path), study.clock.tr_s, "the study's clock")
        for name, path in cubes.items()
    }
    check_same_space(list(brains.values()))
    train, test, repeats = study.segments(split.train), study.segments(split.test), study.brain.repeats
    unfit = find_unfit({name: brain.rows for name, brain in brains.items()}, train, test)
    fit = {name: brain for name, brain in brains.items() if name not in unfit}
    space = FeatureSpace({}, film_rows(study, fit, brains), study.clock.window_s)
    tabled = {name: brain.rows for name, brain in fit.items()}
    own = align(space.rows, tabled, train=train, test=test, repeats=repeats, rows="own")
    sources = choose_sources({name: group for group in own for name in group.subjects})
    # Those who are predicted from each other, or from the same others and by them, share rows, kernels and factors.
    together: dict[tuple[str, ...], list[str]] = {}
    for name, others in sources.items():
        if others:
            together.setdefault(tuple(one for one in tabled if one in (name, *others)), []).append(name)
    cohorts = []
    for names, predicted in together.items():
        shared = {name: tabled[name] for name in names}
        (group,) = align(space.rows, shared, train=train, test=test, repeats=repeats, rows="shared")
        cohorts.append(
            Cohort(
                {name: fit[name] for name in names},
                group,
                make_layout(space, group, settings, 0).folds,
                settings.targets_per_block,
                settings.threads,
                settings.backend,
                study.dask == "local",
                tuple(predicted) if len(predicted) < len(names) else (),
            )
        )
    shown = align(space.rows, tabled, train=train, test=test, repeats="average", rows="common")
    showings, reason = _repeated(shown, averaged=repeats == "average")
    lacks = [f"{name}: {rows['lacks']}" for name, rows in unfit.items()]
    alone = [f"{name}: {ALONE if len(fit) > 1 else LAST}" for name, others in sources.items() if not others]
    if study.ceiling.compat:
        alone += [f"{name}: one other subject is no curve" for name, others in sources.items() if len(others) == 1]
    notes = {
        "cross_subject": "there is one subject" if len(brains) == 1 else "; ".join([*lacks, *alone]),
        "repeats": "; ".join([*lacks, *([reason] if reason else [])]),
    }
    notes = {name: text for name, text in notes.items() if text}
    return Inputs(root, brains, own, cohorts, showings, notes, _rows_of(study, own, cohorts, sources, unfit))


def _rows_of(
    study: Study,
    own: Sequence[RowsGroup],
    cohorts: Sequence[Cohort],
    sources: Mapping[str, Sequence[str]],
    unfit: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Rows as the cube names them: of each cohort, of who has no sources, and of who has too few runs."""
    test, segments = study.segments(study.split.test), study.segments([*study.split.train, *study.split.test])
    seen = {name: set(group.segment) for group in own for name in group.subjects}
    found: list[dict[str, Any]] = []
    for cohort in cohorts:
        here = cohort.group.counts(segments)
        lost = {
            name: absent
            for name in cohort.predicted
            if (absent := [one for one in here.get("without", []) if one in test and one in seen[name]])
        }
        found.append(
            {
                "subjects": cohort.predicted,
                "sources": list(cohort.brains),
                **here,
                **({"scored_without_ceiling": lost} if lost else {}),
            }
        )
    if len(study.brain.subjects) > 1:
        reason = ALONE if len(sources) > 1 else LAST
        found += [{"subjects": [name], "lacks": reason} for name, others in sources.items() if not others]
    return found + [{"subjects": [name], **rows} for name, rows in unfit.items()]


def film_rows(
    study: Study, brains: Mapping[str, Responses], further: Mapping[str, Responses] | None = None
) -> pd.DataFrame:
    """Rows of the films as far as any subject was scanned, segments in the films' order.

    Parameters
    ----------
    study : Study
    brains : Mapping of str to Responses
        By subject.
    further : Mapping of str to Responses, optional
        Of segments that none of these was scanned in, whose rows there are nevertheless.

    Returns
    -------
    DataFrame
        `segment`, `onset_s` (s).

    Raises
    ------
    StudyError
        If no subject saw a segment.
    """
    known = [pd.concat([brain.rows for brain in some.values()]) for some in (brains, further or brains)]
    parts = []
    for segment in study.segments([*study.split.train, *study.split.test]):
        whole = next((rows for rows in known if (rows["segment"] == segment).any()), known[0])
        onsets_s = np.sort(whole.loc[whole["segment"] == segment, "onset_s"].to_numpy(np.float64))
        if not len(onsets_s):
            raise StudyError(
                where=f"brain cubes {segment}",
                found="no rows",
                expected="scans of every segment of `split`",
                do="add the scans, or take the segment out of `films`",
            )
        # Those of one moment may be rounded up in one cube and down in another.
        new = np.diff(onsets_s, prepend=-np.inf) > 2 * SAME_S
        parts.append(pd.DataFrame({"segment": segment, "onset_s": onsets_s[new]}))
    return pd.concat(parts, ignore_index=True)


def _repeated(groups: Sequence[RowsGroup], averaged: bool) -> tuple[dict[str, np.ndarray], str]:
    """Test rows that were shown several times, (row, showing) by subject, and why some have none.

    A mean over showings has one ceiling only if all rows are averages over the same number of showings. The ceiling of
    a single showing is taken from the rows that were shown most often.
    """
    found, reasons = {}, []
    for name, showings in ((name, group.showings[name][~group.train]) for group in groups for name in group.subjects):
        counts = (showings >= 0).sum(axis=1)
        most, least = int(counts.max()), int(counts.min())
        if most < 2:
            reasons.append(f"{name} saw the test films once")
        elif averaged and least < most:
            reasons.append(f"{name} saw some test films {least} times and others {most} times")
        else:
            found[name] = showings[counts == most][:, :most]
    return found, "; ".join(reasons)


def make_ceilings(
    study: Study,
    inputs: Inputs,
    scratch: Path,
    workers: Workers = None,
    kept: Journal | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Ceiling cube of a study; without workers all runs here, one task after another. `scratch` may not exist yet.

    Parameters
    ----------
    study : Study
    inputs : Inputs
    scratch : Path
        Folder for kernels and factors, on a disk that workers share.
    workers : Client, Threads or None
    kept : Journal, optional
        Blocks in it are not computed again.
    progress : callable, optional
        Told (done, total).

    Returns
    -------
    Dataset
        See `ceiling_cube`.
    """
    from cinecube.analysis.ceilings import ceiling_blocks, ceiling_cube

    brains = inputs.brains
    found: dict[str, dict[str, np.ndarray]] = {name: {} for name in brains}
    compute = _compat if study.ceiling.compat else _cross
    for name, values in compute(study, inputs, scratch, workers, kept, progress).items():
        found[name] |= values
    sizes = study.encode.targets_per_block, study.run.threads
    for name, repeats in ceiling_blocks.score_repeats(brains, inputs.showings, study.ceiling, workers, *sizes).items():
        found[name] |= ceiling_cube.repeat_values(repeats, study.brain.repeats == "average")
    attrs = provenance(
        "ceiling",
        ceiling_spec(study, inputs),
        ("numpy", "scipy"),
        **check_same_space(list(brains.values())),
        tr_s=study.clock.tr_s,
        rows=json.dumps(inputs.rows, sort_keys=True),
    )
    return ceiling_cube.ceiling_cube(found, list(brains.values()), _about(study, inputs), attrs)


def _cross(
    study: Study,
    inputs: Inputs,
    scratch: Path,
    workers: Workers,
    kept: Journal | None,
    progress: Progress | None,
) -> dict[str, dict[str, np.ndarray]]:
    """Extrapolated ceilings by subject and name."""
    from cinecube.analysis.ceilings import ceiling_blocks, reduced_blocks
    from cinecube.analysis.ceilings.ceiling_cube import cross_values
    from cinecube.analysis.ceilings.saturation import extrapolate

    reduced, params = is_reduced(study, inputs.cohorts), study.ceiling
    predict = reduced_blocks.reduced_scores if reduced else ceiling_blocks.score_subsets
    count = reduced_blocks.n_reduced_pieces if reduced else ceiling_blocks.n_subset_pieces
    counts = list(map(count, inputs.cohorts))
    found: dict[str, dict[str, np.ndarray]] = {}
    for number, cohort in enumerate(inputs.cohorts):
        folder = scratch / f"cohort{number}" if number else scratch
        scores = predict(cohort, folder, workers, kept, _part(progress, counts, number))
        # 0.95 is the share of resamplings in the interval.
        arguments = {
            name: (own.score, own.size, params.bootstraps, 0.95, params.seed, params.curve)
            for name, own in scores.items()
        }
        fitted = ceiling_blocks.run_by_subject(workers, extrapolate, arguments, cohort.threads)
        found |= {name: cross_values(scores[name], fitted[name]) for name in scores}
    return found


def _part(progress: Progress | None, counts: Sequence[int], number: int) -> Progress | None:
    """Progress of one cohort's blocks among those of all."""
    if progress is None:
        return None
    before, whole = sum(counts[:number]), sum(counts)
    return lambda done, _: progress(before + done, whole)


def _compat(
    study: Study,
    inputs: Inputs,
    scratch: Path,
    workers: Workers,
    kept: Journal | None,
    progress: Progress | None,
) -> dict[str, dict[str, np.ndarray]]:
    """Ceilings by subject and name as the authors computed them; nothing is kept of them meanwhile."""
    from cinecube.analysis.ceilings.ceiling_cube import compat_values
    from cinecube.analysis.ceilings.oota2025_ceiling import compat_ceilings, compat_scores

    points = {name: own for cohort in inputs.cohorts for name, own in compat_scores(cohort, workers).items()}
    found = compat_ceilings(points, study.ceiling.bootstraps, workers, study.run.threads, progress)
    return {name: compat_values(points[name], found[name]) for name in points}


def _about(study: Study, inputs: Inputs) -> dict[str, dict[str, str]]:
    """Attributes of the cube's variables: what each is, and why it is NaN where it is."""
    from cinecube.analysis.ceilings.ceiling_cube import ABOUT, COMPAT_ABOUT, CROSS, CURVES, REDUCED

    texts = ABOUT | (COMPAT_ABOUT if study.ceiling.compat else {})
    shown = "the mean over showings" if study.brain.repeats == "average" else "a single showing"
    about = texts["cross_subject"].format(curve=CURVES[study.ceiling.curve])
    texts |= {
        "cross_subject": about + (f". {REDUCED}" if is_reduced(study, inputs.cohorts) else ""),
        "repeats": f"{texts['repeats']}; of r with {shown}",
    }
    kinds = {name: "cross_subject" if name in (*CROSS, "cross_subject_score") else "repeats" for name in texts}
    return {
        name: {"about": text, **({"note": inputs.notes[kinds[name]]} if kinds[name] in inputs.notes else {})}
        for name, text in texts.items()
    }


def is_reduced(study: Study, cohorts: Sequence[Cohort]) -> bool:
    """True if subjects predict each other from components instead of all targets: all of them, or nobody.

    Parameters
    ----------
    study : Study
    cohorts : sequence of Cohort

    Returns
    -------
    bool
        False where there is one subject, or `ceiling.compat` computes ceilings as Oota et al. do.
    """
    from cinecube.analysis.ceilings.reduced_blocks import is_large

    asked, crossed = study.ceiling.approximate, bool(cohorts) and not study.ceiling.compat
    return crossed and (asked == "always" or (asked == "auto" and any(map(is_large, cohorts))))


def ceiling_spec(study: Study, inputs: Inputs) -> dict[str, Any]:
    """Spec that the ceiling cube's fingerprint hashes, without sizes of blocks, which change the speed only.

    Components stand in it where there are some, and sources where not everybody predicts everybody: cubes without keep
    the spec that they had before there was a choice.

    Parameters
    ----------
    study : Study
    inputs : Inputs

    Returns
    -------
    dict
        Field -> value.
    """
    from cinecube.analysis.ceilings.reduced_subjects import COMPONENTS, FEW, SAMPLED

    sizes = {"components": COMPONENTS, "few": FEW, "sampled": SAMPLED}
    films = [*study.split.train, *study.split.test]
    sources = {
        name: [one for one in cohort.brains if one != name] for cohort in inputs.cohorts for name in cohort.predicted
    }
    everybody = all(len(sources.get(name, ())) == len(inputs.brains) - 1 for name in inputs.brains)
    return {
        "schema": SCHEMA,
        "kind": "ceiling",
        "version": VERSIONS,
        "films": {film: study.films[film] for film in films},
        "split": study.split.model_dump(),
        "window_s": study.clock.window_s,
        "repeats": study.brain.repeats,
        "folds": study.encode.folds,
        "ceiling": study.ceiling.model_dump(include=_IN_FINGERPRINT),
        **({"reduced": sizes} if is_reduced(study, inputs.cohorts) else {}),
        **({} if everybody else {"sources": sources}),
        "brain": {name: str(brain.cube.attrs["fingerprint"]) for name, brain in inputs.brains.items()},
    }
