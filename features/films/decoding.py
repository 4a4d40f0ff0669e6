"""Frames of a film's picture and sound, as decoders give them: all that can be shown, or an error."""

from __future__ import annotations

import ctypes
import errno
import shlex
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from cinecube.store.base.errors import StudyError, environment_error

Told = Callable[[int], None]
"""Called with the bytes of each packet that was decoded."""

# What keeps a film in one file. FFmpeg also opens lists that name other files, and descriptions of streams to receive,
# whatever the name of the file that they are in.
_CONTAINERS = (
    "mov matroska avi mpeg mpegts mpegvideo asf flv ogg dv mxf gxf rm nut ivf h264 hevc m4v obu "
    "wav w64 flac mp3 aac ac3 eac3 dts aiff caf au amr ape wv"
)
_ONE_FILE = {"format_whitelist": ",".join(_CONTAINERS.split()), "protocol_whitelist": "file"}

# To hand a smaller picture to another thread costs as much as half of decoding it.
_SMALL_PIXELS = 320 * 240

_RATES = ("10", "12", "12.5", "15", "20", "24000/1001", "24", "25", "30000/1001", "30", "48", "50", "60000/1001", "60")


@contextmanager
def opened(path: Path, where: str) -> Iterator[Any]:
    """Open a film file for reading.

    Parameters
    ----------
    path : Path
    where : str
        The film, for messages.

    Yields
    ------
    av.container.InputContainer

    Raises
    ------
    StudyError
        If it is no film, or lacks its index.
    """
    try:
        # Titles of old films are in no known encoding; a name with a colon is no protocol.
        container = av.open(f"file:{path}", metadata_errors="replace", container_options=_ONE_FILE)
    except (av.error.FFmpegError, OSError) as error:
        if error.errno == errno.EINVAL:
            raise StudyError(
                where=where,
                found="a file of a format that is no film's or sound's, or a list of other files",
                expected="pictures and sound in one file",
                do="export the film to .mp4 or .mkv",
            ) from None
        # FFmpeg says EIO of a file that ends early, too.
        refused = None if error.errno == errno.EIO else environment_error(error, str(path))
        raise refused or StudyError(
            where=where,
            found=f"an unreadable film ({error.strerror or error})",
            expected="a whole film",
            do="copy it again; it may be truncated",
        ) from None
    with container:
        yield container


def shown_frames(path: Path, where: str, stream: int, told: Told | None = None) -> Generator[Any]:
    """All frames of a picture in the order in which they are shown.

    A film that was cut between two key frames may begin with frames that refer to what is gone. No player can show
    them, and they are left out: frame zero is the first that can be shown.

    Parameters
    ----------
    path : Path
    where : str
        What messages call the film.
    stream : int
        Its number in the file.
    told : callable, optional

    Yields
    ------
    av.VideoFrame

    Raises
    ------
    StudyError
        If a later frame is damaged or does not decode.
    """
    times = _Times()
    with opened(path, where) as container:
        source = container.streams[stream]
        source.thread_type = "AUTO" if source.width * source.height > _SMALL_PIXELS else "NONE"
        how = f"-vf fps={usual_rate(source.average_rate or Fraction(25))} -c:a copy"
        try:
            for frame in _decoded(container, source, lambda frame: not frame.is_corrupt, told):
                times.add(frame)
                if frame.is_corrupt:
                    raise _damaged(path, where, container, times, "a damaged frame", how)
                yield frame
        except av.error.FFmpegError as error:
            found = f"a picture that does not decode ({error.strerror})"
            raise _damaged(path, where, container, times, found, how) from None


def heard_frames(path: Path, where: str, stream: int) -> Generator[Any]:
    """All frames of a sound track; what does not decode before the first that does is left out.

    Parameters
    ----------
    path : Path
    where : str
        The film, for messages.
    stream : int
        Number of the sound track in the file.

    Yields
    ------
    av.AudioFrame

    Raises
    ------
    StudyError
        If a later one does not decode.
    """
    times = _Times()
    with opened(path, where) as container:
        try:
            for frame in _decoded(container, container.streams[stream], lambda _: True, None):
                keep_layout(frame)
                times.add(frame)
                yield frame
        except av.error.FFmpegError as error:
            found = f"sound that does not decode ({error.strerror})"
            raise _damaged(path, where, container, times, found, "-c:v copy -c:a pcm_s16le") from None


def keep_layout(frame: Any) -> str:
    """The name of a frame's layout of channels, which is kept from being freed twice.

    A layout of its own order, as QuickTime has, holds a list. PyAV copies the pointer to it, and frees the list with
    the frame and again with `frame.layout`, which ends the process: so that object has to stay, a hundred bytes each.
    """
    name = str(frame.layout.name)
    if "(" in name:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(frame.layout))
    return name


def anew(path: Path, container: Any, how: str) -> str:
    """The command that makes another film of a file.

    Parameters
    ----------
    path : Path
    container : Any
        The file, opened.
    how : str
        What ffmpeg is asked for: codecs, filters.

    Returns
    -------
    str
        A line for the shell that writes `OUT.mkv`.
    """
    several = len(container.streams.video) > 1 or len(container.streams.audio) > 1
    maps = " -map 0:V -map 0:a?" if several else ""
    return f"ffmpeg -i {shlex.quote(path.name)}{maps} {how} OUT.mkv"


def usual_rate(rate: Fraction) -> str:
    """The usual frame rate nearest to `rate`, as ffmpeg takes it."""
    return min(_RATES, key=lambda text: abs(Fraction(text) - rate))


def _decoded(container: Any, source: Any, whole: Callable[[Any], bool], told: Told | None) -> Iterator[Any]:
    """Frames from the first whole one on."""
    begun = False
    for packet in container.demux(source):
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            if begun:
                raise
            frames = []
        for frame in frames:
            begun = begun or whole(frame)
            if begun:
                yield frame
        if told:
            told(packet.size)


class _Times:
    """State of decoding."""

    def __init__(self) -> None:
        self._first_s = self._last_s = 0.0
        self._begun = False

    def add(self, frame: Any) -> None:
        if frame.pts is None:
            return
        self._last_s = float(frame.pts * frame.time_base)
        if not self._begun:
            self._first_s, self._begun = self._last_s, True

    @property
    def seconds(self) -> float:
        return max(0.0, self._last_s - self._first_s)


def _damaged(path: Path, where: str, container: Any, times: _Times, found: str, how: str) -> StudyError:
    return StudyError(
        where=f"{where} at {times.seconds:.2f} s",
        found=found,
        expected="a film that decodes to its end",
        do=f"copy it again, or keep what is left of it: {anew(path, container, how)}",
    )
