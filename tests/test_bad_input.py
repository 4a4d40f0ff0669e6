"""Bad input gives one line, exit code 1, and leaves what was stored as it was."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import nibabel as nib
import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("bounded")

if TYPE_CHECKING:
    from tests.conftest import Folder

AMBER = "data/stimuli/amber/amber01.mp4"
BOLD = "data/scans/sub-01/**/*_task-amber01_*_desc-preproc_bold.nii.gz"


def _remux_without_sound(path: Path) -> None:
    silent = path.with_suffix(".silent.mp4")
    with av.open(str(path)) as source, av.open(str(silent), "w") as sink:
        stream = sink.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                sink.mux(packet)
    silent.replace(path)


def _truncate(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: len(data) * 2 // 3])


def _replace(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text)


def _write_variable_rate(path: Path) -> None:
    path.unlink()
    with av.open(str(path), "w") as sink:
        video = sink.add_stream("libx264", rate=Fraction(25))
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        sound = sink.add_stream("aac", rate=16000, layout="mono")
        for number in range(100):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number * 40 + (number // 10) * 200, Fraction(1, 1000)
            sink.mux(video.encode(frame))
        sink.mux(video.encode(None))
        wave = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        wave.sample_rate, wave.pts = 16000, 0
        sink.mux(sound.encode(wave))
        sink.mux(sound.encode(None))


def _edit_bold(root: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    path = next(root.glob(BOLD))
    image = nib.load(path)
    data = change(np.array(image.dataobj, dtype=np.float32))  # type: ignore[attr-defined]
    path.unlink()
    # A fresh header: the original's stores whole numbers, which cannot be NaN.
    edited = nib.Nifti1Image(data, image.affine)  # type: ignore[attr-defined]
    edited.header.set_zooms(image.header.get_zooms())  # type: ignore[attr-defined]
    nib.save(edited, path)


def _cut_volumes(root: Path) -> None:
    _edit_bold(root, lambda data: data[..., :20])


def _flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(bytes(data))


CASES: dict[str, tuple[Callable[[Folder], object], tuple[str, ...], str]] = {
    "no sound track": (
        lambda f: _remux_without_sound(f.root / AMBER),
        ("features", "wav2vec2", "amber"),
        r"amber01.mp4: found no sound track, expected .*; ",
    ),
    "truncated film": (
        lambda f: _truncate(f.root / AMBER),
        ("films",),
        r"amber01.mp4: found .*(truncat|end|byte|moov)",
    ),
    "variable frame rate": (
        lambda f: _write_variable_rate(f.root / AMBER),
        ("films",),
        r"amber01.mp4: found .*variable frame rate.*ffmpeg",
    ),
    "missing segment": (
        lambda f: (f.root / AMBER).unlink(),
        ("features", "vit", "amber"),
        r"amber01: found no file, expected data/stimuli/amber/amber01.mkv or .*mp4",
    ),
    "too few volumes": (
        lambda f: _cut_volumes(f.root),
        ("brain", "sub-01"),
        r"sub-01 amber01 repeat 1: found 20 volumes \(29.8 s\), expected \d+ rows of film",
    ),
    "unknown parameter key": (
        lambda f: f.change(lambda p: p["models"]["vit"].update(frames_per_windw=3)),
        ("features", "vit", "amber"),
        r"models.vit.frames_per_windw: found an unknown key.*did you mean 'frames_per_window'",
    ),
    "unknown key of simulate": (
        lambda f: f.change(lambda p: p["simulate"].update(nois=3)),
        ("films",),
        r"simulate: nois: found an unknown key 'nois'.*did you mean 'noise'",
    ),
    "unknown model name": (
        lambda _: None,
        ("features", "vitt", "amber"),
        r"no model 'vitt', expected one of vit, .*did you mean 'vit'",
    ),
    "unknown film": (lambda _: None, ("features", "vit", "life"), r"no film 'life'"),
    "unknown subject": (lambda _: None, ("brain", "sub-77"), r"no subject 'sub-77'"),
    "missing checkpoint": (
        lambda f: f.change(lambda p: p["models"]["vit"].update(checkpoint="data/weights/gone")),
        ("checkpoint", "vit"),
        r"models.vit.checkpoint: found no data/weights/gone, expected a folder.*hub id",
    ),
    "other weights than recorded": (
        lambda f: f.change(lambda p: p["models"]["vit"].update(checkpoint="data/weights/videomae")),
        ("features", "vit", "amber"),
        r"checkpoints/vit.json: .*data/weights/videomae",
    ),
    "a layer not pulled": (
        lambda f: (f.root / "data/features/vit/amber.zarr/features/c/0/0/0/5").unlink(),
        ("encode", "vit"),
        r"vit/amber.zarr: found no shard of vit block05, expected every layer; fetch",
    ),
    "a flipped byte": (
        lambda f: _flip_byte(f.root / "data/features/vit/amber.zarr/features/c/0/0/0/5"),
        ("encode", "vit"),
        r"features of vit amber block05: found damaged bytes .*checksum.*run `cinecube verify",
    ),
    "a flipped byte of a scan": (
        lambda f: _flip_byte(next(p for p in (f.root / "data/brain/sub-01.zarr/bold/c").rglob("*") if p.is_file())),
        ("encode", "vit"),
        r"brain cube of sub-01: found damaged bytes .*checksum.*run `cinecube verify",
    ),
    "penalties that fall": (
        lambda f: f.change(lambda p: p["encode"]["alphas"].update(min=10, max=1)),
        ("encode", "vit"),
        r"encode.alphas: found min 10 and max 1, expected a max above min",
    ),
    "a device that is none": (
        lambda f: f.change(lambda p: p["run"].update(device="gpu")),
        ("encode", "vit"),
        r"run.device: found 'gpu', expected .*cuda",
    ),
    "a stream where a model is wanted": (
        lambda _: None,
        ("encode", "tvlt.joint"),
        r"no model or pair 'tvlt.joint', expected one of .*; streams of tvlt come together: ask for it",
    ),
    "a subject that score cubes lack": (
        lambda f: f.change(lambda p: p["brain"]["subjects"].append("sub-09")),
        ("whole-brain",),
        r"scores/vit.zarr: found no scores of sub-09, expected all of brain.subjects; run `dvc repro encode@vit`",
    ),
    "a layer of a map without layers": (
        lambda _: None,
        ("export", "depth", "map.csv", "--model", "vit", "--layer", "block01"),
        r"map depth: found layer block01, expected none.*leave out --layer",
    ),
    "a model of the ceiling": (
        lambda _: None,
        ("export", "ceiling", "map.csv", "--model", "vit"),
        r"map ceiling: found model vit, expected none.*leave out --model",
    ),
    "an atlas for voxels": (
        lambda _: None,
        ("export", "score", "map.nii.gz", "--model", "vit", "--atlas", "data/scans/atlas"),
        r"found an atlas for voxels, expected one for parcels alone.*leave out --atlas",
    ),
    "a reference for a table": (
        lambda _: None,
        ("export", "score", "map.csv", "--model", "vit", "--reference", "run.dtseries.nii"),
        r"found a reference for .csv, expected one for .dscalar.nii alone",
    ),
    "a folder that is no cube": (
        lambda _: None,
        ("show", "data"),
        r"data: found a folder that is no cube, expected a Zarr v3 group; look into it with `cinecube ls",
    ),
    "an unknown command": (
        lambda _: None,
        ("encod",),
        r"No such command 'encod'; did you mean 'encode'\? see `.* --help`",
    ),
    "an unknown option": (
        lambda _: None,
        ("encode", "vit", "--fast"),
        r"encode: No such option.*--fast.*see `.*encode --help`",
    ),
    "an argument too few": (lambda _: None, ("features", "vit"), r"Missing argument 'FILM'; see `.*features --help`"),
    "a map that is none": (lambda _: None, ("export", "scores", "map.csv"), r"'scores' is not one of 'score'.*see `"),
    "a table that was cut": (
        lambda f: _truncate(f.root / "results/tables/whole_brain_mean.csv"),
        ("report",),
        r"whole_brain_mean.csv: found a last line that is cut, expected the results of a stage; run `dvc repro`",
    ),
    "a table of quality that was emptied": (
        lambda f: _replace(f.root / "data/brain/sub-01.qc.csv", ""),
        ("report",),
        r"sub-01.qc.csv: found an empty file, expected the results of a stage; run `dvc repro`",
    ),
    "text where scores should be": (
        lambda f: _replace(f.root / "results/tables/roi.csv", "roi,subject,model,score\nA,sub-01,vit,high\n"),
        ("significance",),
        r"roi.csv column score: found 'high' in row 1, expected finite numbers; run `dvc repro`",
    ),
    "a truth that was cut": (
        lambda f: _truncate(f.root / "data/truth/truth.json"),
        ("report",),
        r"truth.json: found no JSON .*; run `dvc repro`",
    ),
    "no brain cube": (
        lambda f: f.change(lambda p: p["brain"]["subjects"].append("sub-09")),
        ("encode", "vit"),
        r"sub-09.zarr: found no cube",
    ),
}


def _stored(root: Path) -> dict[str, bytes]:
    """Every file of every cube and table that a stage wrote."""
    kept = {}
    for folder in ("data/features", "data/brain", "data/checkpoints", "results"):
        kept |= {str(p.relative_to(root)): p.read_bytes() for p in (root / folder).rglob("*") if p.is_file()}
    return kept | {"films.csv": (root / "data/films.csv").read_bytes()}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line_and_damages_nothing(scratch: Folder, name: str) -> None:
    damage, words, line = CASES[name]
    damage(scratch)
    before = _stored(scratch.root)
    message = scratch.error(*words)
    assert re.search(line, message), message
    assert _stored(scratch.root) == before


READERS = [
    ("whole-brain",),
    ("layerwise",),
    ("report",),
    ("export", "score", "map.csv", "--model", "vit"),
]


@pytest.mark.parametrize("words", READERS, ids=lambda words: words[0])
def test_no_reader_makes_numbers_of_a_lost_or_damaged_chunk(scratch: Folder, words: tuple[str, ...]) -> None:
    chunk = next(p for p in (scratch.root / "results/scores/vit.zarr/score/c").rglob("*") if p.is_file())
    _flip_byte(chunk)
    assert re.search(r"found damaged bytes \(.*checksum.*run `cinecube verify", scratch.error(*words))
    chunk.unlink()
    assert re.search(r"found no score/c/\S+, expected every chunk.*dvc repro", scratch.error(*words))


def test_a_segment_without_a_scan_is_named(scratch: Folder) -> None:
    for path in scratch.root.glob(BOLD.replace("amber01", "birch02")):
        path.unlink()
    assert "sub-01: no scan of birch02; the brain cube has the other " in scratch.must("brain", "sub-01").stderr


def test_another_space_names_those_there_are(scratch: Folder) -> None:
    scratch.change(lambda p: p["brain"].update(space="fsaverage6"))
    assert "found scans in MNI152NLin2009cAsym" in scratch.error("brain", "sub-01")
