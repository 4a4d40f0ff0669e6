"""The example in docs/reference/networks.md runs as it is: written out, registered by an entry point, and extracted."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from cinecube.features.extraction.checkpoint import record_checkpoint
from cinecube.features.extraction.stage import extract_film
from cinecube.store.base.atomic import write_text
from cinecube.store.base.fingerprint import canonical
from cinecube.store.base.paths import StudyPaths
from cinecube.store.params.model_params import ModelParams

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "networks.md"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """What pip makes of such a package: the module, and metadata with its entry point."""
    site = tmp_path / "site"
    metadata = site / "gist-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "gist.py").write_text(_blocks("python")[0])
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: gist\nVersion: 1.0\n")
    group, line = re.search(r'entry-points\."(.+)"\]\n(.+)', _blocks("toml")[0]).groups()
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{line.replace(chr(34), '')}\n")
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    yield
    sys.modules.pop("gist", None)


def test_the_example_is_short():
    code = [line for line in _blocks("python")[0].splitlines() if line.strip() and "import" not in line]
    assert len(code) <= 32


def test_the_example_runs(study, tmp_path, installed):
    import torch
    from gist import Cnn
    from safetensors.torch import save_model

    folder = tmp_path / "weights" / "gist"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    save_model(Cnn(16), folder / "model.safetensors")
    (folder / "config.json").write_text('{"width": 16}')
    params = ModelParams(extractor="gist", checkpoint="weights/gist")
    study = study.model_copy(update={"models": {**study.models, "gist": params}})
    write_text(StudyPaths(tmp_path).checkpoint("gist"), canonical(record_checkpoint("gist", params, tmp_path)))
    extract_film(study, "gist", "amber", tmp_path)
    cube = xr.open_zarr(StudyPaths(tmp_path).features("gist", "amber"))
    assert list(cube["layer"].values) == ["block01", "block02"]
    assert cube.attrs["licence"] == "mit"
    values = cube["features"].values
    assert np.isfinite(values).all()
    assert (values.std(axis=0) > 0).mean() > 0.5  # of a few random filters some see nothing
