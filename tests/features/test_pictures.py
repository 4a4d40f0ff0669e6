from __future__ import annotations

import io
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cinecube.features.extraction.windows import frame_numbers
from cinecube.features.films.pictures import sampled_frames
from cinecube.features.films.probing import probe
from cinecube.features.films.small_pictures import small_pictures
from cinecube.features.networks.network import Reading
from cinecube.store.base.errors import StudyError
from cinecube.store.clock.clock import Clock


def _reading(n_frames: int) -> Reading:
    return Reading((), frames_per_window=n_frames, window_s=1.49)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001)], ids=str)
def test_windows_see_exactly_the_frames_shown_at_their_times(tmp_path, write_film, read_number, rate, suffix):
    """Against the plain definition: the last frame whose time is not after t, in exact arithmetic."""
    n_frames = 200
    info = probe(write_film(tmp_path / f"a.{suffix}", rate=rate, n_frames=n_frames))
    clock = Clock(tr_s=1.49, window_s=1.49)
    wanted = []
    for row in range(clock.n_rows(info.duration_s)):
        onset = Fraction(149, 100) * row
        times = [onset + (Fraction(2 * j + 1, 2)) * Fraction(149, 100) / 4 for j in range(4)]
        shown = [max(k for k in range(n_frames) if k / rate <= t) for t in times]
        assert frame_numbers(info, row, float(clock.onsets_s(row + 1)[row]), _reading(4)) == shown
        wanted += shown
    found = {number: read_number(rgb) for number, rgb in sampled_frames(info, sorted(set(wanted)))}
    assert found == {number: number for number in wanted}


def test_a_film_that_starts_late_or_early_counts_from_its_first_frame(tmp_path, write_film, read_number):
    info = probe(write_film(tmp_path / "a.mkv", ticks=lambda number: number + 40))
    assert info.start_s == Fraction(8, 5)
    assert [read_number(rgb) for _, rgb in sampled_frames(info, [0, 1, 99])] == [0, 1, 99]


def test_red_is_red(tmp_path, write_film):
    red = np.zeros((64, 96, 3), np.uint8)
    red[..., 0] = 255
    info = probe(write_film(tmp_path / "a.mp4", n_frames=5, frame=lambda _: red))
    (_, rgb), *_ = sampled_frames(info, [2])
    assert rgb.dtype == np.uint8
    assert np.abs(rgb.astype(int) - red).max() <= 4


def test_a_damaged_frame_is_refused_with_its_second(tmp_path, write_film):
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    film = write_film(tmp_path / "a.mp4", frame=lambda number: np.roll(noise, number, axis=1))
    data = bytearray(film.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    film.write_bytes(data)
    with pytest.raises(StudyError, match=r"amber01 at [12].\d\d s: found .*, expected a film that decodes to its end"):
        probe(film, "amber01")


_PEAK = """
import sys
from pathlib import Path
from cinecube.features.films.pictures import sampled_frames
from cinecube.features.films.probing import probe
from cinecube.features.films.small_pictures import small_pictures

def peak_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024

short, long = (probe(Path(name)) for name in sys.argv[1:3])
for _ in sampled_frames(short, range(200)):
    pass
before, kept = peak_bytes(), []
for frame in sampled_frames(long, range(4000)):
    if sys.argv[3] == "keep":
        kept.append(frame)
print(peak_bytes() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory as Linux tells it")
def test_memory_does_not_grow_with_the_film(tmp_path, write_film):
    """Twenty times the film, decoded whole: the peak grows by less than a tenth of its frames' bytes.

    In a process of its own: in one that ran other tests, frames that are kept may hide in memory freed before.
    """
    films = [write_film(tmp_path / f"{n}.mp4", n_frames=n) for n in (200, 4000)]
    grown = {
        way: int(subprocess.run([sys.executable, "-c", _PEAK, *films, way], check=True, capture_output=True).stdout)
        for way in ("forget", "keep")
    }
    frames_bytes = 4000 * 96 * 64 * 3
    assert grown["forget"] < frames_bytes / 10
    assert grown["keep"] > frames_bytes / 2  # the test can fail


def test_small_pictures_are_those_of_their_times(tmp_path, stimuli, study, read_number, caplog):
    pictures = small_pictures(study, tmp_path)
    times_s = [0.0, 0.5, 66 / 25, 3.3, 11.9]  # 66 / 25 is above it as a float
    shown = [np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in pictures("amber01", times_s)]
    assert [read_number(rgb) for rgb in shown] == [int(25 * time_s) for time_s in times_s]
    assert pictures("birch01", [1.0]) == []  # its film is not here
    assert "no pictures of birch01" in caplog.text
