"""What a subject's brain cube costs, in time and memory, beside nibabel and nilearn alone.

    python benchmarks/brain.py [--quick] [--json] [--threads 2 --threads 8]

Two subjects of synthetic scans of real size: 61 runs of 405 volumes of 91,282 grayordinates, and two runs
(one to test on) of volumes of 97 × 115 × 97 voxels. *cinecube* is the command `cinecube brain`, from its start to its
end, in a process of its own. *plain* reads each run whole with nibabel and cleans it with nilearn's `clean` and the
same regressors, keeps nothing and writes nothing. Peaks are of resident memory, as the system counts them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import nibabel as nib
import numpy as np
import pandas as pd
import yaml
from nibabel.cifti2.cifti2_axes import BrainModelAxis, SeriesAxis
from parts.machine import describe_machine, print_machine

TR_S, VOLUMES, SHAPE = 1.49, 405, (97, 115, 97)
_MOTION = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
_EXPANSIONS = ("derivative1", "power2", "derivative1_power2")
_COLUMNS = [*_MOTION, *(f"{name}_{more}" for name in _MOTION for more in _EXPANSIONS), "csf", "white_matter"]
_PACKAGES = ("nibabel", "nilearn", "numpy", "zarr", "xarray")
# Runs in a process of its own, so that its peak is its own.
_PLAIN = """
import sys
import nibabel as nib, numpy as np, pandas as pd
from nilearn.signal import clean
for scan, table, mask in (line.split("|") for line in sys.stdin.read().splitlines()):
    values = np.asarray(nib.load(scan).dataobj, dtype=np.float32)
    if mask:
        values = values[np.asarray(nib.load(mask).dataobj) > 0].T
    clean(values, confounds=pd.read_csv(table, sep="\\t").bfill(), standardize="zscore_sample", filter="cosine",
          high_pass=0.008, t_r=1.49)
"""


@dataclass(frozen=True)
class Cost:
    """Seconds of wall and of processor, and the peak of memory in GiB."""

    wall_s: float
    processor_s: float
    peak_gib: float


def write_study(root: Path, space: str, n_runs: int, volumes: int, shape: tuple[int, ...], n_rows: int) -> list[str]:
    """A subject's scans below `root`, all runs links to one file; returns a line per run for the plain way."""
    segments = [f"a{number:02d}" for number in range(n_runs)]
    films = {"a": segments[:-1], "b": segments[-1:]}
    brain = {"path": "fmriprep", "subjects": ["sub-01"], "space": space, "atlas": None}
    params = {"study": "cost", "clock": {"tr_s": TR_S, "window_s": TR_S}, "stimuli": None, "films": films}
    params |= {"split": {"train": ["a"], "test": ["b"]}, "brain": brain}
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    length_s = volumes * TR_S - 0.1
    table = pd.DataFrame([(f, s, length_s, volumes) for f in films for s in films[f]])
    (root / "data").mkdir()
    table.to_csv(root / "data/films.csv", index=False, header=["film", "segment", "duration_s", "rows"])
    func, rng = root / "fmriprep/sub-01/func", np.random.default_rng(0)
    func.mkdir(parents=True)
    ending = "dtseries.nii" if space == "fsLR" else "nii.gz"
    scan, mask = root / f"scan.{ending}", None
    if space == "fsLR":
        axis = BrainModelAxis.from_surface(np.arange(n_rows), n_rows, "CORTEX_LEFT")
        values = 9000 + 90 * rng.standard_normal((volumes, n_rows), dtype=np.float32)
        nib.save(nib.Cifti2Image(values, (SeriesAxis(0, TR_S, volumes), axis)), scan)
    else:
        affine = np.diag([-2.0, 2, 2, 1])
        grid = np.indices(shape) - np.array(shape)[:, None, None, None] / 2
        inside = ((grid / (np.array(shape) * 0.36)[:, None, None, None]) ** 2).sum(axis=0) <= 1
        values = np.zeros((*shape, volumes), np.float32, order="F")
        for volume in range(volumes):
            values[..., volume] = np.where(inside, 9000 + np.round(90 * rng.standard_normal(shape)), 0)
        image = nib.Nifti1Image(values, affine)
        image.header.set_xyzt_units("mm", "sec")
        image.header.set_zooms((2, 2, 2, TR_S))
        nib.save(image, scan)
        mask = root / "mask.nii.gz"
        nib.save(nib.Nifti1Image(inside.astype(np.uint8), affine), mask)
    lines = []
    for segment in segments:
        stem = f"sub-01_task-{segment}"
        name = "space-fsLR_den-91k_bold" if space == "fsLR" else f"space-{space}_desc-preproc_bold"
        os.link(scan, func / f"{stem}_{name}.{ending}")
        if mask:
            os.link(mask, func / f"{stem}_space-{space}_desc-brain_mask.nii.gz")
        confounds = func / f"{stem}_desc-confounds_timeseries.tsv"
        columns = pd.DataFrame(rng.standard_normal((volumes, len(_COLUMNS))), columns=_COLUMNS)
        columns.to_csv(confounds, sep="\t", index=False)
        lines.append(f"{scan}|{confounds}|{mask or ''}")
    return lines


def cost_of(command: list[str], threads: int, given: str = "") -> Cost:
    """Cost of a command in a process of its own."""
    environment = os.environ | {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    began = time.perf_counter()
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(given)
        process.stdin.close()
        said = process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(said[-2000:])
    return Cost(time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20)


@click.command()
@click.option("--quick", is_flag=True, help="Small scans: whether it runs, not what it costs.")
@click.option("--json", "as_json", is_flag=True)
@click.option("--threads", multiple=True, type=int, default=(2,), show_default=True)
def main(quick: bool, as_json: bool, threads: tuple[int, ...]) -> None:
    cases = {
        "61 runs of 91,282 grayordinates": ("fsLR", 61, VOLUMES, SHAPE, 91_282),
        "two runs of 97 x 115 x 97 voxels": ("MNI152NLin2009cAsym", 2, VOLUMES, SHAPE, 0),
    }
    if quick:
        cases = {
            "grayordinates": ("fsLR", 3, 80, SHAPE, 500),
            "voxels": ("MNI152NLin2009cAsym", 2, 80, (12, 14, 11), 0),
        }
    found: dict[str, Any] = {"machine": describe_machine(threads[0], _PACKAGES), "cases": {}}
    for name, case in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            # In a process of its own: a command begins with the peak of whoever starts it.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                lines = pool.submit(write_study, root, *case).result()
            command = [str(Path(sys.executable).with_name("cinecube")), "brain", "sub-01", "--study", folder]
            plain = cost_of([sys.executable, "-W", "ignore", "-c", _PLAIN], threads[0], "\n".join(lines))
            ours = {str(count): cost_of(command, count).__dict__ for count in threads}
        found["cases"][name] = {"plain": plain.__dict__, "cinecube": ours}
    if as_json:
        print(json.dumps(found))
        return
    print_machine(found["machine"])
    for name, costs in found["cases"].items():
        print(f"\n{name}")
        rows = [("plain nibabel and nilearn", costs["plain"])]
        rows += [(f"cinecube brain, {count} threads", one) for count, one in costs["cinecube"].items()]
        for title, one in rows:
            print(
                f"  {title:28}{one['wall_s']:8.1f} s{one['processor_s']:8.1f} s of processor"
                f"{one['processor_s'] / costs['plain']['processor_s']:7.2f} x{one['peak_gib']:7.2f} GiB"
            )


if __name__ == "__main__":
    main()
