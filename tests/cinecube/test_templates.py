"""The shipped templates and the repository's own pipeline are one pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
TEMPLATES = REPOSITORY / "cinecube" / "templates"
ROOMS = {"features", "analysis", "store", "simulation"}
# What only the simulated study has.
SIMULATED = {"data/weights", "data/truth"}


def _pipeline(path: Path, *without: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    for stage in loaded["stages"].values():
        stage["deps"] = [dep for dep in stage.get("deps", []) if dep.split("/")[0] not in ROOMS and dep not in without]
    return loaded


def test_simulated_template_is_the_default_study() -> None:
    assert _pipeline(TEMPLATES / "simulated/dvc.yaml") == _pipeline(REPOSITORY / "dvc.yaml")
    assert _pipeline(TEMPLATES / "simulated/data.dvc.yaml") == _pipeline(REPOSITORY / "data/dvc.yaml")
    assert (TEMPLATES / "simulated/params.yaml").read_bytes() == (REPOSITORY / "params.yaml").read_bytes()


def test_own_template_lacks_only_what_is_simulated() -> None:
    whole = _pipeline(REPOSITORY / "dvc.yaml", *SIMULATED)
    del whole["stages"]["oracle"]
    assert _pipeline(TEMPLATES / "own/dvc.yaml") == whole


def test_git_ignores_in_the_default_study_what_it_ignores_in_others() -> None:
    ours, theirs = (path.read_text(encoding="utf-8") for path in (REPOSITORY / ".gitignore", TEMPLATES / "gitignore"))
    assert theirs in ours


def test_every_module_a_stage_depends_on_exists() -> None:
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for name, stage in stages.items():
        modules = [dep for dep in stage.get("deps", []) if dep.split("/")[0] in ROOMS]
        assert modules or name in ("features", "privacy"), f"{name} depends on no module"
        for module in modules:
            assert (REPOSITORY / module).exists(), f"{name}: {module}"


def test_own_readme_is_five_lines() -> None:
    assert len((TEMPLATES / "own/README.md.j2").read_text(encoding="utf-8").strip().splitlines()) == 5
