"""What DVC recorded and is not here, by its files alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from cinecube.store.dvc.locks import may_lack

LOCK = """schema: '2.0'
stages:
  features@vit-amber:
    cmd: cinecube features vit amber.zarr
    outs:
    - path: data/features/vit/amber.zarr
      hash: md5
  brain:
    outs:
    - path: {path}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "data/features/vit/amber.zarr").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "lacks"),
    [
        ("data/features/vit/amber.zarr", False),
        ("data/brain", False),
        ("data/brain/sub-01.zarr", True),
        ("'data/features/vit/amber.zarr'", True),  # DVC's library reads what it does not write so itself
        ("data/features/vit/amber.zarr\n    wdir: elsewhere", True),
    ],
)
def test_a_record_whose_cube_is_not_in_its_place_is_noticed(path: str, lacks: bool, root: Path) -> None:
    for record in ("dvc.lock", "data/sub.dvc"):
        shown = LOCK.format(path=path)
        if record != "dvc.lock":
            shown = shown.replace("data/", "")
        (root / record).write_text(shown, encoding="utf-8")
        assert may_lack(root, ".zarr") is lacks
        assert may_lack(root / "data", ".zarr") is lacks
        (root / record).unlink()


def test_without_dvc_nothing_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_text(LOCK.format(path="gone.zarr"), encoding="utf-8")
    assert not may_lack(tmp_path, ".zarr")
