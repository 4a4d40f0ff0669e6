from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from cinecube.features.extraction.windows import sound_spans
from cinecube.features.films.probing import probe
from cinecube.features.films.sound import sound_windows
from cinecube.features.networks.network import Reading
from cinecube.store.base.errors import StudyError

RATE_HZ = 16000


def _onset(sound: np.ndarray) -> int:
    """First sample of the click."""
    return int(np.argmax(np.abs(sound) > 0.25 * np.abs(sound).max()))


@pytest.mark.parametrize("start_s", [0.0, 0.5])
@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "aac"), ("mkv", "aac"), ("mkv", "libmp3lame"), ("mkv", "flac")])
def test_a_click_lands_at_its_sample(tmp_path, write_film, make_clicks, suffix, codec, start_s):
    film = write_film(tmp_path / f"a.{suffix}", sound=make_clicks(3.5, [2.0]), sound_codec=codec, sound_start_s=start_s)
    (sound,) = sound_windows(probe(film), [(0, 4 * RATE_HZ)], RATE_HZ)
    # Matroska rounds to a millisecond, and a lossy codec smears an edge by about as much.
    assert abs(_onset(sound) - round((2.0 + start_s) * RATE_HZ)) <= 24


@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100, 48000])
def test_resampling_shifts_nothing(tmp_path, write_film, rate_hz):
    """A slow sine, sampled at any rate, is the sine."""
    time = np.arange(4 * 48000) / 48000
    sine = np.stack([np.sin(2 * np.pi * 100 * time)] * 2).astype(np.float32) / 2
    info = probe(write_film(tmp_path / "a.mkv", sound=sine, sound_codec="flac"))
    (sound,) = sound_windows(info, [(rate_hz, 3 * rate_hz)], rate_hz)
    expected = np.sin(2 * np.pi * 100 * np.arange(rate_hz, 3 * rate_hz) / rate_hz) / 2
    assert np.abs(sound - expected).max() < 2e-3


@pytest.mark.parametrize(("layout", "channels"), [("mono", 1), ("stereo", 2), ("5.1", 6)])
def test_mono_is_the_mean_of_the_channels(tmp_path, write_film, layout, channels):
    levels = np.linspace(0.1, 0.6, channels, dtype=np.float32)
    sound = np.repeat(levels[:, None], 3 * 48000, axis=1)
    info = probe(write_film(tmp_path / "a.mkv", sound=sound, sound_codec="flac", layout=layout))
    (mono,) = sound_windows(info, [(RATE_HZ, 2 * RATE_HZ)], RATE_HZ)
    assert mono.dtype == np.float32
    assert np.abs(mono - levels.mean()).max() < 1e-3


def test_windows_are_stretches_of_the_whole(tmp_path, write_film):
    noise = np.random.default_rng(1).normal(0, 0.1, (2, 4 * 48000)).astype(np.float32)
    info = probe(write_film(tmp_path / "a.mp4", sound=noise))
    (whole,) = sound_windows(info, [(0, 5 * RATE_HZ)], RATE_HZ)
    reading = Reading((), rate_hz=RATE_HZ, window_s=1.49, context_s=2.0)
    spans = sound_spans(np.array([0.0, 1.49, 2.98]), reading)
    assert spans == [(0, 23840), (0, 47680), (15680, 71520)]
    for (start, stop), window in zip(spans, sound_windows(info, spans, RATE_HZ), strict=True):
        np.testing.assert_array_equal(window, whole[start:stop])
    assert np.abs(whole[: 4 * RATE_HZ]).mean() > 0.01
    assert not whole[4 * RATE_HZ + 1200 :].any()  # past the end is silence; AAC's last frame may be filled up


def test_a_gap_in_the_track_is_silence_and_what_follows_keeps_its_time(tmp_path, write_film, make_clicks):
    film = write_film(tmp_path / "a.mkv", sound=make_clicks(3, [0.5, 2.5]), sound_codec="flac", sound_start_s=0)
    info = probe(film)
    plain = next(iter(sound_windows(info, [(0, 4 * RATE_HZ)], RATE_HZ)))
    with_gap = _with_gap(tmp_path, film)
    (gapped,) = sound_windows(probe(with_gap), [(0, 4 * RATE_HZ)], RATE_HZ)
    second = plain[int(2.4 * RATE_HZ) :]
    assert _onset(gapped[int(2.4 * RATE_HZ) :]) == _onset(second)
    assert not gapped[int(1.2 * RATE_HZ) : int(1.4 * RATE_HZ)].any()


def _with_gap(tmp_path, film):
    """The same packets, but for those of the sound from 1.0 to 1.5 s."""
    import av

    path = tmp_path / "gap.mkv"
    with av.open(str(film)) as source, av.open(str(path), "w") as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            dropped = packet.stream.type == "audio" and packet.pts and 1.0 <= packet.pts * packet.time_base < 1.5
            if packet.size and not dropped:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    return path


def test_no_sound_track_is_refused(tmp_path, write_film):
    info = probe(write_film(tmp_path / "a.mp4"), "amber01")
    with pytest.raises(StudyError, match="amber01: found no sound track, expected sound"):
        next(iter(sound_windows(info, [(0, 10)], RATE_HZ)))


def test_memory_does_not_grow_with_the_track(tmp_path, write_film):
    minutes = 4
    quiet = np.zeros((2, minutes * 60 * 48000), np.float32)
    info = probe(write_film(tmp_path / "a.mkv", n_frames=10, sound=quiet, sound_codec="flac"))
    del quiet
    spans = sound_spans(np.arange(minutes * 60.0), Reading((), rate_hz=RATE_HZ, window_s=1.0, context_s=4.0))
    tracemalloc.start()
    for _ in sound_windows(info, spans, RATE_HZ):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 5 * RATE_HZ * 4  # a few windows of 5 s; the track is 48 of them
