"""Section `models` of `params.yaml`: how a study reads a network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cinecube.store.base.section import Section


class ModelParams(Section):
    """One network as a study reads it. All of it but `accept_licence` changes the numbers of its cubes.

    Attributes
    ----------
    extractor, checkpoint, revision : str
        Which network, and its weights: a hub id with a revision, a folder or a file.
    layers : `all` or list of str
        Which layers to keep.
    pooling : str
        How the tokens of a layer become one vector.
    frame_pooling : str
        How the frames of a window do, where a network reads one at a time.
    final_norm : bool
        Whether the last block is read after the norm that follows it.
    frames_per_window, sampling, context_s
        What is read of the film; the network's own values where nothing is said.
    window_s : float, optional
        Seconds of film that one window sees; the clock's where nothing is said, or the stride.
    stride_s : float, optional
        Seconds between windows where they lie closer than rows; `resample` makes rows of them.
    dtype, precision : str
        Of the numbers in the cube, and of those in the network.
    untrained : int, optional
        Seed of fresh weights: the paper's baseline.
    compat : str, optional
        Whose published errors to repeat.
    accept_licence : bool
        Consent to weights for non-commercial use only.
    """

    extractor: str
    checkpoint: str
    revision: str | None = None
    layers: Literal["all"] | list[str] = "all"
    pooling: Literal["mean", "patches", "cls", "last"] = "mean"
    frame_pooling: Literal["mean", "last"] = "mean"
    final_norm: bool = False
    frames_per_window: Literal["all"] | Annotated[int, Field(ge=1, le=10_000)] | None = None
    sampling: Literal["even", "ends", "consecutive"] | None = None
    context_s: float | None = Field(None, ge=0, le=3600)
    window_s: float | None = Field(None, ge=0.001, le=3600)
    stride_s: float | None = Field(None, ge=0.001, le=3600)
    resample: Literal["mean", "lanczos"] = "mean"
    dtype: Literal["float32", "float16"] = "float32"
    precision: Literal["float32", "bfloat16"] = "float32"
    untrained: int | None = Field(None, ge=0, lt=2**63)
    compat: Literal["oota2025"] | None = None
    accept_licence: bool = False
