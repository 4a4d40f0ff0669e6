"""What a lab has, small: films, an fMRIPrep tree of responses that follow them, an atlas.

Each row of a segment has a level. Pictures are as bright and sounds as loud as their row's level, and voxels follow it
two rows later, so that whatever reads a film, or its levels, predicts the brain.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
from av.stream import Disposition
from tests.store.scan_tree import SHAPE, SPACE, confounds_table, label_values, mask_values, save

TR_S, ROWS, LAG = 1.49, 30, 2
RATE_HZ, SOUND_HZ = 5, 16_000
PARCELS = ("L_A", "R_A", "L_B", "R_B")

Films = Mapping[str, Sequence[str]]


def levels(segment: str) -> np.ndarray:
    """What happens in a segment, 0 to 1 (row,)."""
    drawn: np.ndarray = np.random.default_rng(zlib.crc32(segment.encode())).random(ROWS)
    return drawn


def table_of(films: Films) -> pd.DataFrame:
    """The levels of all films as a table of features: `segment`, `onset_s`, `level`."""
    rows = [(name, round(row * TR_S, 6), level) for name in _segments(films) for row, level in enumerate(levels(name))]
    return pd.DataFrame(rows, columns=["segment", "onset_s", "level"])


def make_lab(
    root: Path,
    films: Films,
    subjects: Sequence[str],
    *,
    picture: bool = True,
    sound: bool = True,
    commented: Sequence[str] = (),
) -> Path:
    """`films`, `fmriprep` and `atlas.nii.gz` below `root`.

    Films without a picture are sound files. Those that are `commented` have a second track of sound before their own,
    which is flagged default.
    """
    for film, names in films.items():
        for name in names:
            path = root / "films" / film / (f"{name}.mkv" if picture else f"{name}.wav")
            _write_film(path, picture, sound, name in commented)
    for subject in subjects:
        for name in _segments(films):
            _write_scan(root / "fmriprep", subject, name)
    save(root / "atlas.nii.gz", label_values())
    names = [f"{number}\t{name}_ROI" for number, name in enumerate(PARCELS, start=1)]
    (root / "atlas.tsv").write_text("\n".join(["index\tname", *names]) + "\n", encoding="utf-8")
    return root


def _segments(films: Films) -> list[str]:
    return [name for names in films.values() for name in names]


def _write_film(path: Path, picture: bool, sound: bool, commented: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    by_frame = np.repeat(levels(path.stem), round(TR_S * RATE_HZ * 100))[::100]
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=RATE_HZ) if picture else None
        n_tracks = sound + commented
        tracks: list[Any] = [container.add_stream("pcm_s16le", rate=SOUND_HZ, layout="mono") for _ in range(n_tracks)]
        if commented:
            tracks[0].disposition, tracks[-1].disposition = Disposition.comment, Disposition.default
        if video:
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            for level in by_frame:
                gray = np.full((48, 64, 3), 40 + 170 * level, np.uint8)
                container.mux(video.encode(av.VideoFrame.from_ndarray(gray, format="rgb24")))
            container.mux(video.encode(None))
        for track, loudness in zip(tracks, [np.ones(ROWS)] * commented + [levels(path.stem)] * sound, strict=True):
            loud = np.repeat(loudness, round(TR_S * SOUND_HZ))
            noise = np.random.default_rng(0).standard_normal(loud.size) * 6000 * loud
            frame = av.AudioFrame.from_ndarray(noise.astype(np.int16)[None], format="s16", layout="mono")
            frame.sample_rate = SOUND_HZ
            container.mux(track.encode(frame))
            container.mux(track.encode(None))


def _write_scan(root: Path, subject: str, segment: str) -> None:
    rng = np.random.default_rng(zlib.crc32(f"{subject} {segment}".encode()))
    course = np.concatenate([np.full(LAG, 0.5), levels(segment)[:-LAG]])
    values = 1000 + 40 * course + 5 * rng.standard_normal((*SHAPE, ROWS))
    stem = f"{subject}_task-{segment}"
    bold = root / subject / "func" / f"{stem}_space-{SPACE}_desc-preproc_bold.nii.gz"
    save(bold, values.astype(np.float32), tr_s=TR_S)
    save(bold.with_name(f"{stem}_space-{SPACE}_desc-brain_mask.nii.gz"), mask_values())
    bold.with_name(bold.name.replace(".nii.gz", ".json")).write_text(json.dumps({"RepetitionTime": TR_S}))
    table = confounds_table(zlib.crc32(stem.encode()), ROWS)
    table.to_csv(bold.with_name(f"{stem}_desc-confounds_timeseries.tsv"), sep="\t", index=False, na_rep="n/a")
