"""Sampled frames of a segment, decoded in one stream: memory does not grow with the film."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from cinecube.features.films.decoding import shown_frames
from cinecube.features.films.segment import Picture, SegmentInfo
from cinecube.store.base.errors import StudyError

# Rounds alike on every CPU, and keeps the chroma of saturated edges.
_CONVERSION = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_UNSPECIFIED = 2
_HD_WIDTH, _SD_HEIGHT = 1280, 576


def sampled_frames(info: SegmentInfo, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Frames of a segment by number.

    Decoding starts at the first frame whatever is asked: seeking lands on other frames in some containers, and a
    resumed extraction must see what an undisturbed one sees.

    Parameters
    ----------
    info : SegmentInfo
        From `probe`.
    numbers : sequence of int
        Rising frame numbers.

    Yields
    ------
    int, ndarray
        A number and its frame, (height, width, 3) uint8 RGB in the colours that the film's tags state, upright and in
        square pixels.

    Raises
    ------
    StudyError
        If there is no picture, or it is not what it was when it was probed.
    """
    wanted = iter(numbers)
    due = next(wanted, None)
    if due is None:
        return
    if info.tracks.picture is None:
        raise StudyError(
            where=info.where,
            found="no picture",
            expected="one, which this network reads",
            do="leave the film out of this network's `compute`",
        )
    convert = VideoReformatter()
    with closing(shown_frames(info.path, info.where, info.tracks.picture.stream)) as frames:
        for number, frame in enumerate(frames):
            if number == due:
                yield number, to_rgb(frame, info.tracks.picture, convert)
                due = next(wanted, None)
                if due is None:
                    return
    raise StudyError(
        where=info.where,
        found="the end of the picture",
        expected=f"frame {due} of {info.n_frames}",
        do="do not change films while they are read",
    )


def guessed_matrix(frame: Any) -> Colorspace | None:
    """Colour matrix of a film without tags: BT.709 above the size of television, as players assume.

    swscale takes all of them for BT.601.
    """
    large = frame.width >= _HD_WIDTH or frame.height > _SD_HEIGHT
    return Colorspace.ITU709 if large and frame.colorspace == _UNSPECIFIED else None


def to_rgb(frame: Any, picture: Picture, convert: VideoReformatter) -> np.ndarray:
    """A frame as it is shown, (height, width, 3) uint8 RGB.

    Parameters
    ----------
    frame : av.VideoFrame
    picture : Picture
        The stream, with its turns and aspect.
    convert : VideoReformatter
        Kept between frames, as making one takes time.

    Returns
    -------
    array of uint8, shape (height, width, 3)
    """
    rgb = convert.reformat(
        frame,
        width=picture.square_width,
        format="rgb24",
        src_colorspace=guessed_matrix(frame),
        interpolation=_CONVERSION,
        threads=1,
    )
    values = np.asarray(rgb.to_ndarray())
    if picture.mirrored:
        values = values[:, ::-1]
    return np.ascontiguousarray(np.rot90(values, -picture.turns))
