"""No scan of a test film changes anything that is fitted or chosen: every analysis at once, and every name it writes.

A new variable or column must not depend on the test films' scans unless it is listed here as one that judges them.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cinecube.analysis.ceilings.stage import ceiling
from cinecube.analysis.encoders.stage import encode
from cinecube.analysis.partition.partition_tables import write_partition_tables
from cinecube.analysis.partition.stage import partition
from cinecube.analysis.regions.stage import layerwise, whole_brain
from cinecube.analysis.residuals.residual_cubes import make_residual
from cinecube.analysis.residuals.residual_tables import residual
from cinecube.analysis.significance.stage import significance
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube, write_cube
from cinecube.store.params.analysis_params import CeilingParams, Statistics
from cinecube.store.params.document import Study

from .residual_study import CONCAT, EYES, FILMS, STREAMS, SUBJECTS, TEST, make_study, write_brains, write_features

TEST_SEGMENTS = [segment for film in TEST for segment in FILMS[film]]
_SUMMARY = {"mean", "sem", "low", "high"}
# What judges predictions by the test films' scans, by the cube or table that holds it.
JUDGES: dict[str, Collection[str]] = {
    "data/ceiling.zarr": {
        *(f"cross_subject{end}" for end in ("", "_low", "_high", "_converged", "_score")),
        *("repeats", "repeats_low", "repeats_high", "explainable_variance", "split_half"),
    },
    "results/scores": {"score"},
    "results/predictions": {"measured"},
    "results/partition.zarr": {"part_r2", "r2", "split_r2"},
    "results/significance.zarr": {
        *("score", "p", "q"),
        *("difference", "difference_p", "difference_q"),
    },
    "results/tables/ceiling_growth.csv": {"score"},
    "results/tables/comparisons.csv": {"first_better", "second_better", "block_rows"},
    "results/tables/comparisons_roi.csv": {"mean_difference", "p", "p_fdr"},
    "results/tables/layerwise.csv": {"score"},
    "results/tables/layerwise_roi.csv": _SUMMARY,
    "results/tables/normalised.csv": {"score", "normalised", "above"},
    "results/tables/partition.csv": {"r2"},
    "results/tables/partition_roi.csv": _SUMMARY,
    "results/tables/residual.csv": {"full", "residual", "drop", "target_drop", "targets_above"},
    # A drop is given where the full score exceeds 0.1, so in some of the subjects.
    "results/tables/residual_roi.csv": _SUMMARY | {"subjects"},
    "results/tables/roi.csv": {"score", "normalised", "survive"},
    "results/tables/roi_mean.csv": {
        f"{name}{end}" for name in ("score", "normalised") for end in ("", "_sem", "_low", "_high")
    }
    # A target without a ceiling has no share of it: which subjects have one, test films' scans say.
    | {"survive", "normalised_subjects"},
    "results/tables/run_timing.csv": {"r", "shift_s", "r_shifted", "follows", "verdict"},
    "results/tables/significance.csv": {"significant", "share"},
    "results/tables/whole_brain.csv": {"score"},
    "results/tables/whole_brain_mean.csv": {"score"},
}


def small_study() -> Study:
    """Both networks, a pair, a partition, a comparison, and a cross-subject ceiling."""
    study = make_study({"keep": CONCAT, "remove": EYES}, {"keep": "bind.video", "remove": EYES})
    return study.model_copy(
        update={
            "partition": [["bind.video", EYES]],
            "ceiling": CeilingParams(use="cross_subject", bootstraps=5),
            "statistics": Statistics(permutations=49, block_rows=10, compare=[(CONCAT, EYES)]),
        }
    )


def analyse(study: Study, root: Path) -> Path:
    """Every analysis, in the order of `dvc.yaml`."""
    for model in STREAMS:
        encode(study, root, model)
    ceiling(study, root)
    for pair in study.residual:
        make_residual(study, root, pair.name)
        encode(study, root, pair.name)
    for stage in (whole_brain, layerwise, residual, partition, write_partition_tables, significance):
        stage(study, root)
    return root


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("leakage")
    write_features(root)
    write_brains(root)
    return analyse(small_study(), root)


def scramble(root: Path, seed: int, share: float) -> None:
    """Put other numbers in place of a share of each subject's rows of the test films."""
    rng = np.random.default_rng(seed)
    for subject in SUBJECTS:
        path = StudyPaths(root).brain(subject)
        cube = open_cube(path).load()
        rows = np.flatnonzero(np.isin(cube["segment"].values, TEST_SEGMENTS))
        rows = rows[rng.random(len(rows)) < share]
        bold = cube["bold"].transpose("time", "target").values.copy()
        bold[rows] = 30 * rng.standard_normal((len(rows), bold.shape[1])) ** 3 + 5
        shutil.rmtree(path)
        write_cube(path, cube.assign(bold=(("time", "target"), bold)))


def written(root: Path) -> Iterator[tuple[str, Path]]:
    """Cubes and tables below the study's folder, and the key of `JUDGES` each belongs to."""
    patterns = ("data/**/*.zarr", "results/**/*.zarr", "results/tables/**/*.csv")
    for path in sorted(path for pattern in patterns for path in root.glob(pattern)):
        name = path.relative_to(root).as_posix()
        if not name.startswith("data/brain"):
            folder = name.rpartition("/")[0]
            yield (folder if folder in JUDGES else name), path


def values_of(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".csv":
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        return {str(name): table[name].to_numpy() for name in table}
    cube: xr.Dataset = open_cube(path).load()
    return {str(name): variable.values for name, variable in cube.variables.items()}


# Nothing simpler than a seed can be found, and each example takes seconds.
@settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.1, 0.5, 1.0]))
def test_no_scan_of_a_test_film_changes_what_is_fitted(
    plain: Path, tmp_path_factory: pytest.TempPathFactory, seed: int, share: float
) -> None:
    root = tmp_path_factory.mktemp("scrambled")
    shutil.copytree(plain / "data" / "features", root / "data" / "features")
    shutil.copytree(plain / "data" / "brain", root / "data" / "brain")
    scramble(root, seed, share)
    analyse(small_study(), root)
    changed = set()
    for key, path in written(plain):
        before, after = values_of(path), values_of(root / path.relative_to(plain))
        assert before.keys() == after.keys(), path
        for name, values in before.items():
            if name in JUDGES.get(key, ()):
                if not np.array_equal(values, after[name], equal_nan=values.dtype.kind == "f"):
                    changed.add((key, name))
            else:
                np.testing.assert_array_equal(values, after[name], err_msg=f"{path.relative_to(plain)}: {name}")
    # Were the scans not read at all, nothing would have changed.
    assert {
        ("results/scores", "score"),
        ("results/partition.zarr", "r2"),
        ("data/ceiling.zarr", "cross_subject"),
        ("results/significance.zarr", "p"),
    } <= changed


def test_every_name_that_judges_exists(plain: Path) -> None:
    known = {(key, name) for key, path in written(plain) for name in values_of(path)}
    assert not {(key, name) for key, names in JUDGES.items() for name in names} - known
