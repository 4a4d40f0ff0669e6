"""What commands that look print at a terminal: lines that fit it, nothing of DVC's, and the same as ever in a pipe."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from tests.conftest import Folder, dvc
from tests.terminal import Terminal

CINECUBE = str(Path(sys.executable).with_name("cinecube"))


def test_plan_shows_no_bars_of_dvc(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "study")
    folder.must("init", str(folder.root))
    path = folder.root / "dvc.yaml"
    pipeline = yaml.safe_load(path.read_text(encoding="utf-8"))
    pipeline["stages"]["own"] = {"cmd": "true", "outs": ["own"]}
    path.write_text(yaml.safe_dump(pipeline), encoding="utf-8")
    (folder.root / "own").mkdir()
    (folder.root / "own" / "file").write_text("1", encoding="utf-8")
    dvc(folder.root, "commit", "-f", "own")
    (folder.root / "own" / "file").write_text("2", encoding="utf-8")
    with Terminal([CINECUBE, "plan"], folder.root) as terminal:
        assert terminal.end() == 0
    assert "Collecting" not in terminal.text
    assert "\r" not in terminal.text.replace("\r\n", "")
