from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import pytest

from cinecube.features.films.containers import stated_bytes
from cinecube.features.films.probing import probe
from cinecube.store.base.errors import StudyError

NTSC_FILM, NTSC = Fraction(24000, 1001), Fraction(30000, 1001)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("rate", [NTSC_FILM, Fraction(25), NTSC], ids=str)
def test_probe_reads_rate_and_length(tmp_path, write_film, make_clicks, rate, suffix):
    film = write_film(tmp_path / f"a.{suffix}", rate=rate, n_frames=90, sound=make_clicks(3, [1]))
    info = probe(film)
    assert (info.rate_hz, info.n_frames, info.width, info.height) == (rate, 90, 96, 64)
    assert info.duration_s == pytest.approx(float(90 / rate), abs=1e-9)
    assert info.sound_rate_hz == 48000
    assert stated_bytes(film) == film.stat().st_size


def test_frame_at_clips_to_the_last_frame(tmp_path, write_film):
    info = probe(write_film(tmp_path / "a.mp4", rate=Fraction(25), n_frames=50))
    assert [info.frame_at(t) for t in (0.0, 0.0399, 0.04, 7 * 0.04, 1.99, 5.0)] == [0, 0, 1, 7, 49, 49]
    assert not info.has_sound


@pytest.mark.parametrize("kept", [0.5, 0.97])
@pytest.mark.parametrize(("suffix", "options"), [("mp4", {}), ("mp4", {"movflags": "faststart"}), ("mkv", {})])
def test_truncated_film_is_refused(tmp_path, write_film, make_clicks, suffix, options, kept):
    film = write_film(tmp_path / f"a.{suffix}", sound=make_clicks(4, [1]), **options)
    film.write_bytes(film.read_bytes()[: int(film.stat().st_size * kept)])
    with pytest.raises(StudyError, match=r"truncated film of \d+ bytes, expected the \d+ that its header states"):
        probe(film)


def test_film_cut_at_a_border_that_its_structure_does_not_show_is_refused(tmp_path, write_film, make_clicks):
    """A Matroska segment of unknown length, as live recordings have, states its duration only."""
    film = write_film(tmp_path / "a.mkv", sound=make_clicks(4, [1]))
    data = bytearray(film.read_bytes())
    length = data.index(b"\x18\x53\x80\x67") + 4
    data[length : length + 8] = b"\x01" + b"\xff" * 7
    film.write_bytes(data[: len(data) // 2])
    assert stated_bytes(film) is None
    with pytest.raises(StudyError, match="truncated film of .* s, expected the 4.0 s that its header states"):
        probe(film)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_frame_rate_is_refused_with_the_command_that_mends_it(tmp_path, write_film, suffix):
    film = write_film(tmp_path / f"a.{suffix}", ticks=lambda number: number + 2 * (number > 60))
    with pytest.raises(StudyError, match=rf"variable frame rate .*ffmpeg -i a.{suffix} -vf fps=2\d.*-c:a copy OUT"):
        probe(film)


def test_missing_and_unreadable_films_are_refused(tmp_path):
    with pytest.raises(StudyError, match="amber01: found no file"):
        probe(tmp_path / "amber01.mp4", "amber01")
    (tmp_path / "text.mkv").write_text("no film at all " * 100)
    with pytest.raises(StudyError, match="unreadable film"):
        probe(tmp_path / "text.mkv")


def test_probing_needs_no_name(tmp_path: Path, write_film):
    film = write_film(tmp_path / "a.mp4", n_frames=10)
    shutil.copy(film, tmp_path / "b.mp4")
    assert probe(tmp_path / "b.mp4").where.endswith("b.mp4")
