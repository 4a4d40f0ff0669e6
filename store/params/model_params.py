"""Section `models` of `params.yaml`: how a study reads a network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cinecube.store.base.section import Section


class ModelParams(Section):
    """One network as a study reads it. All of it but `accept_licence` changes the numbers of its cubes."""

    extractor: str
    """Which code reads it: `vit`, `videomae`, `vivit`, `wav2vec2`, `ast`, `imagebind`, `tvlt`, `hf` for any encoder of
    transformers, or a network of your own.
    """
    checkpoint: str
    """Its weights: a hub id, a folder or a file, from the study's folder."""
    revision: str | None = None
    """Of a hub id: a commit, tag or branch."""
    layers: Literal["all"] | list[str] = "all"
    """Which layers to keep: `all`, or labels such as `embed`, `block07`, `head`."""
    pooling: Literal["mean", "patches", "cls", "last"] = "mean"
    """How the tokens of a layer become one vector."""
    frame_pooling: Literal["mean", "last"] = "mean"
    """How the frames of a window do, where a network reads one at a time."""
    final_norm: bool = False
    """Whether the last block is read after the norm that follows it."""
    frames_per_window: Literal["all"] | Annotated[int, Field(ge=1, le=10_000)] | None = None
    """How many frames are read of a window; the network's own number by default."""
    sampling: Literal["even", "ends", "consecutive"] | None = None
    """Which frames: at the middles of equal parts of the window, from its first to its last, or its first ones; the
    network's own by default.
    """
    context_s: float | None = Field(None, ge=0, le=3600)
    """Seconds before the window that are read too; the network's own by default."""
    window_s: float | None = Field(None, ge=0.001, le=3600)
    """Seconds of film that one window sees; the clock's by default, or the stride."""
    stride_s: float | None = Field(None, ge=0.001, le=3600)
    """Seconds between windows where they are closer than rows; `resample` makes rows of them."""
    resample: Literal["mean", "lanczos"] = "mean"
    """How windows that are closer than rows become rows."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the numbers in the cube."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the numbers in the network."""
    untrained: int | None = Field(None, ge=0, lt=2**63)
    """Seed of fresh weights: the baseline of the same architecture."""
    compat: Literal["oota2025"] | None = None
    """Whose published errors to repeat."""
    accept_licence: bool = False
    """Consent to weights for non-commercial use only; changes no number."""
