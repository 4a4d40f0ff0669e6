"""Digests of feature cubes that analyses depend on: they change with their own models, and with no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml
from tests.conftest import REPOSITORY

from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.checksums import cube_digest
from cinecube.store.open.contents import write_contents
from cinecube.store.params.document import load_study

from .verified import write_features

PAIR = {"keep": "vit", "remove": "ast"}


def _contents(root: Path, change: Callable[[dict[str, Any]], object] = lambda params: None) -> dict[str, Any]:
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    params |= {
        "residual": [dict(PAIR)],
        "partition": [["vit", "ast"]],
        "compute": {"models": ["vit", "ast"], "films": ["amber"]},
    }
    params["statistics"]["compare"] = []
    change(params)
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return write_contents(load_study(root), root)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, model in enumerate(("vit", "ast")):
        write_features(StudyPaths(tmp_path).features(model, "amber"), seed=seed)
    return tmp_path


def test_another_model_or_pair_changes_nothing_of_a_pair(root: Path) -> None:
    before = _contents(root)

    def more(params: dict[str, Any]) -> None:
        params["compute"]["models"].append("tvlt")
        params["residual"].insert(0, {"keep": "tvlt.joint", "remove": "vit"})

    write_features(StudyPaths(root).features("tvlt", "amber"), seed=2)
    after = _contents(root, more)
    assert after["pairs"]["vit-ast"] == before["pairs"]["vit-ast"]
    assert set(after["pairs"]["tvlt"]) == {"joint-vit"}, "a name with dots is a path, as DVC reads it"
    assert {name: after["models"][name] for name in ("vit", "ast")} == before["models"]
    assert after["partition"] == before["partition"]


@pytest.mark.parametrize("model", ["vit", "ast"])
def test_a_pair_and_a_partition_change_with_either_of_their_models(root: Path, model: str) -> None:
    before = _contents(root)
    write_features(StudyPaths(root).features(model, "amber"), seed=9)
    after = _contents(root)
    assert after["pairs"] != before["pairs"]
    assert after["partition"] != before["partition"]
    assert [name for name in before["models"] if after["models"][name] != before["models"][name]] == [model]


@pytest.mark.parametrize("own", [{"by": "direction"}, {"layers": ["block01"]}])
def test_a_pair_changes_with_how_it_removes(root: Path, own: dict[str, Any]) -> None:
    assert _contents(root, lambda params: params["residual"][0].update(own))["pairs"] != _contents(root)["pairs"]


def test_a_pair_and_a_partition_change_with_how_an_imported_model_is_resampled(root: Path) -> None:
    def imported(params: dict[str, Any], **own: Any) -> None:
        params["compute"]["models"] = ["vit"]
        params["imported"] = [{"model": "ast", "source": "https://example.org/lab.git", **own}]

    as_it_is = _contents(root, imported)
    resampled = _contents(root, lambda params: imported(params, resample="lanczos"))
    assert resampled["models"] == as_it_is["models"]
    assert resampled["pairs"] != as_it_is["pairs"]
    assert resampled["partition"] != as_it_is["partition"]


def test_models_without_cubes_are_told_apart_from_those_with_some(root: Path) -> None:
    assert _contents(root, lambda params: params["compute"]["models"].append("tvlt"))["models"]["tvlt"] is None


def test_names_that_dvc_cannot_tell_apart_are_refused(root: Path) -> None:
    def dotted(params: dict[str, Any]) -> None:
        params["models"]["ast.v2"] = params["models"]["ast"]
        params["residual"].append({"keep": "vit", "remove": "ast.v2"})

    with pytest.raises(StudyError, match=r"residual: found vit-ast\.v2, .*rename the model"):
        _contents(root, dotted)


def test_a_cube_that_another_program_wrote_is_known_by_all_its_files(tmp_path: Path) -> None:
    """It lists no checksums."""
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    digests = set()
    for changed in (0, 0, 1):
        cube = tmp_path / "cube.zarr"
        values[0, 0] = changed
        xr.Dataset({"features": (("time", "dim"), values)}).to_zarr(cube, mode="w", zarr_format=3, consolidated=True)
        digests.add(cube_digest(cube))
    assert len(digests) == 2
