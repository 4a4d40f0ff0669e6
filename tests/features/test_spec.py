from __future__ import annotations

import pytest

from cinecube.features.extraction.record import read_record
from cinecube.features.extraction.spec import feature_spec, make_reading
from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import differences, fingerprint


def _changed(study, model, **changes):
    params = study.models[model].model_copy(update=changes)
    return study.model_copy(update={"models": {**study.models, model: params}})


def test_spec_does_not_depend_on_how_fast_things_run(study, tmp_path):
    spec = feature_spec(study, "vit", "amber", tmp_path)
    run = study.run.model_copy(update={"batch": 64, "threads": 8, "device": "cuda", "block_rows": 512})
    assert feature_spec(study.model_copy(update={"run": run}), "vit", "amber", tmp_path) == spec
    assert len(fingerprint(spec)) == 64


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"sampling": "ends"}, "sampling"),
        ({"frame_pooling": "last"}, "frame_pooling"),
        ({"final_norm": True}, "final_norm"),
        ({"precision": "bfloat16"}, "precision"),
        ({"layers": ["block02", "embed"]}, "layers"),
        ({"pooling": "cls"}, "pooling"),
        ({"frames_per_window": 8}, "frames_per_window"),
        ({"dtype": "float16"}, "dtype"),
    ],
)
def test_spec_follows_what_changes_the_numbers(study, tmp_path, changes, field):
    before = feature_spec(study, "vit", "amber", tmp_path)
    after = feature_spec(_changed(study, "vit", **changes), "vit", "amber", tmp_path)
    (line,) = differences(before, after)
    assert line.startswith(f"{field}: ")


def test_defaults_and_their_explicit_values_are_one_spec(study, tmp_path):
    explicit = _changed(study, "vit", frames_per_window=4, layers=["embed", "block01", "block02", "block03"])
    assert feature_spec(explicit, "vit", "amber", tmp_path) == feature_spec(study, "vit", "amber", tmp_path)


def test_spec_follows_the_film(study, tmp_path):
    before = feature_spec(study, "vit", "amber", tmp_path)
    film = tmp_path / "stimuli" / "amber" / "amber02.mp4"
    film.write_bytes(film.read_bytes() + b"\0")
    (line,) = differences(before, feature_spec(study, "vit", "amber", tmp_path))
    assert line.startswith("stimulus.amber02: ")


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("videomae", {"pooling": "cls"}, "models.videomae.pooling: found cls, expected one of mean, last"),
        ("wav2vec2", {"pooling": "cls"}, "models.wav2vec2.pooling: found cls"),
        ("videomae", {"frames_per_window": 8}, "found 8, expected 16, which is what videomae reads"),
        ("wav2vec2", {"frames_per_window": 8}, "expected none: this network reads no picture"),
        ("vit", {"context_s": 4.0}, "found 4 s, expected 0: frames that are read one at a time have no look-back"),
        (
            "imagebind",
            {"window_s": 3.0},
            "window_s: found 3 s, expected 2.04 s or less: the network would drop the rest",
        ),
        ("ast", {"context_s": 1.5}, "found 1.5 s before windows of 1.49 s, expected 1.07 s or less"),
        ("videomae", {"frame_pooling": "last"}, "videomae does not read frames one at a time"),
        ("videomae", {"final_norm": True}, "expected false: videomae has no final norm"),
        ("wav2vec2", {"sampling": "ends"}, "none: this network reads no picture"),
        ("ast", {"compat": "oota2025"}, "no error of the published code is known for ast"),
        ("vit", {"layers": ["block04"]}, "found no layer 'block04', expected one of block03, embed, block01, block02"),
        ("vit", {"layers": []}, "models.vit.layers: found no layer"),
        ("vit", {"untrained": 1}, "found untrained None, expected 1.*re-run `dvc repro`"),
    ],
)
def test_what_a_network_does_not_have_is_refused(study, tmp_path, model, changes, message):
    with pytest.raises(StudyError, match=message):
        feature_spec(_changed(study, model, **changes), model, "amber", tmp_path)


def test_missing_record_segment_and_names_are_refused(study, tmp_path):
    with pytest.raises(StudyError, match="no model 'vitt'.*did you mean 'vit'"):
        feature_spec(study, "vitt", "amber", tmp_path)
    with pytest.raises(StudyError, match="no film 'amberr'"):
        feature_spec(study, "vit", "amberr", tmp_path)
    with pytest.raises(StudyError, match=r"segment birch01: found no file, expected stimuli/birch/birch01.mkv or "):
        feature_spec(study, "vit", "birch", tmp_path)
    (tmp_path / "data" / "checkpoints" / "vit.json").unlink()
    with pytest.raises(StudyError, match="data/checkpoints/vit.json: found no record.*cinecube checkpoint vit"):
        feature_spec(study, "vit", "amber", tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\udcff", "[" * 100_000])
def test_a_damaged_record_is_one_line(study, tmp_path, text):
    path = tmp_path / "data" / "checkpoints" / "vit.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(StudyError, match=r"data/checkpoints/vit.json.*: found .*(dvc repro|cinecube checkpoint vit)"):
        feature_spec(study, "vit", "amber", tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(StudyError, match=r"data/checkpoints/vit.json: found .*; "):
        feature_spec(study, "vit", "amber", tmp_path)


def test_two_files_of_a_segment_are_refused(study, tmp_path):
    (tmp_path / "stimuli" / "amber" / "amber01.mkv").write_bytes(b"")
    with pytest.raises(StudyError, match="segment amber01: found two files"):
        feature_spec(study, "vit", "amber", tmp_path)


def test_reading_of_a_layer_list_is_in_order_of_depth(study, tmp_path):
    chosen = _changed(study, "vit", layers=["block03", "embed"])
    (stream,) = make_reading(chosen, "vit", read_record(chosen, "vit", tmp_path)).streams
    assert (stream.name, list(stream.layers), list(stream.widths)) == ("", ["embed", "block03"], [24, 24])


def test_look_back_is_the_networks_own_as_far_as_it_fits(study, tmp_path):
    study = _changed(study, "wav2vec2", context_s=None)
    contexts = {model: feature_spec(study, model, "amber", tmp_path)["context_s"] for model in study.models}
    assert contexts == {"wav2vec2": 16.0, "ast": 1.07} | dict.fromkeys(set(study.models) - {"wav2vec2", "ast"}, 0.0)


@pytest.mark.parametrize(
    ("model", "layers"),
    [("vit", ["embed", "block01", "block02"]), ("vivit", ["embed", "block01", "block02"]), ("wav2vec2", ["embed"])],
)
def test_the_published_choices_are_a_reading_of_their_own(study, tmp_path, model, layers):
    chosen = _changed(study, model, compat="oota2025")
    reading = make_reading(chosen, model, read_record(chosen, model, tmp_path))
    assert [list(stream.layers) for stream in reading.streams] == [layers]
    assert reading.quirks.bgr == (model == "vit")
    assert reading.quirks.one_frame == (model == "vivit")


def test_of_tvlt_they_dropped_the_last_block_of_the_joint_stream(study, tmp_path):
    chosen = _changed(study, "tvlt", compat="oota2025")
    streams = make_reading(chosen, "tvlt", read_record(chosen, "tvlt", tmp_path)).streams
    assert {stream.name: stream.layers[-1] for stream in streams} == {
        "video": "block03",
        "audio": "block03",
        "joint": "block02",
    }
