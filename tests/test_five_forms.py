"""One planted study in the five forms in which labs have their scans: the same parcels follow the same layers."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.cifti2.cifti2_axes import BrainModelAxis, SeriesAxis
from nilearn.signal import clean

import cinecube as cc

from .conftest import Folder
from .store.scan_tree import SPACE, confounds_table, save
from .store.test_atlases import dlabel, pair
from .store.test_sources_of_scans import write_gifti

TR_S, MODEL, SUBJECT, DELAY = 1.49, "vit", "sub-01", 2
HALF = 12
PARCELS = tuple(f"{hemi}_{number:02d}" for hemi in "LR" for number in range(1, HALF + 1))
LAYERS = ("block02", "block07", "block12")
# Volumes that go on after the film, one number for each showing.
SHOWINGS = {"amber01": 2, "amber02": 0, "birch01": 3, "birch02": 1, "dune01_run-1": 2, "dune02_run-1": 2}
SHOWINGS |= {"dune01_run-2": 0, "dune02_run-2": 1}
MOTION = [*(f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"), "csf", "white_matter"]
HIGH_PASS_HZ = 0.02
LEVEL, SWING, NOISE, PLACE_NOISE = 9000.0, 90.0, 0.2, 0.5


def rng_of(*parts: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32("/".join(map(str, parts)).encode()))


PLANTED = pd.Series([LAYERS[n % 3] for n in range(len(PARCELS))], index=PARCELS)
"""Layer that each parcel follows."""


def raw_parcels(study: Folder, showing: str) -> tuple[np.ndarray, pd.DataFrame]:
    """Intensities (volume, parcel) that follow their layers, with motion and tissue in them, and the table of these."""
    segment = showing.partition("_")[0]
    features = cc.open(study.root).features(model=MODEL, film=segment.rstrip("0123456789"))
    rows = features["segment"].values == segment
    weights, layer_of = rng_of("weights"), PLANTED.to_numpy()
    w = weights.standard_normal((features.sizes["dim"], len(PARCELS)))
    driven = np.empty((int(rows.sum()), len(PARCELS)))
    for layer in set(layer_of):
        values = features.sel(layer=layer).values[:, :, 0]
        scaled = (values - values.mean(0)) / values.std(0)
        driven[:, layer_of == layer] = scaled[rows] @ w[:, layer_of == layer] / np.sqrt(len(w))
    n = len(driven) + SHOWINGS[showing]
    signal = np.zeros((n, len(PARCELS)))
    signal[DELAY:] = driven[np.arange(n - DELAY).clip(max=len(driven) - 1)]
    rng, table = rng_of("noise", showing), confounds_table(zlib.crc32(showing.encode()), n)
    taken = table[MOTION].to_numpy()
    taken = (taken - taken.mean(0)) / taken.std(0)
    signal += NOISE * rng.standard_normal(signal.shape) + taken @ rng.standard_normal((len(MOTION), len(PARCELS)))
    return LEVEL + SWING * signal, table


def at_places(raw: np.ndarray, parcel: np.ndarray, form: str) -> np.ndarray:
    """Values (volume, place) of places that belong to parcels by number, to none if it is 0.

    Each has a level and noise of its own, which the average over a whole parcel is free of, and no other average.
    """
    rng = rng_of("places", form, len(raw))
    values = np.pad(raw, ((0, 0), (1, 0)), constant_values=LEVEL)[:, parcel]
    noise = rng.standard_normal(values.shape, dtype=np.float32)
    for number in np.unique(parcel):
        noise[:, parcel == number] -= noise[:, parcel == number].mean(axis=1, keepdims=True)
    return (values + rng.uniform(-500, 500, len(parcel)) + SWING * PLACE_NOISE * noise).astype(np.float32)


Raw = dict[str, tuple[np.ndarray, pd.DataFrame]]


def _stem(root: Path, showing: str) -> Path:
    folder = root / "scans" / SUBJECT / "func"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{SUBJECT}_task-{showing}"


def _beside(stem: Path, name: str, table: pd.DataFrame) -> None:
    """Sidecar and confounds of a run."""
    Path(f"{stem}_{name}.json").write_text(json.dumps({"RepetitionTime": TR_S}))
    table.to_csv(f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False, na_rep="n/a")


def volumes(root: Path, raw: Raw) -> Path:
    shape = (8, 9, 10)
    labels = rng_of("volume").integers(0, len(PARCELS) + 1, shape)
    labels.flat[: len(PARCELS)] = np.arange(len(PARCELS)) + 1
    inside = np.ones(shape, np.uint8)
    inside[-1] = 0
    for showing, (values, table) in raw.items():
        stem = _stem(root, showing)
        scan = np.zeros((*shape, len(values)), np.float32)
        scan[inside > 0] = at_places(values, labels[inside > 0], "volume").T
        save(Path(f"{stem}_space-{SPACE}_desc-preproc_bold.nii.gz"), scan, tr_s=TR_S)
        save(Path(f"{stem}_space-{SPACE}_desc-brain_mask.nii.gz"), inside)
        _beside(stem, f"space-{SPACE}_desc-preproc_bold", table)
    names = [f"{number}\t{name}" for number, name in enumerate(PARCELS, start=1)]
    (root / "atlas.tsv").write_text("\n".join(["index\tname", *names]) + "\n")
    return save(root / "atlas.nii.gz", labels.astype(np.int16))


def grayordinates(root: Path, raw: Raw) -> Path:
    n = 10 * HALF
    axis = BrainModelAxis.from_surface(np.arange(n), 32492, "CORTEX_LEFT")
    axis += BrainModelAxis.from_surface(np.arange(n) + 7, 32492, "CORTEX_RIGHT")
    keys = np.concatenate([rng_of("left").permutation(n) % HALF + 1, rng_of("right").permutation(n) % HALF + HALF + 1])
    for showing, (values, table) in raw.items():
        stem = _stem(root, showing)
        series = SeriesAxis(0, TR_S, len(values))
        image = nib.Cifti2Image(at_places(values, keys, "grayordinates"), (series, axis))
        nib.save(image, f"{stem}_space-fsLR_den-91k_bold.dtseries.nii")
        _beside(stem, "space-fsLR_den-91k_bold", table)
    names = {0: "???", **dict(enumerate(PARCELS, start=1))}
    return dlabel(root / "atlas.dlabel.nii", axis, keys, names, np.int32)


def surfaces(root: Path, raw: Raw) -> Path:
    sides = {hemi: rng_of(hemi).permutation(40962) % (HALF + 1) for hemi in "LR"}
    for showing, (values, table) in raw.items():
        stem = _stem(root, showing)
        for hemi, keys in sides.items():
            parcel = np.where(keys > 0, keys + (HALF if hemi == "R" else 0), 0)
            name = f"hemi-{hemi}_space-fsaverage6_bold"
            path = Path(f"{stem}_{name}.func.gii")
            write_gifti(path, at_places(values, parcel, hemi), encoding="GIFTI_ENCODING_B64BIN")
            _beside(stem, name, table)
    names = {hemi: ["???", *(name for name in PARCELS if name[0] == hemi)] for hemi in "LR"}
    return pair(root / "atlas", "annot", sides["L"], sides["R"], names)


def _cleaned(values: np.ndarray, table: pd.DataFrame) -> np.ndarray:
    """What a lab makes of it with nilearn."""
    how: Any = {"filter": "cosine", "high_pass": HIGH_PASS_HZ, "t_r": TR_S, "standardize": None}
    return np.asarray(clean(values, confounds=table[MOTION], **how), dtype=np.float32)


def challenge(root: Path, raw: Raw) -> None:
    path = root / "scans" / SUBJECT / "func" / f"{SUBJECT}_task-movie10_space-{SPACE}_bold.h5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        for number, (showing, (values, table)) in enumerate(raw.items(), start=1):
            file[f"ses-{number:03d}_task-{showing}"] = _cleaned(values, table)
    _targets(root)


def arrays(root: Path, raw: Raw) -> None:
    parts, rows = [], []
    for showing, (values, table) in raw.items():
        segment, _, run = showing.partition("_run-")
        parts.append(_cleaned(values, table))
        rows += [(segment, round(row * TR_S, 6), run or "1") for row in range(len(values))]
    (root / "scans").mkdir()
    np.save(root / f"scans/{SUBJECT}.npy", np.concatenate(parts))
    columns = ["segment", "onset_s", "repeat"]
    pd.DataFrame(rows, columns=columns).to_csv(root / f"scans/{SUBJECT}.tsv", sep="\t", index=False)
    _targets(root)


def _targets(root: Path) -> None:
    pd.DataFrame({"name": PARCELS}).to_csv(root / "scans/targets.tsv", sep="\t", index=False)


FORMS: dict[str, Callable[[Path, Raw], Path | None]] = {
    SPACE: volumes,
    "fsLR": grayordinates,
    "fsaverage6": surfaces,
    "algonauts2025": challenge,
    "arrays": arrays,
}


Found = tuple[pd.DataFrame, pd.DataFrame]


def findings(study: Folder, root: Path, form: str, raw: Raw) -> Found:
    """What the commands find in one form: scores at each parcel's layer, and at all layers."""
    root.mkdir()
    atlas, mine = FORMS[form](root, raw), Folder(root / "study")
    stimuli = study.root / study.params()["stimuli"]
    words = ["--template", "own", "--stimuli", str(stimuli), "--scans", str(root / "scans"), "--test", "dune"]
    if atlas is not None:
        words += ["--atlas", str(atlas), "--space", form]
    mine.must("init", str(mine.root), *words)

    def choose(params: dict[str, Any]) -> None:
        params["models"] = {MODEL: study.params()["models"][MODEL]}
        params["compute"]["models"] = [MODEL]
        params["brain"]["targets"] = "parcels"
        if atlas is not None:
            params["brain"] |= {"confounds": "motion", "high_pass_hz": HIGH_PASS_HZ}
        params["ceiling"] = {"use": "repeats"}
        params["encode"]["alphas"]["n"] = 10

    mine.change(choose)
    # What films and network are to all of them.
    for name in ("data/films.csv", f"data/features/{MODEL}"):
        (mine.root / name).parent.mkdir(parents=True, exist_ok=True)
        (mine.root / name).symlink_to(study.root / name)
    for command in (["brain", SUBJECT], ["ceiling"], ["encode", MODEL], ["whole-brain"], ["layerwise"]):
        mine.must(*command)
    chosen, layers = (
        pd.read_csv(mine.root / f"results/tables/{name}.csv").query("subject == @SUBJECT")
        for name in ("whole_brain", "layerwise")
    )
    return chosen.set_index("parcel"), layers.set_index(["parcel", "layer"])


