"""Means by which networks and encoders are computed: GPUs, workers of a cluster, weights of a hub."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from cinecube.store.base.errors import StudyError, first_line
from cinecube.store.base.paths import PARAMS_FILE, StudyPaths
from cinecube.store.params.asked import HUB_ID
from cinecube.store.params.document import Study

_HUB_S = 5.0


def to_extract(study: Study, root: Path) -> list[str]:
    """Models that this study computes and that lack cubes.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Returns
    -------
    list of str
        In the study's order.
    """
    paths = StudyPaths(root)
    return [
        model
        for model in study.compute.models
        if not all(paths.features(model, film).exists() for film in study.compute.films)
    ]


def idle_gpu(study: Study) -> tuple[str, str] | None:
    """Find what stays on the processor beside a GPU, and the key that changes it.

    Parameters
    ----------
    study : Study

    Returns
    -------
    tuple of str, or None
        None where there is no GPU, or encoders use it.
    """
    import torch

    if study.run.backend == "torch" or study.run.device in ("cpu", "mps") or not torch.cuda.is_available():
        return None
    found = "on the processor, for `run.backend` is numpy: the GPU computes networks alone"
    return found, "set `run: {backend: torch}` to fit encoders, ceilings, partitions and permutations on the GPU, too"


def torch_device(asked: str = "auto") -> str:
    """Device that torch computes on, in words.

    Parameters
    ----------
    asked : str
        The study's `run.device`.

    Raises
    ------
    StudyError
        If it is not here.
    """
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    built = f"torch {torch.__version__}"
    kind, _, number = asked.partition(":")
    here = {"cuda": len(gpus) > int(number or 0), "mps": torch.backends.mps.is_available()}
    if not here.get(kind, True):
        raise StudyError(
            where=f"{PARAMS_FILE}: run.device",
            found=f"{asked}, and {', '.join(gpus) or 'no GPU'} that {built} sees",
            expected="a device of this machine",
            do="set `device: auto`, or install a driver and a build of torch for it (https://pytorch.org/get-started)",
        )
    if gpus:
        return f"{', '.join(gpus)}; {built}"
    if shutil.which("nvidia-smi"):
        raise StudyError(
            where="torch",
            found=f"nvidia-smi, and no GPU that {built} sees",
            expected="the GPU of this machine",
            do="install a build of torch for CUDA (https://pytorch.org/get-started), or compute on the processor",
        )
    return f"{'Apple GPU' if here['mps'] else f'no GPU, {os.cpu_count()} cores'}; {built}"


def video_reader() -> str:
    """The package that reads films, and the libraries that it brings."""
    import av

    codecs = ".".join(map(str, av.library_versions["libavcodec"]))
    return f"av {av.__version__} with libavcodec {codecs}"


def weights(study: Study, root: Path) -> str:
    """Places of the weights of networks that are still to be read.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Returns
    -------
    str
        Models by place: `here: …; the hub has: …`.

    Raises
    ------
    StudyError
        If a folder is missing, or weights are neither here nor to be had from the hub.
    """
    from cinecube.features.extraction.checkpoint import find_checkpoint

    here: list[str] = []
    hub: list[str] = []
    lacking: dict[str, StudyError] = {}
    for model in to_extract(study, root):
        params = study.model(model)
        if HUB_ID.fullmatch(params.checkpoint) and not (root / params.checkpoint).exists():
            (here if _is_cached(params.checkpoint, params.revision) else hub).append(model)
            continue
        try:
            find_checkpoint(model, params, root)
        except StudyError as error:
            lacking[model] = error
        else:
            here.append(model)
    if len(lacking) > 1:
        first = next(iter(lacking.values()))
        raise StudyError(
            where=f"checkpoint of {', '.join(lacking)}",
            found="; ".join(dict.fromkeys(str(error.found) for error in lacking.values())),
            expected=f"of each {first.expected}",
            do="copy the checkpoints there, or correct their names",
        )
    for only in lacking.values():
        raise only
    for checkpoint in dict.fromkeys(study.model(model).checkpoint for model in hub):
        _ask_hub(checkpoint)
    return "; ".join(
        f"{where}: {', '.join(models)}" for where, models in (("here", here), ("the hub has", hub)) if models
    )


def _is_cached(checkpoint: str, revision: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(checkpoint, "config.json", revision=revision), str)


def _ask_hub(checkpoint: str) -> None:
    from huggingface_hub import HfApi, constants

    copy = "copy the weights into a folder, and name that as `checkpoint`"
    if constants.HF_HUB_OFFLINE:
        reason, do = "HF_HUB_OFFLINE is set", f"run `unset HF_HUB_OFFLINE`, or {copy}"
    else:
        try:
            HfApi().model_info(checkpoint, timeout=_HUB_S)
        except Exception as error:  # whatever the network, a proxy or the hub answers
            reason, do = first_line(error), f"try again where there is a network, or {copy}"
        else:
            return
    raise StudyError(
        where=f"{PARAMS_FILE}: models",
        found=f"no copy of {checkpoint} on this machine, and no answer of {constants.ENDPOINT} ({reason})",
        expected="its weights",
        do=do,
    )
