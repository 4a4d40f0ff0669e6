"""Making a new study from a template."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from cinecube.features.stimuli import one_file, segment_files
from cinecube.store.atlas import open_atlas
from cinecube.store.errors import StudyError
from cinecube.store.labels import check_name
from cinecube.store.params import PARAMS_FILE, Study, parse

_TR_S = 1.49  # Movie10's, where no scan says another
_REACH_S = 5 * 1.49  # of its delays


@dataclass(frozen=True)
class OwnData:
    """Where a lab's own films and scans lie.

    Attributes
    ----------
    stimuli : Path
        `<stimuli>/<film>/<segment>.mp4`, `.mkv`, ….
    scans : Path
        fMRIPrep derivatives, `<scans>/sub-*/`.
    atlas : Path or None
        A labelled volume with its table, or the folder that holds one.
    test : str or None
        The film to test on; the last by default.
    space : str
        The `space` entity of the volumes.
    """

    stimuli: Path
    scans: Path
    atlas: Path | None
    test: str | None
    space: str


def init_simulated(folder: Path) -> None:
    """Make the simulated study in `folder`.

    Raises
    ------
    StudyError
        If a study stands there already.
    """
    refuse_existing(folder)
    for name in ("params.yaml", "dvc.yaml", "README.md"):
        _write(folder / name, template_text(f"simulated/{name}"))
    _write(folder / "data" / "dvc.yaml", template_text("simulated/data.dvc.yaml"))
    _finish(folder)


def init_own(folder: Path, own: OwnData) -> None:
    """Make a study of a lab's own films and scans in `folder`.

    Raises
    ------
    StudyError
        If a study stands there already, or films or subjects cannot be found.
    """
    refuse_existing(folder)
    films = _find_films(own.stimuli)
    test = [own.test or list(films)[-1]]
    split = {"train": [film for film in films if film not in test], "test": test}
    values = values_of_scans(folder, own, films, split) | {"stimuli": _from(folder, own.stimuli)}
    write_study(folder, values, "own", template_text("own/dvc.yaml"))


def values_of_scans(
    folder: Path, own: OwnData, films: Mapping[str, Sequence[str]], split: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """What templates are filled with, of a lab's scans.

    Raises
    ------
    StudyError
        If there are no subjects, no such space or atlas, or the test film is none of `films`.
    """
    _refuse_no_folder(own.scans, "--scans")
    subjects = sorted(path.name for path in own.scans.glob("sub-*") if path.is_dir())
    if not subjects:
        raise StudyError(
            where=str(own.scans), found="no folder sub-*", expected="fMRIPrep derivatives", do="set --scans"
        )
    if own.atlas and not own.atlas.exists():
        do = "correct --atlas"
        raise StudyError(where=str(own.atlas), found="no such file", expected="a labelled volume with its .tsv", do=do)
    if own.atlas:
        open_atlas(own.atlas)
    _refuse_unknown_space(own)
    if own.test is not None and own.test not in films:
        raise StudyError(where="--test", found=repr(own.test), expected=f"one of {', '.join(films)}", do="name a film")
    tr_s = _tr_s(own.scans)
    return {
        "study": check_name(folder.resolve().name, "study"),
        "scans": _from(folder, own.scans),
        "atlas": _from(folder, own.atlas) if own.atlas else None,
        "films": {film: list(segments) for film, segments in films.items()},
        **split,
        "subjects": subjects,
        "space": check_name(own.space, "space"),
        "tr_s": tr_s,
        # Film of as many seconds before as the reference study's five rows of 1.49 s.
        "delays": list(range(1, max(2, math.ceil(_REACH_S / tr_s - 1e-6) + 1))),
    }


def write_study(folder: Path, values: Mapping[str, Any], template: str, pipeline: str) -> None:
    """Fill the templates of a study of scans, and put it under Git and DVC.

    Raises
    ------
    StudyError
        If what would be written is no study; nothing is then.
    """
    import jinja2

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    params, readme = (
        environment.from_string(template_text(name)).render(values)
        for name in ("own/params.yaml.j2", f"{template}/README.md.j2")
    )
    parse(Study, yaml.safe_load(params), PARAMS_FILE)
    _write(folder / "params.yaml", params)
    _write(folder / "README.md", readme)
    _write(folder / "dvc.yaml", pipeline if values["atlas"] else pipeline.replace(', "${brain.atlas}"', ""))
    _finish(folder)


def _refuse_no_folder(path: Path, option: str) -> None:
    if not path.is_dir():
        raise StudyError(where=str(path), found="no such folder", expected="one", do=f"set {option}")


def _find_films(stimuli: Path) -> dict[str, list[str]]:
    _refuse_no_folder(stimuli, "--stimuli")
    films = {
        folder.name: [one_file(f"segment {name}", files).stem for name, files in segment_files(folder).items()]
        for folder in sorted(stimuli.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
    }
    films = {film: segments for film, segments in films.items() if segments}
    if len(films) < 2:
        raise StudyError(
            where=str(stimuli),
            found=f"{len(films)} films",
            expected="two or more folders of segments (.mp4, .mkv, .mov, .avi, …), one to test on",
            do="set --stimuli to the folder of the films' folders",
        )
    for name in [*films, *(segment for segments in films.values() for segment in segments)]:
        check_name(name, "film or segment")
    return films


def _refuse_unknown_space(own: OwnData) -> None:
    """Where there are volumes, one of them is in the space that is asked for."""
    names = [path.name for path in own.scans.glob("sub-*/**/*_bold.*")]
    spaces = sorted({part.removeprefix("space-") for name in names for part in name.split("_") if "space-" in part})
    if spaces and own.space not in spaces:
        raise StudyError(
            where="--space",
            found=repr(own.space),
            expected=f"one of {', '.join(spaces)}",
            do="name a space of the scans",
        )


def _tr_s(scans: Path) -> float:
    from cinecube.store.fmriprep import ScanRun

    bold = next(iter(sorted(scans.glob("sub-*/**/*_desc-preproc_bold.nii.gz"))), None)
    return ScanRun("", 1, "", bold).tr_s if bold else _TR_S


def _from(folder: Path, path: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def refuse_existing(folder: Path) -> None:
    """Refuse a folder in which a study stands."""
    for name in (PARAMS_FILE, "dvc.yaml"):
        if (folder / name).exists():
            raise StudyError(
                where=str(folder / name), found="a study", expected="an empty or new folder", do="choose another folder"
            )


def template_text(name: str) -> str:
    """A template as it is shipped."""
    return files("cinecube").joinpath("templates", name).read_text(encoding="utf-8")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def _finish(folder: Path) -> None:
    """Put the study under Git and DVC, where it is not yet."""
    for name in ("gitignore", "dvcignore"):
        if not (folder / f".{name}").exists():
            _write(folder / f".{name}", template_text(name))
    inside = _call(folder, "git", "rev-parse", "--show-toplevel")
    if inside is None:
        _call(folder, "git", "init", "--quiet", must=True)
        inside = str(folder.resolve())
    if not (folder / ".dvc").is_dir():
        subdir = [] if Path(inside).resolve() == folder.resolve() else ["--subdir"]
        _call(folder, sys.executable, "-m", "dvc", "init", "--quiet", *subdir, must=True)
        # Cubes are large: linked to DVC's cache they take their room once.
        _call(folder, sys.executable, "-m", "dvc", "config", "cache.type", "hardlink,copy", must=True)


def _call(folder: Path, *command: str, must: bool = False) -> str | None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return done.stdout.strip()
    if must:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise StudyError(
            where=" ".join(Path(command[0]).name if i == 0 else word for i, word in enumerate(command)),
            found=lines[-1],
            expected="a repository",
            do=f"mend it and run `git init` and `dvc init` in {folder}",
        )
    return None
