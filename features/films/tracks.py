"""The streams of a file that are the film's picture and sound, and the turns that its frames need to be shown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from cinecube.features.films.decoding import anew, opened, shown_frames
from cinecube.features.films.pictures import guessed_matrix, to_rgb
from cinecube.features.films.segment import Picture, Sound, Tracks
from cinecube.store.base.errors import StudyError

_STILLS = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_ASIDES = (
    Disposition.comment
    | Disposition.visual_impaired
    | Disposition.hearing_impaired
    | Disposition.descriptions
    | Disposition.dub
    | Disposition.karaoke
    | Disposition.lyrics
    | Disposition.clean_effects
    | Disposition.non_diegetic
)
_ASIDE_WORDS = ("commentary", "audio description", "descriptive")  # titles of tracks whose flags say nothing
# Slides and thumbnails are that much rarer than frames of the picture beside them.
_RARE = 10
# Sizes are rounded when films are cropped; such pixels are as good as square.
_SQUARE = Fraction(1, 100)
_WIDEST = 8
_HDR = {16: "PQ", 18: "HLG"}  # numbers of ITU-T H.273
_WIDE = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
# Versions without this file took untagged films for BT.709 from this height on.
_OLD_HD_HEIGHT = 720
_ASKEW_DEGREES = 1
_GRAY_AND_ALPHA = 2


def find_tracks(path: Path, where: str) -> Tracks:
    """Choose the streams that are read of a file: one picture, one sound track.

    Among several pictures, covers, stills and thumbnails are left out; the first that is flagged default is taken, else
    the first. Among several sound tracks, commentary, descriptions and dubs are left out, then likewise.

    Parameters
    ----------
    path : Path
    where : str
        The film, for messages.

    Returns
    -------
    Tracks

    Raises
    ------
    StudyError
        If there is neither, or the picture is none that can be shown as players do.
    """
    with opened(path, where) as container:
        videos = [stream for stream in container.streams.video if not stream.disposition & _STILLS]
        sounds = [stream for stream in container.streams.audio if stream.codec_context is not None]
        if any(stream.codec_context is None for stream in videos):
            raise StudyError(
                where=where,
                found="a picture in a codec that is not known here",
                expected="H.264 or another that FFmpeg decodes",
                do="encode it anew",
            )
        several = [stream.index for kind in (videos, sounds) if len(kind) > 1 for stream in kind]
        packets = _packets(container, several)
        most = max((packets[stream.index] for stream in videos), default=0)
        moving = [stream for stream in videos if packets[stream.index] * _RARE >= most]
        heard = [stream for stream in sounds if packets[stream.index] or not several]
        chosen, voice = _choose(moving), _choose([stream for stream in heard if not _is_aside(stream)] or heard)
        said = [_said("picture", chosen, videos), _said("sound", voice, sounds)]
        if len(sounds) < len(container.streams.audio):
            said.append("a sound track in a codec that is not known here is not read")
        picture = _picture(path, where, container, chosen, said) if chosen else None
        sound = Sound(voice.index, voice.index == container.streams.audio[0].index) if voice else None
    if picture is None and sound is None:
        raise StudyError(
            where=where, found="no picture and no sound", expected="a film", do="use a file that has either"
        )
    return Tracks(picture, sound, tuple(words for words in said if words))


def orientation(frame: Any) -> tuple[bool, int] | None:
    """Mirroring of a frame, left to right, and the quarter turns clockwise that it then needs.

    None if the frame does not say: it is then as the one before it, as streams say this at their key frames only.

    Raises
    ------
    ValueError
        If it is to be shown askew.
    """
    try:
        matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    except ValueError:  # some other side data is newer than PyAV, which then gives the angle alone
        return (False, round(-frame.rotation / 90) % 4) if frame.rotation else None
    if matrix is None:
        return None
    # The place (x, y) of a pixel, down from the upper left, becomes (ax + cy, bx + dy).
    a, b, _, c, d, *_ = np.frombuffer(matrix, np.int32, 9).astype(float)
    length = max(math.hypot(a, b), math.hypot(c, d))
    if length == 0:
        return None
    mirrored = bool(a * d - b * c < 0)
    sign = -1 if mirrored else 1
    angle = math.degrees(math.atan2(sign * b, sign * a))
    turns = round(angle / 90)
    if abs(angle - 90 * turns) > _ASKEW_DEGREES:
        raise ValueError(f"{angle:.0f}°")
    return mirrored, turns % 4


def _packets(container: Any, streams: Sequence[int]) -> Counter[int]:
    """Number of packets of each of several streams; it reads the whole file, so only where there is a choice."""
    found: Counter[int] = Counter()
    if streams:
        for packet in container.demux([container.streams[index] for index in streams]):
            found[packet.stream.index] += packet.size > 0
    return found


def _choose(streams: Sequence[Any]) -> Any:
    """The first that is flagged default, else the first, if there is any."""
    flagged = [stream for stream in streams if stream.disposition & Disposition.default]
    return next(iter([*flagged, *streams]), None)


def _is_aside(stream: Any) -> bool:
    title = str(stream.metadata.get("title", "")).casefold()
    return bool(stream.disposition & _ASIDES) or any(word in title for word in _ASIDE_WORDS)


def _said(kind: str, chosen: Any, streams: Sequence[Any]) -> str:
    """Name the one of several streams that is read, and the reason."""
    if chosen is None or len(streams) == 1:
        return ""
    others = ", ".join(_named(stream) for stream in streams if stream is not chosen)
    why = "flagged default" if chosen.disposition & Disposition.default else "the first of its kind"
    return f"{kind} is stream {_named(chosen)}, {why}, not {others}"


def _named(stream: Any) -> str:
    words = [str(stream.metadata[key]) for key in ("language", "title") if stream.metadata.get(key, "und") != "und"]
    return f"{stream.index} ({', '.join(words)})" if words else str(stream.index)


def _picture(path: Path, where: str, container: Any, stream: Any, said: list[str]) -> Picture | None:
    """Picture of a stream as it is shown; None if it is one still beside sound."""
    with closing(shown_frames(path, where, stream.index)) as frames:
        frame, more = next(frames, None), next(frames, None)
    if frame is None:
        raise StudyError(
            where=where, found="no frame that can be shown", expected="a picture", do="copy the film again"
        )
    if more is None and container.streams.audio:
        said.append("one still picture is not read")
        return None
    old = next(other for other in container.streams.video if not other.disposition & Disposition.attached_pic)
    mirrored, turns = _upright(path, where, container, frame)
    aspect = _aspect(path, where, container, stream)
    found = Picture(
        stream=stream.index,
        width=frame.width,
        height=frame.height,
        first=stream.index == old.index,
        mirrored=mirrored,
        turns=turns,
        pixel_aspect=aspect,
        colours=_colours(frame),
    )
    said += _looks(found, frame)
    _check_colours(path, where, container, frame, found)
    return found


def _upright(path: Path, where: str, container: Any, frame: Any) -> tuple[bool, int]:
    try:
        return orientation(frame) or (False, 0)
    except ValueError as error:
        raise StudyError(
            where=where,
            found=f"a picture that is to be turned by {error}",
            expected="quarter turns",
            do=f"turn it: {anew(path, container, '-c:a copy')}",
        ) from None


def _aspect(path: Path, where: str, container: Any, stream: Any) -> Fraction:
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    if not Fraction(1, _WIDEST) <= aspect <= _WIDEST:
        raise StudyError(
            where=where,
            found=f"pixels {float(aspect):g} times as wide as high",
            expected=f"at most {_WIDEST} times",
            do=f"correct it: {anew(path, container, '-vf setsar=1 -c:a copy')}",
        )
    return Fraction(1) if abs(aspect - 1) < _SQUARE else aspect


def _colours(frame: Any) -> str:
    """Name unusual colours: those of brighter or wider screens, and those that older versions guessed."""
    wide = [_HDR.get(frame.color_trc), _WIDE.get(frame.color_primaries)]
    is_yuv = not frame.format.is_rgb and len(frame.format.components) > _GRAY_AND_ALPHA
    guessed = "BT.709" if is_yuv and guessed_matrix(frame) and frame.height < _OLD_HD_HEIGHT else None
    return ", ".join(name for name in (*wide, guessed) if name)


def _looks(picture: Picture, frame: Any) -> list[str]:
    """Lines on what is done to frames and what is not."""
    said = []
    if picture.mirrored or picture.turns:
        ways = {"mirrored": picture.mirrored, f"turned by {90 * picture.turns}° clockwise": picture.turns}
        said.append(f"picture {' and '.join(way for way, done in ways.items() if done)}")
    if picture.pixel_aspect != 1:
        aspect = picture.choices["pixel_aspect"]
        said.append(f"pixels of {aspect} made square, {picture.width} of them {picture.square_width}")
    if frame.color_trc in _HDR:
        said.append(f"HDR ({picture.colours}) read as it is stored, without tone mapping")
    elif frame.color_primaries in _WIDE:
        said.append(f"colours of {picture.colours} read as those of BT.709")
    if any(component.is_alpha for component in frame.format.components):
        said.append("transparency is not read")
    return said


def _check_colours(path: Path, where: str, container: Any, frame: Any, picture: Picture) -> None:
    """Refuse colours that cannot be converted, before extraction begins."""
    try:
        to_rgb(frame, picture, VideoReformatter())
    except (av.error.FFmpegError, ValueError) as error:
        raise StudyError(
            where=where,
            found=f"colours that cannot be converted ({frame.format.name}, {frame.colorspace})",
            expected="RGB or those of BT.601, BT.709 or BT.2020",
            do=f"convert them: {anew(path, container, '-vf scale=out_color_matrix=bt709 -colorspace bt709 -c:a copy')}",
        ) from error
