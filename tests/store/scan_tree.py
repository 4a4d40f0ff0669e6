"""A study of one subject and two films so small that a test can spoil one input of it and run `brain` in a tenth of a
second: an fMRIPrep tree of 6 × 6 × 6 voxels and 40 volumes, a table of films, an atlas."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import yaml
from tests.conftest import Folder

from cinecube.store.cube.cubes import open_cube

TR_S, N_VOLUMES, N_ROWS, SHAPE = 1.49, 40, 39, (6, 7, 8)
SPACE = "MNI152NLin2009cAsym"
# Unequal voxels, so that no swap of axes hides.
AFFINE = np.array([[4.0, 0, 0, -12], [0, 3.5, 0, -10], [0, 0, 3.0, -8], [0, 0, 0, 1]])
SHOWINGS = {"amber01_run-1": 1, "amber01_run-2": 2, "birch01": 3}
PARCELS = ("L_A", "R_A", "L_B", "R_B")
PARAMS = {
    "study": "tiny",
    "clock": {"tr_s": TR_S, "window_s": TR_S, "max_trim_s": 6},
    "stimuli": "films",
    "films": {"amber": ["amber01"], "birch": ["birch01"]},
    "split": {"train": ["amber"], "test": ["birch"]},
    "brain": {"path": "fmriprep", "subjects": ["sub-01"], "space": SPACE, "atlas": "atlas.nii.gz"},
}


def mask_values() -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:-1, 1:-1, 1:-1] = 1
    return mask


def label_values() -> np.ndarray:
    labels = np.zeros(SHAPE, np.int16)
    labels[:3, :4], labels[3:, :4], labels[:3, 4:], labels[3:, 4:] = 1, 2, 3, 4
    return labels


def confounds_table(seed: int, n: int = N_VOLUMES) -> pd.DataFrame:
    """As fMRIPrep writes it: the first row of derivatives is n/a."""
    rng, table = np.random.default_rng(seed), dict[str, np.ndarray]()
    tissue = ("csf", "white_matter", "global_signal")
    for name in (*(f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"), *tissue):
        values = np.cumsum(rng.standard_normal(n)) * 0.01 + (500 if name in tissue else 0)
        slope = np.r_[np.nan, np.diff(values)]
        table |= {name: values, f"{name}_derivative1": slope}
        table |= {f"{name}_power2": values**2, f"{name}_derivative1_power2": slope**2}
    table["framewise_displacement"] = np.r_[np.nan, np.abs(rng.standard_normal(n - 1)) * 0.1]
    return pd.DataFrame(table)


def save(
    path: Path, data: np.ndarray, affine: np.ndarray = AFFINE, tr_s: float | None = None, units: str = "sec"
) -> Path:
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, code=4)
    image.header.set_xyzt_units("mm", units)
    if tr_s is not None:
        image.header.set_zooms((*image.header.get_zooms()[:3], tr_s))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


@dataclass(frozen=True)
class Tree(Folder):
    """The study's folder, with names of what lies in it."""

    def path(self, what: str, showing: str = "birch01") -> Path:
        folder = self.root / "fmriprep/sub-01/ses-001/func"
        return folder / f"sub-01_ses-001_task-{showing}_{what}"

    def bold(self, showing: str = "birch01") -> Path:
        return self.path(f"space-{SPACE}_desc-preproc_bold.nii.gz", showing)

    def sidecar(self, showing: str = "birch01") -> Path:
        return self.path(f"space-{SPACE}_desc-preproc_bold.json", showing)

    def mask(self, showing: str = "birch01") -> Path:
        return self.path(f"space-{SPACE}_desc-brain_mask.nii.gz", showing)

    def table(self, showing: str = "birch01") -> Path:
        return self.path("desc-confounds_timeseries.tsv", showing)

    @property
    def atlas(self) -> Path:
        return self.root / "atlas.nii.gz"

    @property
    def names(self) -> Path:
        return self.root / "atlas.tsv"

    def values(self, showing: str = "birch01") -> np.ndarray:
        return np.array(nib.load(self.bold(showing)).dataobj)  # type: ignore[attr-defined]

    def scan(self, change: Callable[[np.ndarray], np.ndarray], **how: Any) -> None:
        """Write the scan of birch01 anew."""
        save(self.bold(), change(self.values()), **({"tr_s": TR_S} | how))

    def header(self, offset: int, form: str, *values: float, path: Path | None = None) -> None:
        """Overwrite fields in the bytes of a header."""
        path = path or self.bold()
        raw = bytearray(gzip.decompress(path.read_bytes()))
        struct.pack_into("<" + form, raw, offset, *values)
        path.write_bytes(gzip.compress(bytes(raw)))

    def confounds(self, change: Callable[[pd.DataFrame], pd.DataFrame], **how: Any) -> None:
        """Write the table of birch01 anew."""
        table = pd.read_csv(self.table(), sep="\t").astype(object)
        change(table).to_csv(self.table(), **({"sep": "\t", "index": False, "na_rep": "n/a"} | how))

    def rename(self, pattern: str, old: str, new: str) -> None:
        """Rename files of the subject whose names match."""
        for path in sorted(self.root.glob("fmriprep/**/*")):
            if path.is_file() and re.search(pattern, path.name):
                path.rename(path.with_name(path.name.replace(old, new)))

    def twin(self, old: str, new: str, showing: str = "birch01") -> None:
        """Copies of all files of a showing, under other names."""
        for path in sorted(self.root.glob(f"fmriprep/**/*_task-{showing}_*")):
            other = Path(str(path).replace(old, new))
            other.parent.mkdir(parents=True, exist_ok=True)
            if other != path:
                shutil.copy(path, other)

    def brain(self, **params: Any) -> None:
        self.change(lambda p: p["brain"].update(params))

    def cube(self) -> dict[str, np.ndarray]:
        """The cube that `brain` makes: its values, and the labels of its axes."""
        self.must("brain", "sub-01")
        with open_cube(self.root / "data/brain/sub-01.zarr") as cube:
            return {name: cube[name].values for name in (*cube.coords, "bold")}


def make_tree(root: Path) -> Tree:
    tree = Tree(root)
    root.mkdir(parents=True)
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False))
    lines = ["film,segment,duration_s,rows,rate_hz,frames,width,height,sound_rate_hz"]
    lines += [f"{film},{film}01,58.0,{N_ROWS},25.0,1450,64,64,16000" for film in ("amber", "birch")]
    (root / "data").mkdir()
    (root / "data/films.csv").write_text("\n".join(lines) + "\n")
    for showing, seed in SHOWINGS.items():
        rng = np.random.default_rng(seed)
        values = (1000 + 20 * rng.standard_normal((*SHAPE, N_VOLUMES))).astype(np.float32)
        save(tree.bold(showing), values, tr_s=TR_S)
        save(tree.mask(showing), mask_values())
        tree.sidecar(showing).write_text(json.dumps({"RepetitionTime": TR_S}))
        confounds_table(seed).to_csv(tree.table(showing), sep="\t", index=False, na_rep="n/a")
    save(tree.atlas, label_values())
    names = [f"{number}\t{name}_ROI" for number, name in enumerate(PARCELS, start=1)]
    tree.names.write_text("\n".join(["index\tname", *names]) + "\n")
    return tree


def assert_four_parts(message: str, line: str) -> None:
    """Where, what was found, what was expected, what to do; and what the case wants of them."""
    assert re.fullmatch(r"Error: .+?: found .+, expected .+; .+", message), message
    assert re.search(line, message), message
