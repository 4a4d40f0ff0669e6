"""Films are what their script says, in the file as on the drawing board."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from cinecube.simulation.film.frame_code import HEIGHT_PX, burn_frame_number
from cinecube.simulation.film.movie import draw_frames, draw_sound
from cinecube.simulation.film.script import write_script
from cinecube.simulation.film.timeline import film_seconds, place
from cinecube.simulation.setup.simulate_params import SimulateSpec

from .burned import read_frame_number


@pytest.fixture(scope="module")
def decoded(made: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """Pictures and sound of dune01 as its file has them."""
    path = str(made / "stimuli" / "dune" / "dune01.mp4")
    with av.open(path) as film:
        pictures = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    with av.open(path) as film:
        sound = np.concatenate([frame.to_ndarray() for frame in film.decode(audio=0)], axis=1)
    return pictures, sound


def test_frame_numbers_survive_h264(spec: SimulateSpec, decoded: tuple[list[np.ndarray], np.ndarray]) -> None:
    assert [read_frame_number(rgb) for rgb in decoded[0]] == list(range(spec.frames_per_segment))


def test_frame_numbers_round_trip_and_are_bounded() -> None:
    rgb = np.full((128, 160, 3), 99, np.uint8)
    for number in (0, 1, 255, 43690, 65535):
        burn_frame_number(rgb, number)
        assert read_frame_number(rgb) == number
    with pytest.raises(ValueError, match="16 bits"):
        burn_frame_number(rgb, 65536)


def test_file_has_the_drawn_colours_and_sound(spec: SimulateSpec, decoded: tuple[list[np.ndarray], np.ndarray]) -> None:
    segments = place(spec, "dune", ["dune01"])
    pictures, sound = decoded
    drawn = list(draw_frames(spec, segments[0], film_seconds(segments)))
    assert len(drawn) == len(pictures)
    off = np.mean([a.astype(int) - b for a, b in zip(pictures, drawn, strict=True)], axis=(0, 1, 2))
    assert np.abs(off).max() < 1.5
    assert np.mean([np.abs(a.astype(int) - b).mean() for a, b in zip(pictures, drawn, strict=True)]) < 5
    wave = draw_sound(spec, segments[0], film_seconds(segments))
    both = min(wave.shape[1], sound.shape[1])
    assert abs(wave.shape[1] - sound.shape[1]) < 2048
    assert np.corrcoef(wave[0, :both], sound[0, :both])[0, 1] > 0.99


def test_neighbouring_segments_share_their_overlap(spec: SimulateSpec) -> None:
    segments = place(spec, "amber", ["amber01", "amber02"])
    seconds = film_seconds(segments)
    shared = segments[0].n_frames - segments[1].first_frame
    assert shared == pytest.approx(spec.overlap_s * 24000 / 1001, abs=1)
    before = list(draw_frames(spec, segments[0], seconds))[-shared:]
    after = list(draw_frames(spec, segments[1], seconds))[:shared]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a[HEIGHT_PX:], b[HEIGHT_PX:])
    first, second = (draw_sound(spec, segment, seconds) for segment in segments)
    samples = segments[0].n_samples - segments[1].first_sample
    np.testing.assert_array_equal(first[:, -samples:], second[:, :samples])


def test_script_has_shared_and_private_events() -> None:
    script = write_script(0, "amber", 120)
    kinds = {(event.seen, event.heard) for event in script.events}
    assert kinds == {(True, True), (True, False), (False, True)}
    assert set(script.cuts_s) & set(script.sound_cuts_s[1:])
    assert set(script.cuts_s) - set(script.sound_cuts_s)
    assert set(script.sound_cuts_s) - set(script.cuts_s)
    assert np.diff(script.cuts_s).min() >= 1.5
    assert np.diff(script.cuts_s).max() <= 6


def test_seeds_make_different_films(spec: SimulateSpec) -> None:
    segments = place(spec, "amber", ["amber01"])
    seconds = film_seconds(segments)
    other = spec.model_copy(update={"seed": spec.seed + 1})
    here, there = (next(draw_frames(s, segments[0], seconds)) for s in (spec, other))
    assert np.abs(here.astype(int) - there).mean() > 10
