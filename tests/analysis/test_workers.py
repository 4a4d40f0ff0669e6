"""Every heavy stage gives blocks to the workers of a running scheduler: same bytes, and one that dies changes none."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from distributed import Client, LocalCluster

from cinecube.analysis.ceilings.stage import ceiling
from cinecube.analysis.cubes.tables import write_table
from cinecube.analysis.encoders.stage import encode
from cinecube.analysis.partition.stage import partition
from cinecube.analysis.residuals.residual_cubes import make_residual
from cinecube.analysis.significance.stage import significance
from cinecube.store.base.paths import StudyPaths
from cinecube.store.jobs import tasks
from cinecube.store.jobs.tasks import Progress
from cinecube.store.params.analysis_params import Statistics
from cinecube.store.params.document import Study
from cinecube.store.params.run_params import ClusterAddress

from ..conftest import tree_digest
from . import partition_study, residual_study, shared_signal

pytestmark = pytest.mark.filterwarnings("ignore")
Run = Callable[[Study, Path, Progress | None], None]
Case = tuple[Study, Run, Callable[[StudyPaths], Path]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A scheduler of somebody else's, with two workers that are started again when they die."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as started:
        yield started


def _ceilings(root: Path) -> Case:
    drawn = shared_signal.draw(per_parcel=30)  # more targets than rows
    shared_signal.write(root, drawn)
    return shared_signal.make_study(drawn, block=40), ceiling, lambda paths: paths.ceiling


def _reduced_ceilings(root: Path) -> Case:
    drawn = shared_signal.draw(per_parcel=30)
    shared_signal.write(root, drawn)
    return shared_signal.make_study(drawn, block=40, approximate="always"), ceiling, lambda paths: paths.ceiling


def _authors_ceilings(root: Path) -> Case:
    drawn = shared_signal.draw(per_parcel=5)
    shared_signal.write(root, drawn)
    study = shared_signal.make_study(drawn, compat="oota2025", bootstraps=2)
    return study, ceiling, lambda paths: paths.ceiling


def _residuals(root: Path) -> Case:
    residual_study.write_features(root)
    study = residual_study.make_study({"keep": residual_study.VIDEO, "remove": residual_study.EYES})
    name = study.residual[0].name

    def run(study: Study, root: Path, progress: Progress | None) -> None:
        make_residual(study, root, name, progress)

    return study, run, lambda paths: paths.residual(name, "amber").parent


def _significance(root: Path) -> Case:
    residual_study.write_features(root)
    residual_study.write_brains(root)
    study = residual_study.make_study()
    make_residual(study, root, study.residual[0].name)
    for model in study.encoded:
        encode(study, root, model)
    pair = (residual_study.VIDEO, residual_study.EYES)
    regions = [("V1", subject, model, 0.1) for subject in residual_study.SUBJECTS for model in pair]
    columns = ["roi", "subject", "model", "score"]
    write_table(StudyPaths(root).tables / "roi.csv", pd.DataFrame(regions, columns=columns))
    statistics = Statistics(permutations=99, compare=[pair])
    return study.model_copy(update={"statistics": statistics}), significance, lambda paths: paths.significance


def _partition(root: Path) -> Case:
    partition_study.write_study(root, partition_study.Made())
    study = partition_study.make_study()
    for model in partition_study.STREAMS:
        encode(study, root, model)
    return study, partition, lambda paths: paths.partition


CASES: dict[str, Callable[[Path], Case]] = {
    "ceilings": _ceilings,
    "reduced ceilings": _reduced_ceilings,
    "authors' ceilings": _authors_ceilings,
    "residuals": _residuals,
    "significance": _significance,
    "partitions": _partition,
}


@pytest.mark.parametrize("name", CASES)
def test_workers_of_a_scheduler_give_the_same_bytes_and_one_may_die(
    name: str, cluster: LocalCluster, tmp_path: Path
) -> None:
    study, run, output = CASES[name](tmp_path)
    (tmp_path / "params.yaml").touch()
    run(study, tmp_path, None)
    made = output(StudyPaths(tmp_path))
    expected = tree_digest(made)
    shutil.rmtree(made)
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if 1 <= done < total and not killed:
            with Client(cluster.scheduler_address, set_as_default=False) as client:
                killed.extend(list(client.run(os.getpid).values())[:1])
            os.kill(killed[0], signal.SIGKILL)

    address = ClusterAddress(address=cluster.scheduler_address)
    run(study.model_copy(update={"dask": address}), tmp_path, kill)
    assert tree_digest(made) == expected
    assert len(killed) == 1
    assert not list((tmp_path / ".cinecube").rglob("*.npy"))


@pytest.mark.parametrize("name", ["ceilings", "reduced ceilings", "residuals", "significance"])
def test_threads_give_the_same_bytes_whatever_their_number(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, run, output = CASES[name](tmp_path)
    found = []
    for n_workers in (1, 3):
        monkeypatch.setattr(tasks, "n_local_workers", lambda threads, n=n_workers: n)
        run(study, tmp_path, None)
        found.append(tree_digest(output(StudyPaths(tmp_path))))
    assert found[0] == found[1]
