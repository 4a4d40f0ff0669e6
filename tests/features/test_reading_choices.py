"""What was chosen of a film is said, recorded, and in the fingerprint where it changes numbers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from cinecube.cli import main
from cinecube.features.extraction.record import read_record
from cinecube.features.extraction.spec import feature_spec, make_spec
from cinecube.features.extraction.stage import extract_film
from cinecube.features.films import probing
from cinecube.features.films.stage import said_of_films, write_films_table
from cinecube.features.films.stimuli import segment_files
from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import differences, fingerprint
from cinecube.store.cube.heads import stored_spec


def _ffmpeg(*words: object) -> None:
    subprocess.run(["ffmpeg", "-hide_banner", "-loglevel", "error", "-y", *map(str, words)], check=True)


def _turn(film: Path) -> None:
    stored = film.with_name("stored.tmp")
    film.rename(stored)
    _ffmpeg("-f", "mp4", "-i", stored, "-map", 0, "-c", "copy", "-metadata:s:v:0", "rotate=90", film)
    stored.unlink()


def _second_track(film: Path) -> Path:
    """The film as Matroska, with a comment before its own sound."""
    other = film.with_suffix(".MKV")
    tone = "sine=frequency=440:d=20"
    maps = "-map 0:v -map 1 -map 0:a -c:v copy -c:a flac -shortest -f matroska"
    flags = "-disposition:a:0 comment -disposition:a:1 default"
    _ffmpeg("-i", film, "-f", "lavfi", "-i", tone, *maps.split(), *flags.split(), other)
    film.unlink()
    return other


def test_what_is_read_is_in_the_spec_of_networks_that_read_it(study: Any, tmp_path: Path) -> None:
    models = ("vit", "wav2vec2", "imagebind")
    before = {model: feature_spec(study, model, "amber", tmp_path) for model in models}
    _turn(tmp_path / "stimuli/amber/amber01.mp4")
    _second_track(tmp_path / "stimuli/amber/amber02.mp4")
    after = {model: feature_spec(study, model, "amber", tmp_path) for model in models}
    turned, track = {"picture": {"rotation": 270}}, {"sound": {"stream": 2}}
    assert [spec.get("read") for spec in before.values()] == [None] * 3
    assert after["vit"]["read"] == {"amber01": turned}
    assert after["wav2vec2"]["read"] == {"amber02": track}
    assert after["imagebind"]["read"] == {"amber01": turned, "amber02": track}


def test_a_cube_of_a_version_that_read_films_as_stored_is_told_apart(study: Any, tmp_path: Path) -> None:
    _turn(tmp_path / "stimuli/amber/amber01.mp4")
    spec = feature_spec(study, "vit", "amber", tmp_path)
    older = {key: value for key, value in spec.items() if key != "read"}
    assert differences(older, spec) == ["read: (absent) -> {'amber01': {'picture': {'rotation': 270}}}"]


def test_plain_films_keep_the_fingerprints_that_they_had(study: Any, tmp_path: Path) -> None:
    """Digests of weights and films differ from machine to machine, and versions rise: they are replaced."""
    fixed = {"weights_digest": "weights", "extractor_version": 1, "reading_version": 1}
    specs = {}
    for model in ("vit", "wav2vec2"):
        record = read_record(study, model, tmp_path).model_copy(update=fixed)
        specs[model] = make_spec(
            study, model, record, {"amber01": "one", "amber02": "two"}, {"amber01": {}, "amber02": {}}
        )
    assert {model: fingerprint(spec)[:16] for model, spec in specs.items()} == {
        "vit": "b5c590631a95a6a8",
        "wav2vec2": "eee122b838c31979",
    }


def test_films_says_what_was_chosen_and_features_reads_what_it_passes(study: Any, tmp_path: Path) -> None:
    _turn(tmp_path / "stimuli/amber/amber01.mp4")
    _second_track(tmp_path / "stimuli/amber/amber02.mp4")
    shutil.copytree(tmp_path / "stimuli/amber", tmp_path / "stimuli/birch")
    (tmp_path / "stimuli/birch/amber02.MKV").unlink()
    (tmp_path / "stimuli/birch/amber01.mp4").rename(tmp_path / "stimuli/birch/birch01.mp4")
    told: list[tuple[int, int]] = []
    table = write_films_table(study, tmp_path, lambda *done: told.append(done))
    assert told[-1][0] == told[-1][1]
    lines = said_of_films(table)
    assert lines[0] == "amber01: picture turned by 270° clockwise"
    assert lines[1].startswith("amber02: sound is stream 2, flagged default, not 1")
    assert lines[2] == "birch01: picture turned by 270° clockwise"
    stored = pd.read_csv(tmp_path / "data/films.csv")
    assert list(stored["read"]) == [line.split(": ", 1)[1] for line in lines]
    assert list(stored["width"]) == [64, 96, 64]
    done = extract_film(study, "imagebind", "amber", tmp_path)
    assert set(stored_spec(done.path)["read"]) == {"amber01", "amber02"}


def test_films_are_decoded_once(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study.model_copy(update={"films": {"amber": study.films["amber"]}})
    first = write_films_table(study, tmp_path)

    def never(*_: object) -> None:
        raise AssertionError("decoded again")

    with monkeypatch.context() as patched:
        patched.setattr(probing, "probe", never)
        pd.testing.assert_frame_equal(write_films_table(study, tmp_path), first)
    film = tmp_path / "stimuli/amber/amber01.mp4"
    film.write_bytes(film.read_bytes()[:-100])
    with pytest.raises(StudyError, match="truncated"):
        write_films_table(study, tmp_path)
    for note in (tmp_path / ".cinecube/probed").iterdir():  # what is damaged is not believed
        note.write_text("{}")
    film.write_bytes(b"")
    with pytest.raises(StudyError, match="unreadable"):
        write_films_table(study, tmp_path)


# --- which files are films -----------------------------------------------------------------------------------------

NAMES = [
    "a.mp4",
    "b.MP4",
    "c.mov",
    "d.MOV",
    "e.m4v",
    "f.webm",
    "g.avi",
    "h.AVI",
    "i.mpg",
    "j.ts",
    "k.M2TS",
    "l.wmv",
    "m.ogv",
    "n.mkv",
]


def _init(root: Path) -> Any:
    (root / "fmriprep/sub-01").mkdir(parents=True)
    words = ["init", str(root / "new"), "--template", "own", "--stimuli", str(root / "films"), "--scans"]
    return CliRunner().invoke(main, [*words, str(root / "fmriprep")])


def test_init_finds_films_as_people_name_them(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "films" / name).mkdir(parents=True)
    for name in (*NAMES, "._a.mp4", ".DS_Store", "._.DS_Store", "notes.txt", "a.srt", "a.wav", "Thumbs.db"):
        (tmp_path / "films/one" / name).touch()
    (tmp_path / "films/one/n.mp4").mkdir()  # a folder is no film
    (tmp_path / "films/two/x.Mp4").touch()
    result = _init(tmp_path)
    assert result.exit_code == 0, result.output
    films = yaml.safe_load((tmp_path / "new/params.yaml").read_text())["films"]
    assert films == {"one": [name.split(".")[0] for name in NAMES], "two": ["x"]}


def test_init_finds_sound_where_there_are_no_films(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "films" / name).mkdir(parents=True)
        (tmp_path / "films" / name / f"{name}01.WAV").touch()
    assert _init(tmp_path).exit_code == 0


@pytest.mark.parametrize("other", ["a.mkv", "a.MP4"])
def test_init_names_two_files_of_one_segment(tmp_path: Path, other: str) -> None:
    for name in ("one/a.mp4", f"one/{other}", "two/b.mp4"):
        (tmp_path / "films" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "films" / name).touch()
    result = _init(tmp_path)
    assert result.exit_code == 1
    assert "segment a: found two files, a." in result.stderr
    assert not (tmp_path / "new").exists()


def test_a_link_to_what_was_not_fetched_is_named(study: Any, tmp_path: Path) -> None:
    film = tmp_path / "stimuli/amber/amber01.mp4"
    film.unlink()
    film.symlink_to("../../.git/annex/objects/gone.mp4")
    assert list(segment_files(film.parent)) == ["amber01", "amber02"]
    with pytest.raises(
        StudyError,
        match=r"film amber: found a file that was not fetched: amber01.mp4, .*`datalad get \S*amber/amber01.mp4`",
    ):
        write_films_table(study, tmp_path)
