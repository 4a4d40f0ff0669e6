"""A study handed to `encode` makes few stays in the files of `analysis`, and goes through them one way.

A stay begins where one file calls another for the first time. What runs in a thread begins with what handed it over.
"""

from __future__ import annotations

import ast
import sys
import threading
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from cinecube.analysis.encoders import stage
from cinecube.analysis.encoders.oota2025 import WHAT
from cinecube.analysis.residuals.residual_cubes import make_residual
from cinecube.store.params.document import Study

from .residual_study import CONCAT, EYES, make_study, write_brains, write_features

ANALYSIS = Path(stage.__file__).resolve().parents[1]
MOST = 35
PAIR = f"{CONCAT}-{EYES}"
Stay = tuple[str, str]


def stays_of(study: Study, root: Path, model: str) -> list[Stay]:
    """(file that calls, file called), in the order of the first calls; the first comes from outside."""
    found: dict[Stay, None] = {("", _file(stage.encode.__code__.co_filename)): None}

    def see(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and (called := _file(frame.f_code.co_filename)):
            above = frame.f_back
            while above is not None and not (caller := _file(above.f_code.co_filename)):
                above = above.f_back
            if above is not None and caller != called:
                found.setdefault((caller, called))

    threading.setprofile(see)
    sys.setprofile(see)
    try:
        stage.encode(study, root, model)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return list(found)


@cache
def _file(path: str) -> str:
    """A file's place in `analysis`; empty for others."""
    return path.removeprefix(f"{ANALYSIS}/") if path.startswith(f"{ANALYSIS}/") else ""


def imports_of(file: Path) -> set[str]:
    """Files of `analysis` that one of them imports, in whatever function."""
    modules = [
        node
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cinecube.analysis")
    ]
    names = [f"{node.module}{end}" for node in modules for end in ("", *(f".{alias.name}" for alias in node.names))]
    files = {"/".join(name.split(".")[2:]) + ".py" for name in names}
    return {name for name in files if (ANALYSIS / name).is_file()}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's folder with cubes of features, of a pair's residual and of responses."""
    root = tmp_path_factory.mktemp("study")
    write_features(root)
    write_brains(root)
    make_residual(make_study(), root, PAIR)
    return root


@pytest.mark.parametrize(
    ("model", "encode"),
    [("eyes", {}), ("bind", {}), (PAIR, {}), ("eyes", {"compat": list(WHAT)}), ("eyes", {"solver": "himalaya"})],
    ids=["model", "streams", "pair", "oota2025", "himalaya"],
)
def test_encode_makes_few_stays_one_way(model: str, encode: dict[str, Any], root: Path) -> None:
    stays = stays_of(make_study(**encode), root, model)
    assert len(stays) <= MOST, "\n".join(f"{caller} > {called}" for caller, called in stays)
    below = {file.relative_to(ANALYSIS).as_posix(): imports_of(file) for file in ANALYSIS.rglob("*.py")}
    for caller, called in stays[1:]:
        below[caller].add(called)
    TopologicalSorter(below).prepare()  # refuses a circle: a call or an import that goes up