@pytest.fixture(scope="module")
def raw(study: Folder) -> Raw:
    return {showing: raw_parcels(study, showing) for showing in SHOWINGS}


@pytest.fixture(scope="module")
def of_volumes(study: Folder, raw: Raw, tmp_path_factory: pytest.TempPathFactory) -> Found:
    return findings(study, tmp_path_factory.mktemp("forms") / "volumes", SPACE, raw)


def test_volumes_show_what_was_planted(of_volumes: Found) -> None:
    chosen, _ = of_volumes
    assert list(chosen.index) == list(PARCELS)
    depth, planted = (layers.replace("embed", "block00").str[-2:].astype(int) for layers in (chosen["layer"], PLANTED))
    assert ((depth - planted).abs() <= 1).mean() > 0.8  # by chance a quarter of them
    assert chosen["score"].min() > 0.4


@pytest.mark.parametrize("form", list(FORMS)[1:])
def test_each_form_shows_the_same(study: Folder, raw: Raw, of_volumes: Found, tmp_path: Path, form: str) -> None:
    chosen, layers = findings(study, tmp_path / form, form, raw)
    assert chosen["layer"].to_dict() == of_volumes[0]["layer"].to_dict()
    assert layers.index.equals(of_volumes[1].index)
    for found, expected in zip((chosen, layers), of_volumes, strict=True):
        np.testing.assert_allclose(found["score"], expected["score"], atol=0.001)
