"""A study's requirements of a network, compared with the spec of a cube that it did not make."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cinecube.store.base.fingerprint import ABSENT
from cinecube.store.params.document import Imported, Study
from cinecube.store.params.model_params import ModelParams

# Keys that have a meaning without the network: their values stand in the spec as they stand in `params.yaml`.
_ALWAYS = ("extractor", "pooling", "final_norm", "stride_s", "dtype", "precision", "untrained", "compat")
# The network's own value where the study says nothing.
_IF_SAID = ("frames_per_window", "sampling", "context_s", "window_s")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
# What a hub names a checkpoint.
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def becomes(study: Study, imported: Imported, spec: Mapping[str, Any]) -> str:
    """The resampling of an imported cube's rows, in words; "" if they have the study's own TR.

    Parameters
    ----------
    study : Study
    imported : Imported
        Its entry in `imported`.
    spec : Mapping
        The cube's.

    Returns
    -------
    str
    """
    tr_s = (spec.get("clock") or {}).get("tr_s")
    if tr_s is None or tr_s == study.clock.tr_s:
        return ""
    return f"rows of {tr_s:g} s become rows of {study.clock.tr_s:g} s ({imported.resample})"


def unlike(asked: ModelParams, spec: Mapping[str, Any], root: Path) -> list[str]:
    """Name the fields in which a feature cube is not what a study asks for, one line each: `pooling: cls -> mean`.

    Neither weights nor network need be at hand. What the study leaves to the network agrees with any value, and so does
    the clock, which cubes are brought to by their labels.

    Parameters
    ----------
    asked : ModelParams
        The model's entry in the section `models`.
    spec : Mapping
        What the cube's fingerprint hashes.
    root : Path
        The study's folder, from which it names checkpoints that are folders.

    Returns
    -------
    list of str
        Empty if nothing differs. Weights that lay in a folder there are not compared with those of a folder here.
    """
    wanted = {key: getattr(asked, key) for key in _ALWAYS}
    wanted |= {key: getattr(asked, key) for key in _IF_SAID if getattr(asked, key) is not None}
    if asked.stride_s is not None:
        wanted["resample"] = asked.resample
    if spec.get("frame_pooling") is not None:  # networks of clips have none
        wanted["frame_pooling"] = asked.frame_pooling
    if spec.get("checkpoint") is not None:  # a folder is a path, which specs leave out
        wanted["checkpoint"] = asked.checkpoint
    lines = [f"{key}: {spec.get(key, ABSENT)} -> {value}" for key, value in wanted.items() if spec.get(key) != value]
    return sorted(lines + _weights_unlike(asked, spec, root) + _layers_unlike(asked, spec))


def of_folder(spec: Mapping[str, Any]) -> str:
    """Known facts of weights that no hub names; empty for others."""
    digest = spec.get("weights_digest")
    return f"a folder's weights {str(digest)[:12]}" if digest and spec.get("checkpoint") is None else ""


def _weights_unlike(asked: ModelParams, spec: Mapping[str, Any], root: Path) -> list[str]:
    """A hub's weights that are asked for and that the cube is not known to be of."""
    stored = of_folder(spec)
    if stored and HUB_ID.fullmatch(asked.checkpoint) and not (root / asked.checkpoint).exists():
        return [f"checkpoint: {stored} -> {asked.checkpoint}"]
    # Which commit a branch or tag is, only the hub knows.
    if asked.revision and _COMMIT.fullmatch(asked.revision) and not stored:
        revision = str(spec.get("revision", ABSENT))
        return [] if revision.startswith(asked.revision) else [f"revision: {revision} -> {asked.revision}"]
    return []


def _layers_unlike(asked: ModelParams, spec: Mapping[str, Any]) -> list[str]:
    """Layers that are asked for and that the cube lacks; those it has beside them do no harm."""
    if asked.layers == "all":
        return []
    known = [str(layer) for layer in spec.get("layers", ())]
    lacking = [layer for layer in asked.layers if layer not in known]
    return [f"layers: {', '.join(known)} -> {', '.join(asked.layers)}"] if lacking else []
