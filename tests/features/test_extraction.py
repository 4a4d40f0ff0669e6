from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from cinecube.features.extraction import block_reading
from cinecube.features.extraction.spec import feature_spec
from cinecube.features.extraction.stage import extract_film
from cinecube.features.networks.network import Network
from cinecube.features.networks.registry import find_network
from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import fingerprint
from cinecube.store.base.journal import open_journal
from cinecube.store.base.paths import StudyPaths

LAYERS = ["embed", "block01", "block02", "block03"]
ROWS = {"amber01": 9, "amber02": 7}


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def _with_run(study, **changes):
    return study.model_copy(update={"run": study.run.model_copy(update=changes)})


@pytest.fixture
def crash_after(monkeypatch):
    """Makes the network fail at its n-th batch."""

    def set_up(n_batches: int) -> None:
        def failing(extractor: str, where: str) -> Network:
            network = find_network(extractor, where)

            def load(folder, reading):
                loaded, left = network.load(folder, reading), [n_batches]

                class Failing:
                    prepare_frame = staticmethod(loaded.prepare_frame)

                    def __call__(self, batch):
                        if left[0] == 0:
                            raise RuntimeError("power cut")
                        left[0] -= 1
                        return loaded(batch)

                return Failing()

            return replace(network, load=load)

        monkeypatch.setattr(block_reading, "find_network", failing)
        monkeypatch.setattr(block_reading, "_loaded", {})

    return set_up


