"""The pipelines of studies: `dvc.yaml` of every kind of study, from one source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from yaml import YAMLError

from cinecube.store.base.bounded import parse_yaml, read_text
from cinecube.store.base.errors import StudyError

_WIDE = 120
PIPELINE_FILES = ("dvc.yaml", "data/dvc.yaml")
"""Files of a pipeline, from the study's folder; simulated studies alone have the second."""


def pipelines(
    *,
    simulated: bool = False,
    stimuli: bool = True,
    code: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, str]:
    """Write the pipeline of a study.

    Parameters
    ----------
    simulated : bool
        Whether films, scans and weights are simulated, and the truth is known.
    stimuli : bool
        Whether there are films; where not, all features are imported.
    code : Mapping, optional
        Command -> folders of code that its stage depends on, in a study that holds the code. In others the versions
        that the stage `inputs` writes take its place.

    Returns
    -------
    dict of str to str
        Text by the file's path from the study's folder: `dvc.yaml`, and `data/dvc.yaml` where the study is simulated.
    """
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
    )

    def deps(command: str, paths: Sequence[str]) -> str:
        return _listed("deps", [*paths, *(code or {}).get(command, [])])

    return {
        name: environment.from_string(template_text(f"{name.replace('/', '.')}.j2")).render(
            simulated=simulated, stimuli=stimuli, code=code, deps=deps
        )
        for name in (PIPELINE_FILES if simulated else PIPELINE_FILES[:1])
    }


def template_text(name: str) -> str:
    """A template as it is shipped."""
    return files("cinecube").joinpath("templates", name).read_text(encoding="utf-8")


def _listed(key: str, paths: Sequence[str]) -> str:
    """A list of a stage, on one line where there is room."""
    quoted = [f'"{path}"' if "{" in path else path for path in paths]
    line = f"{key}: [{', '.join(quoted)}]"
    indent = "    "
    return line if len(indent + line) <= _WIDE else "\n".join([f"{key}:", *(f"{indent}  - {path}" for path in quoted)])


def stage_names(root: Path) -> set[str]:
    """Stages in a study's pipeline; none of a file that cannot be read, of which DVC says what is wrong.

    Parameters
    ----------
    root : Path
        The study's folder.
    """
    return {stage for name in PIPELINE_FILES for stage in _stages_in(root / name)}


def _stages_in(path: Path) -> set[str]:
    try:
        pipeline = parse_yaml(read_text(path))
    except (OSError, ValueError, YAMLError, StudyError):
        return set()
    stages = pipeline.get("stages") if isinstance(pipeline, dict) else None
    return set(stages) if isinstance(stages, dict) else set()
