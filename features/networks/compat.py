"""Errors of the published code of Oota et al. (ICLR 2025) in its networks' input and output, to compare with it.

Each of these is an error that cinecube does not make unless a model says `compat: oota2025`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Quirks:
    """Errors to repeat.

    Attributes
    ----------
    bgr : bool
        Frames go in with red and blue exchanged, as OpenCV decodes them.
    one_frame : bool
        A clip is one frame over and over: the one after a stretch of the clip's length that ends at a random frame of
        the window. Theirs was not seeded; ours follows from the segment and the row.
    blocks_dropped : int
        Number of last blocks that are never read.
    streams : tuple of str
        The streams whose last blocks are not read; all if empty.
    """

    bgr: bool = False
    one_frame: bool = False
    blocks_dropped: int = 0
    streams: tuple[str, ...] = ()


NO_QUIRKS = Quirks()

OOTA2025 = {
    # Frames came from OpenCV; of 13 hidden states the loop read 12, the embedding and 11 blocks.
    "vit": Quirks(bgr=True, blocks_dropped=1),
    # `frame … for x in frames` stacked the last decoded frame; clips began at random.
    "vivit": Quirks(one_frame=True, blocks_dropped=1),
    # Their VideoMAE script is ViViT's.
    "videomae": Quirks(one_frame=True, blocks_dropped=1),
    # Hidden states 0 to 9.
    "wav2vec2": Quirks(blocks_dropped=3),
    # The loop over hidden states served the joint stream; video and audio came from the output.
    "tvlt": Quirks(blocks_dropped=1, streams=("joint",)),
}