@pytest.mark.parametrize("model", ["vit", "videomae", "wav2vec2"])
def test_cube_is_what_xarray_reads(study, tmp_path, model):
    seen = []
    summary = extract_film(study, model, "amber", tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert summary.rows == summary.windows == summary.windows_computed == 16
    assert seen[0] == (0, 16)
    assert seen[-1] == (16, 16)
    cube = xr.open_zarr(StudyPaths(tmp_path).features(model, "amber"))
    assert cube["features"].dims == ("time", "dim", "model", "layer")
    assert cube["features"].shape == (16, 24, 1, 4)
    assert cube["features"].dtype == np.float32
    assert list(cube["segment"].values) == [name for name, n in ROWS.items() for _ in range(n)]
    np.testing.assert_allclose(cube["onset_s"], [1.49 * i for n in ROWS.values() for i in range(n)], atol=1e-6)
    assert list(cube["layer"].values) == LAYERS
    assert list(cube["model"].values) == [model]
    np.testing.assert_allclose(cube["depth"], [[0, 1 / 3, 2 / 3, 1]])
    assert (cube["width"] == 24).all()
    assert np.isfinite(cube["features"].values).all()
    assert cube.attrs["licence"] == "apache-2.0"
    assert cube.attrs["fingerprint"] == fingerprint(json.loads(cube.attrs["spec"])) == summary.fingerprint
    assert json.loads(cube.attrs["spec"]) == feature_spec(study, model, "amber", tmp_path)
    journals = StudyPaths(tmp_path).journals
    assert not [path for path in journals.iterdir() if path.is_dir()]


def test_depth_of_some_layers_is_their_place_in_the_whole_network(study, tmp_path):
    params = study.models["vit"].model_copy(update={"layers": ["block01"]})
    chosen = study.model_copy(update={"models": {**study.models, "vit": params}})
    extract_film(chosen, "vit", "amber", tmp_path)
    cube = xr.open_zarr(StudyPaths(tmp_path).features("vit", "amber"))
    np.testing.assert_allclose(cube["depth"], [[1 / 3]])


def test_a_row_is_the_network_on_the_frames_of_its_window(study, tmp_path, checkpoints):
    """By the long way round: all frames decoded here, one window cut out, one forward pass."""
    import av
    import torch
    from transformers import AutoImageProcessor, AutoModel

    extract_film(study, "vit", "amber", tmp_path)
    cube = xr.open_zarr(StudyPaths(tmp_path).features("vit", "amber"))
    with av.open(str(tmp_path / "stimuli" / "amber" / "amber02.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    chosen = [frames[int((3 * 1.49 + (j + 0.5) * 1.49 / 4) * 25)] for j in range(4)]
    pixels = AutoImageProcessor.from_pretrained(checkpoints["vit"])(chosen, return_tensors="pt").pixel_values
    with torch.no_grad():
        states = AutoModel.from_pretrained(checkpoints["vit"])(pixels, output_hidden_states=True).hidden_states
    expected = np.stack([state.mean(dim=(0, 1)).numpy() for state in states], axis=-1)
    row = cube["features"].isel(time=9 + 3, model=0).values
    assert np.abs(row - expected).max() / np.abs(expected).max() < 1e-2  # conversions to RGB round differently


@pytest.mark.parametrize("model", ["vit", "wav2vec2"])
def test_resumed_is_undisturbed(study, tmp_path, crash_after, model, monkeypatch):
    path = StudyPaths(tmp_path).features(model, "amber")
    extract_film(study, model, "amber", tmp_path)
    undisturbed = _digest(path)
    before = path.stat().st_mtime_ns
    assert extract_film(study, model, "amber", tmp_path).windows_computed == 0
    assert path.stat().st_mtime_ns == before
    path.rename(tmp_path / "kept")
    crash_after(7)
    with pytest.raises(RuntimeError, match="power cut"):
        extract_film(study, model, "amber", tmp_path)
    assert not path.exists()
    monkeypatch.undo()
    summary = extract_film(study, model, "amber", tmp_path)
    assert 0 < summary.windows_computed < summary.rows == 16
    assert "of them from an earlier run" in str(summary)
    assert _digest(path) == undisturbed


@pytest.mark.parametrize("model", ["vit", "wav2vec2"])
def test_a_damaged_journal_changes_no_number(study, tmp_path, crash_after, model, monkeypatch, caplog):
    path, small = StudyPaths(tmp_path).features(model, "amber"), _with_run(study, block_rows=2)
    extract_film(small, model, "amber", tmp_path)
    undisturbed = _digest(path)
    path.rename(tmp_path / "kept")
    crash_after(7)
    with pytest.raises(RuntimeError, match="power cut"):
        extract_film(small, model, "amber", tmp_path)
    monkeypatch.undo()
    first, second, *_ = files = sorted(StudyPaths(tmp_path).journals.rglob("*.npy"))
    kept = sum(len(np.load(file)) for file in files[2:-1])
    content = bytearray(files[-1].read_bytes())
    content[200] ^= 4
    files[-1].write_bytes(content)
    first.rename(tmp_path / "aside")
    second.rename(first)
    (tmp_path / "aside").rename(second)
    summary = extract_film(small, model, "amber", tmp_path)
    assert summary.windows_computed == 16 - kept
    assert "3 of " in caplog.text
    assert _digest(path) == undisturbed


@pytest.mark.one_in(3)
@pytest.mark.parametrize("model", ["vit", "videomae", "vivit", "wav2vec2", "ast", "imagebind", "tvlt"])
def test_blocks_and_batches_change_no_byte(study, tmp_path, model):
    path, seen = StudyPaths(tmp_path).features(model, "amber"), set()
    for block_rows, batch in ((1, 1), (7, 3), (64, 16), (512, 5)):
        extract_film(_with_run(study, block_rows=block_rows, batch=batch), model, "amber", tmp_path)
        seen.add(_digest(path))
        shutil.rmtree(path)
    assert len(seen) == 1


@pytest.mark.one_in(2)
@pytest.mark.parametrize("model", ["vit", "videomae", "wav2vec2"])
def test_threads_change_no_value_beyond_rounding(study, tmp_path, model):
    path = StudyPaths(tmp_path).features(model, "amber")
    extract_film(study, model, "amber", tmp_path)
    first = xr.open_zarr(path).load()
    path.rename(tmp_path / "kept")
    extract_film(_with_run(study, batch=16, threads=2, block_rows=512), model, "amber", tmp_path)
    second = xr.open_zarr(path).load()
    assert first.attrs == second.attrs
    difference = np.abs(first["features"] - second["features"]).max() / np.abs(first["features"]).max()
    assert float(difference) <= 1e-5


def test_float16_holds_the_same_to_its_precision(study, tmp_path):
    extract_film(study, "vit", "amber", tmp_path)
    path = StudyPaths(tmp_path).features("vit", "amber")
    first = xr.open_zarr(path).load()["features"]
    half = study.models["vit"].model_copy(update={"dtype": "float16"})
    extract_film(study.model_copy(update={"models": {**study.models, "vit": half}}), "vit", "amber", tmp_path)
    second = xr.open_zarr(path).load()["features"]
    assert second.dtype == np.float16
    np.testing.assert_allclose(second.values.astype(np.float32), first.values, rtol=1e-3, atol=1e-3)


def test_a_second_writer_is_refused(study, tmp_path):
    paths = StudyPaths(tmp_path)
    spec = feature_spec(study, "vit", "amber", tmp_path)
    with (
        open_journal(paths.journals, spec, "here"),
        pytest.raises(StudyError, match="data/features/vit/amber.zarr: found another process extracting it"),
    ):
        extract_film(study, "vit", "amber", tmp_path)
    assert extract_film(study, "vit", "amber", tmp_path).windows_computed == 16


def test_a_damaged_cube_is_made_anew(study, tmp_path):
    path = StudyPaths(tmp_path).features("vit", "amber")
    extract_film(study, "vit", "amber", tmp_path)
    whole = _digest(path)
    next((path / "features" / "c").rglob("2")).unlink()
    assert extract_film(study, "vit", "amber", tmp_path).windows_computed == 16
    assert _digest(path) == whole


def _no_sound(study, root, write_film):
    write_film(root / "stimuli" / "amber" / "amber02.mp4", n_frames=225)


def _truncated(study, root, write_film):
    film = root / "stimuli" / "amber" / "amber02.mp4"
    film.write_bytes(film.read_bytes()[:-5000])


def _no_segment(study, root, write_film):
    (root / "stimuli" / "amber" / "amber02.mp4").unlink()


def _other_record(study, root, write_film):
    path = StudyPaths(root).checkpoint("wav2vec2")
    path.write_text(path.read_text().replace('"weights_digest":"', '"weights_digest":"0'))


def _old_record(study, root, write_film):
    path = StudyPaths(root).checkpoint("wav2vec2")
    path.write_text(path.read_text().replace('"extractor_version":2', '"extractor_version":0'))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            _no_sound,
            "stimuli/amber/amber02.mp4: found no sound track, expected sound, which wav2vec2 reads; take wav2vec2 out",
        ),
        (_truncated, "stimuli/amber/amber02.mp4: found a truncated film"),
        (_no_segment, "segment amber02: found no file, expected stimuli/amber/amber02.mkv or"),
        (_other_record, "a record of other weights.*re-run `dvc repro`"),
        (_old_record, "a record by version 0.3 of wav2vec2, expected version 2.3"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_bad_input_leaves_what_was_stored(study, tmp_path, write_film, spoil, message):
    extract_film(study, "wav2vec2", "amber", tmp_path)
    before = _digest(StudyPaths(tmp_path).features("wav2vec2", "amber"))
    spoil(study, tmp_path, write_film)
    with pytest.raises(StudyError, match=message):
        extract_film(study, "wav2vec2", "amber", tmp_path)
    assert _digest(StudyPaths(tmp_path).features("wav2vec2", "amber")) == before


def test_features_that_are_not_finite_are_refused_at_once(study, tmp_path, monkeypatch):
    class Broken:
        def prepare_frame(self, rgb):
            return np.zeros((3, 2, 2), np.float32)

        def __call__(self, batch):
            values = {("", label): np.zeros((len(batch.frames), 24), np.float32) for label in LAYERS}
            values["", "block02"][0, 3] = np.inf
            return values

    network = replace(find_network("vit", ""), load=lambda folder, reading: Broken())
    monkeypatch.setattr(block_reading, "find_network", lambda extractor, where: network)
    monkeypatch.setattr(block_reading, "_loaded", {})
    with pytest.raises(StudyError, match=r"amber01.mp4 at 0.00 s: found features that are NaN or infinite"):
        extract_film(study, "vit", "amber", tmp_path)


def test_a_device_that_is_not_there_is_refused(study, tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(StudyError, match="run.device: found cuda, expected a CUDA device"):
        extract_film(_with_run(study, device="cuda"), "vit", "amber", tmp_path)


def test_streams_of_one_pass_are_labels_of_one_cube(study, tmp_path):
    extract_film(study, "imagebind", "amber", tmp_path)
    cube = xr.open_zarr(StudyPaths(tmp_path).features("imagebind", "amber")).load()
    assert list(cube["model"].values) == ["imagebind.video", "imagebind.audio", "imagebind.concat"]
    assert list(cube["layer"].values) == [*LAYERS, "head"]
    assert cube["width"].values.tolist() == [[24, 24, 24, 24, 8], [16, 16, 16, 0, 8], [0, 0, 0, 0, 16]]
    np.testing.assert_allclose(cube["depth"].values[:2, :4], [[0, 1 / 3, 2 / 3, 1], [0, 0.5, 1, np.nan]])
    values = cube["features"]
    for m in range(3):
        for k in range(5):
            width = int(cube["width"][m, k])
            assert np.isfinite(values[:, :width, m, k]).all()
            assert np.isnan(values[:, width:, m, k]).all()
    heads = values.sel(layer="head")
    both = np.concatenate([heads.sel(model=f"imagebind.{part}").values[:, :8] for part in ("video", "audio")], axis=1)
    np.testing.assert_array_equal(heads.sel(model="imagebind.concat").values[:, :16], both)
    tvlt = extract_film(study, "tvlt", "amber", tmp_path)
    with xr.open_zarr(tvlt.path) as cube:
        assert list(cube["model"].values) == ["tvlt.video", "tvlt.audio", "tvlt.joint"]
        joint = cube["features"].sel(model="tvlt.joint", layer="block02")
        assert float(np.abs(joint - cube["features"].sel(model="tvlt.video", layer="block02")).max()) > 1e-3


def _with_model(study, model, **changes):
    params = study.models[model].model_copy(update=changes)
    return study.model_copy(update={"models": {**study.models, model: params}})


@pytest.mark.parametrize("method", ["mean", "lanczos"])
def test_windows_closer_than_rows_become_rows(study, tmp_path, method):
    """Against the windows themselves, extracted as the rows of a study whose clock is that fast."""
    path = StudyPaths(tmp_path).features("wav2vec2", "amber")
    strided = _with_model(study, "wav2vec2", stride_s=0.5, resample=method, pooling="last", context_s=2.0)
    summary = extract_film(strided, "wav2vec2", "amber", tmp_path)
    assert (summary.rows, summary.windows) == (16, 24 + 18)
    rows = xr.open_zarr(path).load()
    np.testing.assert_allclose(rows["onset_s"][:9], 1.49 * np.arange(9))
    assert (rows["window_s"] == 1.49).all()
    path.rename(tmp_path / "kept")
    fast = _with_model(study, "wav2vec2", pooling="last", context_s=2.0)
    fast = fast.model_copy(update={"clock": study.clock.model_copy(update={"tr_s": 0.5, "window_s": 0.5})})
    extract_film(fast, "wav2vec2", "amber", tmp_path)
    windows = xr.open_zarr(path).load()["features"].isel(model=0, layer=2).values[:24]
    found = rows["features"].isel(model=0, layer=2).values
    if method == "mean":  # row 2 is 2.98 to 4.47 s: of windows 5 (2.5 to 3.0) to 8 (4.0 to 4.5) by their overlap
        weights = np.array([0.02, 0.5, 0.5, 0.47])
        expected = (weights[:, None] * windows[5:9]).sum(axis=0) / weights.sum()
    else:
        lobes = (2.98 + 0.745 - (np.arange(24) * 0.5 + 0.25)) / 1.49
        weights = np.where(np.abs(lobes) < 3, np.sinc(lobes) * np.sinc(lobes / 3), 0)
        expected = (weights[:, None] * windows).sum(axis=0) / weights.sum()
    np.testing.assert_allclose(found[2], expected, atol=1e-5)


def test_a_model_sees_a_window_of_its_own(study, tmp_path):
    path = StudyPaths(tmp_path).features("vit", "amber")
    extract_film(_with_model(study, "vit", window_s=2.98, frames_per_window=2), "vit", "amber", tmp_path)
    wide = xr.open_zarr(path).load()
    assert (wide["window_s"] == 2.98).all()
    path.rename(tmp_path / "kept")
    # Two frames at the middles of the halves of 2.98 s: the middles of two rows of 1.49 s.
    extract_film(_with_model(study, "vit", frames_per_window=1), "vit", "amber", tmp_path)
    rows = xr.open_zarr(path).load()["features"].values
    np.testing.assert_allclose(wide["features"].values[0], (rows[0] + rows[1]) / 2, atol=1e-5)


def test_the_published_choices_drop_the_last_block(study, tmp_path):
    path = StudyPaths(tmp_path).features("vivit", "amber")
    extract_film(study, "vivit", "amber", tmp_path)
    right = xr.open_zarr(path).load()
    path.rename(tmp_path / "kept")
    extract_film(_with_model(study, "vivit", compat="oota2025"), "vivit", "amber", tmp_path)
    theirs = xr.open_zarr(path).load()
    assert list(right["layer"].values) == LAYERS
    assert list(theirs["layer"].values) == LAYERS[:-1]
    assert json.loads(theirs.attrs["spec"])["compat"] == "oota2025"
    assert float(np.abs(theirs["features"] - right["features"].isel(layer=slice(3))).max()) > 0.01
