"""fMRIPrep derivatives: which runs a subject has, and what they hold."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from cinecube.store.errors import StudyError, environment_error
from cinecube.store.labels import bids_label
from cinecube.store.nifti import open_nifti

_ENTITY = re.compile(r"([a-z]+)-([A-Za-z0-9]+)")
# CNeuroMod marks aborted takes like this and lists them in .bidsignore.
_ABORTED = "__dup"


@dataclass(frozen=True)
class ScanRun:
    """One showing of one segment to one subject.

    Attributes
    ----------
    segment : str
        Name of the segment in the study.
    repeat : int
        1 for the first showing, 2 for the second.
    session : str
        Label of the session, empty where the tree has none.
    bold : Path
        The preprocessed volumes.
    """

    segment: str
    repeat: int
    session: str
    bold: Path

    @property
    def where(self) -> str:
        return f"{self.bold.name.split('_', 1)[0]} {self.segment} repeat {self.repeat}"

    @cached_property
    def image(self) -> nib.Nifti1Image:
        """The volumes (x, y, z, time), not loaded.

        Raises
        ------
        StudyError
            If the file is no readable 4-D NIfTI.
        """
        image = open_nifti(self.bold)
        if len(image.shape) != 4:
            raise StudyError(where=str(self.bold), found=f"shape {image.shape}", expected="4-D volumes", do="check it")
        return image

    @cached_property
    def tr_s(self) -> float:
        """Seconds between volumes, from the sidecar or else the header."""
        sidecar = self.bold.with_name(self.bold.name.removesuffix(".nii.gz") + ".json")
        if sidecar.is_file():
            tr_s = json.loads(sidecar.read_text(encoding="utf-8")).get("RepetitionTime")
            if tr_s:
                return float(tr_s)
        return round(float(self.image.header.get_zooms()[3]), 6)

    @property
    def mask(self) -> Path:
        """The brain mask beside the volumes."""
        path = self.bold.with_name(self.bold.name.replace("_desc-preproc_bold", "_desc-brain_mask"))
        if not path.is_file():
            raise StudyError(where=self.where, found="no brain mask", expected=str(path), do="fetch it from fMRIPrep")
        return path

    def volumes(self) -> np.ndarray:
        """All volumes (x, y, z, time), float32.

        Raises
        ------
        StudyError
            If the file ends early.
        """
        try:
            return np.asarray(self.image.dataobj, dtype=np.float32)
        except (OSError, EOFError, ValueError) as error:
            raise environment_error(error, str(self.bold)) or StudyError(
                where=str(self.bold), found=f"a damaged file ({error})", expected="whole volumes", do="fetch it again"
            ) from error


def find_runs(path: Path, subject: str, segments: list[str], space: str) -> list[ScanRun]:
    """The runs in which a subject saw `segments`, in the segments' order, repeats after one another.

    Parameters
    ----------
    path : Path
        Folder of the fMRIPrep derivatives.
    subject : str
        `sub-01`.
    segments : list of str
        Names of the study's segments; the BIDS task label is the name without signs.
    space : str
        Value of the `space` entity.

    Raises
    ------
    StudyError
        If the subject or one of the segments was not scanned, or not in this space.
    """
    folder = path / subject
    if not folder.is_dir():
        raise StudyError(
            where=str(folder), found="no such folder", expected="the subject's fMRIPrep derivatives", do="fetch them"
        )
    by_task: dict[str, list[tuple[str, int, Path]]] = {}
    spaces: set[str] = set()
    for bold in sorted(folder.rglob("*_desc-preproc_bold.nii.gz")):
        if _ABORTED in bold.name:
            continue
        entities = dict(_ENTITY.findall(bold.name))
        spaces.add(entities.get("space", "native"))
        if entities.get("space") == space and "task" in entities:
            found = (entities.get("ses", ""), int(entities.get("run", 0)), bold)
            by_task.setdefault(entities["task"], []).append(found)
    if not by_task:
        raise StudyError(
            where=f"{subject} in {path}",
            found=f"volumes in {', '.join(sorted(spaces)) or 'no space'}",
            expected=f"*_space-{space}_desc-preproc_bold.nii.gz",
            do="set brain.space or run fMRIPrep with it",
        )
    return [run for segment in segments for run in _showings(segment, by_task, subject)]


def _showings(segment: str, by_task: dict[str, list[tuple[str, int, Path]]], subject: str) -> list[ScanRun]:
    files = by_task.get(bids_label(segment))
    if not files:
        raise StudyError(
            where=f"{subject} {segment}",
            found="no scan",
            expected=f"one with task-{bids_label(segment)}",
            do="fetch it, or leave the segment out of films",
        )
    ordered = sorted(files, key=lambda file: (file[1], file[0]))
    return [ScanRun(segment, number, session, bold) for number, (session, _, bold) in enumerate(ordered, start=1)]


def read_confounds(run: ScanRun, strategy: str) -> tuple[pd.DataFrame | None, np.ndarray]:
    """Confounds of a run and which of its volumes are in steady state.

    Parameters
    ----------
    run : ScanRun
    strategy : str
        `none`; `motion`: 6 motion parameters, white matter and CSF; `simple`: the same with the motion's
        derivatives and squares; `simple+gsr`: and the global signal.

    Returns
    -------
    confounds : DataFrame (time, confound) or None
    steady : array (time,) of bool

    Raises
    ------
    StudyError
        If the table is missing or lacks a column.
    """
    from nilearn.interfaces.fmriprep import load_confounds

    n_volumes = run.image.shape[3]
    steady = np.ones(n_volumes, dtype=bool)
    if strategy == "none":
        return None, steady
    parts = ("motion", "wm_csf") + (("global_signal",) if strategy == "simple+gsr" else ())
    motion = "basic" if strategy == "motion" else "full"
    try:
        confounds, sample_mask = load_confounds(str(run.bold), strategy=parts, motion=motion, demean=False)
    except (ValueError, OSError, KeyError) as error:
        raise environment_error(error, run.where) or StudyError(
            where=run.where,
            found=f"no usable confounds ({' '.join(str(error).split())[:200]})",
            expected=f"what brain.confounds: {strategy} needs beside {run.bold.name}",
            do="fetch the *_desc-confounds_timeseries.tsv and .json",
        ) from error
    if len(confounds) != n_volumes:
        raise StudyError(
            where=run.where,
            found=f"{len(confounds)} rows of confounds",
            expected=f"{n_volumes}, one a volume",
            do="fetch scan and confounds of the same run",
        )
    if sample_mask is not None:
        steady[:] = False
        steady[sample_mask] = True
    return confounds, steady


def mean_framewise_displacement_mm(run: ScanRun) -> float:
    """Mean framewise displacement of a run, NaN where its table has none."""
    name = re.sub(r"_space-[A-Za-z0-9]+(_res-[A-Za-z0-9]+)?_desc-preproc_bold\.nii\.gz$", "", run.bold.name)
    path = run.bold.with_name(f"{name}_desc-confounds_timeseries.tsv")
    if not path.is_file():
        return float("nan")
    table = pd.read_csv(path, sep="\t")
    return float(table["framewise_displacement"].mean()) if "framewise_displacement" in table else float("nan")
