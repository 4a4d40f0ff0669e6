"""Score cubes have the same bytes whoever computes them, at one thread a task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cinecube.analysis.encoders.stage import encode
from cinecube.store.base.paths import StudyPaths
from cinecube.store.jobs import tasks

from ..conftest import tree_digest
from .conftest import MODEL, make_study


def test_any_number_of_workers(synthetic: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of this process, one to three of them, and Dask's own processes."""
    (tmp_path / "data").symlink_to(synthetic() / "data")
    study, path = make_study(), StudyPaths(tmp_path).scores(MODEL)
    study = study.model_copy(update={"run": study.run.model_copy(update={"threads": 1})})
    found = []
    for n_workers, small in ((1, True), (2, True), (3, True), (2, False)):
        with monkeypatch.context() as patch:
            patch.setattr(tasks, "n_local_workers", lambda threads, n=n_workers: n)
            if not small:
                patch.setattr(tasks, "SMALL_WORK", 0)
            encode(study, tmp_path, MODEL)
        found.append(tree_digest(path))
    assert len(set(found)) == 1
