"""Whatever happens to the files of a study: never another number, never silence, never a traceback."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import cinecube as cc
from cinecube.store.base.errors import StudyError

from .injuries import IN_DVC, IN_TREE, Found, Lab, run, run_journals

# `CINECUBE_INJURIES=7:1000` tries a thousand others of each sort.
SEED, _, TIMES = os.environ.get("CINECUBE_INJURIES", "0:").partition(":")


MANY = [pytest.param(sort, 1000, marks=pytest.mark.long) for sort in ("tree", "tracked", "record")]


# Where DVC is asked, an injury takes half a second: all kinds come, none often.
@pytest.mark.parametrize(("sort", "n"), [("tree", 36), ("tracked", 16), ("record", 14), *MANY])
def test_injuries(sort: str, n: int, tmp_path: Path) -> None:
    lab = Lab(tmp_path / "study", None if sort == "tree" else tmp_path / "remote")
    found = run(lab, IN_DVC if sort == "record" else IN_TREE, int(TIMES or n), int(SEED))
    expect_nothing(found, int(TIMES or n))


def test_significance_is_no_score_cube_of_the_only_model(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "study")
    model = cc.open(lab.root).models[0]
    scores = lab.root / f"results/scores/{model}.zarr"
    shutil.rmtree(scores)
    shutil.copytree(lab.root / "results/significance.zarr", scores)
    with pytest.raises(StudyError, match="found a cube of significance, expected score"):
        cc.open(lab.root).scores(model)


def test_injuries_of_journals(tmp_path: Path) -> None:
    expect_nothing(run_journals(tmp_path, int(TIMES or 60), int(SEED)), int(TIMES or 60))


def expect_nothing(found: Found, n: int) -> None:
    assert found.n == n
    told = [f"{name}: {line}" for name in ("wrong", "missed", "tracebacks") for line in getattr(found, name)]
    assert not told, "\n".join(told)
