"""Segments as files: drawn frames and sound in MP4, H.264 and AAC."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from cinecube.simulation.film.frame_code import burn_frame_number
from cinecube.simulation.film.picture import DrawnPicture
from cinecube.simulation.film.script import write_script
from cinecube.simulation.film.soundtrack import DrawnSound
from cinecube.simulation.film.timeline import Segment
from cinecube.simulation.setup.simulate_params import SimulateSpec

_BT709, _LIMITED = 1, 1
_SAMPLES_PER_PACKET = 1024


def draw_frames(spec: SimulateSpec, segment: Segment, film_s: float) -> Iterator[np.ndarray]:
    """Frames of a segment in order, (height, width, 3) uint8 RGB, each with its number in the segment.

    Parameters
    ----------
    spec : SimulateSpec
    segment : Segment
    film_s : float
        Seconds of the whole film.

    Yields
    ------
    array of uint8, shape (height, width, 3)
    """
    picture = DrawnPicture(write_script(spec.seed, segment.film, film_s), spec.width, spec.height)
    for number in range(segment.n_frames):
        rgb = picture.draw(float((segment.first_frame + number) / segment.rate))
        burn_frame_number(rgb, number)
        yield rgb


def draw_sound(spec: SimulateSpec, segment: Segment, film_s: float) -> np.ndarray:
    """Sound of a segment, (2, samples) float32.

    Parameters
    ----------
    spec : SimulateSpec
    segment : Segment
    film_s : float
        Seconds of the whole film.

    Returns
    -------
    array of float32, shape (2, sample)
    """
    sound = DrawnSound(write_script(spec.seed, segment.film, film_s), spec.sample_rate_hz)
    return sound.draw(segment.first_sample, segment.n_samples)


def write_movie(path: Path, frames: Iterator[np.ndarray], sound: np.ndarray, spec: SimulateSpec) -> None:
    """Encode a segment; the same frames and sound give the same bytes.

    Parameters
    ----------
    path : Path
        The MP4 to write; its folder must exist.
    frames : iterator of ndarray
        (height, width, 3) uint8 RGB.
    sound : ndarray
        (channel, sample) float32 in [-1, 1].
    spec : SimulateSpec
        Frame rate, size and sample rate.
    """
    with av.open(str(path), "w", format="mp4") as container:
        video, audio = _video_stream(container, spec), _audio_stream(container, spec)
        # One converter for all frames: setting it up costs more than a frame.
        converter = VideoReformatter()
        packets = _sound_packets(sound, spec.sample_rate_hz)
        for number, rgb in enumerate(frames):
            container.mux(video.encode(_as_yuv(rgb, number, spec.rate, converter)))
            # The muxer sorts packets by time, which is slow when all sound comes after the picture.
            due = round((number + 1) / spec.rate * spec.sample_rate_hz)
            while packets and packets[-1][0] < due:
                container.mux(audio.encode(packets.pop()[1]))
        container.mux(video.encode(None))
        while packets:
            container.mux(audio.encode(packets.pop()[1]))
        container.mux(audio.encode(None))


def _sound_packets(sound: np.ndarray, rate_hz: int) -> list[tuple[int, av.AudioFrame]]:
    """Blocks of sound with their first sample, the last block first."""
    packets = []
    for first in range(0, sound.shape[1], _SAMPLES_PER_PACKET):
        block = np.ascontiguousarray(sound[:, first : first + _SAMPLES_PER_PACKET])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, first, Fraction(1, rate_hz)
        packets.append((first, frame))
    return packets[::-1]


def _audio_stream(container: Any, spec: SimulateSpec) -> Any:
    """A stereo AAC stream; the fast coder at a high rate is both quicker and truer than the default one."""
    stream = container.add_stream("aac", rate=spec.sample_rate_hz, layout="stereo")
    stream.codec_context.bit_rate = 320_000
    stream.options = {"aac_coder": "fast"}
    return stream


def _video_stream(container: Any, spec: SimulateSpec) -> Any:
    """An H.264 stream whose tags say which colours it holds."""
    stream = container.add_stream("libx264", rate=spec.rate)
    stream.width, stream.height, stream.pix_fmt = spec.width, spec.height, "yuv420p"
    stream.options = {"crf": "14", "preset": "superfast"}
    context = stream.codec_context
    # One thread: x264's choices, and so the bytes, depend on the number of them.
    context.thread_count = 1
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = _LIMITED
    return stream


def _as_yuv(rgb: np.ndarray, number: int, rate: Fraction, converter: VideoReformatter) -> av.VideoFrame:
    """A frame in the stream's own colours."""
    frame = converter.reformat(
        av.VideoFrame.from_ndarray(rgb, format="rgb24"),
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        threads=1,
    )
    frame.colorspace, frame.color_range = _BT709, _LIMITED
    frame.pts, frame.time_base = number, 1 / rate
    return frame
