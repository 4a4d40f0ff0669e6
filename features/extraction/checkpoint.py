"""A checkpoint's files: their paths, their part in a fingerprint, and the terms of their use."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from cinecube.features.extraction.record import Record, read_record
from cinecube.features.extraction.spec import make_reading
from cinecube.features.networks import READING_VERSION
from cinecube.features.networks.checkpoint_files import check_weights
from cinecube.features.networks.checkpoint_files import weight_files as weight_files
from cinecube.features.networks.network import PROCESSORS, Facts, Network, read_checkpoint
from cinecube.features.networks.registry import find_network
from cinecube.store.base.atomic import write_text
from cinecube.store.base.bounded import file_bytes, parse_yaml
from cinecube.store.base.errors import StudyError, environment_error, first_line
from cinecube.store.base.fingerprint import files_digest
from cinecube.store.base.paths import PARAMS_FILE, StudyPaths
from cinecube.store.base.writing import one_writer
from cinecube.store.params.asked import HUB_ID
from cinecube.store.params.document import Study
from cinecube.store.params.model_params import ModelParams

_CONFIGS = ("config.json", *PROCESSORS)
# Only a card's front matter is read, which is at its beginning.
_CARD_BYTES, _MAX_LICENCE = 2**18, 200
_NON_COMMERCIAL = re.compile(r"(^|[^a-z])(nc|non-?commercial)([^a-z]|$)")
_HUB_TIMEOUT_S = 5.0


def write_record(study: Study, model: str, root: Path) -> dict[str, Any]:
    """Record a model's checkpoint in `data/checkpoints/<model>.json`, if it can be read as the study asks.

    Parameters
    ----------
    study : Study
    model : str
    root : Path
        The study's folder.

    Returns
    -------
    dict
        What was recorded, see `record_checkpoint`.

    Raises
    ------
    StudyError
        As `record_checkpoint` does, if the study asks the network for what it does not have, and if another process
        records it.
    """
    params, paths = study.model(model), StudyPaths(root)
    with one_writer(paths, paths.checkpoint(model)):
        values = record_checkpoint(model, params, root)
        reading = make_reading(study, model, Record.model_validate(values))
        network = find_network(params.extractor, f"{PARAMS_FILE}: models.{model}.extractor")
        if network.check is not None:
            path, _ = find_checkpoint(model, params, root)
            network.check(path, reading)
        write_text(paths.checkpoint(model), json.dumps(values, indent=1, sort_keys=True) + "\n")
    return values


def present_record(study: Study, model: str, root: Path) -> Record:
    """A model's record as the stage `checkpoint` would write it now; weights are read only where they have moved.

    Parameters
    ----------
    study : Study
    model : str
    root : Path
        The study's folder.

    Returns
    -------
    Record

    Raises
    ------
    StudyError
        As `read_record` and `record_checkpoint` do. A hub is not asked.
    """
    params = study.model(model)
    try:
        return read_record(study, model, root)
    except StudyError:
        if not (StudyPaths(root).checkpoint(model).is_file() and (root / params.checkpoint).exists()):
            raise
    return Record.model_validate(record_checkpoint(model, params, root))


def record_checkpoint(model: str, params: ModelParams, root: Path) -> dict[str, Any]:
    """Find a model's checkpoint and say what is known of it.

    Parameters
    ----------
    model : str
        Its name in `params.yaml`.
    params : ModelParams
        Its section there.
    root : Path
        The study's folder.

    Returns
    -------
    dict
        The record as JSON values, see `Record`.

    Raises
    ------
    StudyError
        If the extractor is unknown, the checkpoint is not there or of another architecture, or its licence forbids
        commercial use and the study does not say that this is accepted.
    """
    network = find_network(params.extractor, f"{PARAMS_FILE}: models.{model}.extractor")
    path, revision = find_checkpoint(model, params, root)
    where = StudyPaths(root).relative(path)
    checkpoint = read_checkpoint(path, where, optional=network.official is not None)
    facts = network.describe(checkpoint)
    licence = read_licence(path, network)
    if params.untrained is None:
        _check_licence(model, licence, params.accept_licence)
        n_bytes = check_weights(path)
        if checkpoint.config:
            _refuse_hollow(n_bytes, facts, where)
    record = Record(
        model=model,
        extractor=params.extractor,
        extractor_version=network.version,
        reading_version=READING_VERSION,
        checkpoint=params.checkpoint,
        revision=revision,
        weights_digest=weights_digest(path, params.untrained, where),
        licence=licence,
        untrained=params.untrained,
        width=max(width for stream in facts.streams for width in stream.widths),
        facts=facts,
    )
    return record.model_dump(mode="json")


def weights_bytes(path: Path) -> int:
    """Bytes of a checkpoint's weights, by its folder or weight file."""
    return sum(file_bytes(file) for file in weight_files(path))


def find_checkpoint(model: str, params: ModelParams, root: Path) -> tuple[Path, str | None]:
    """Path of a checkpoint and its revision: a folder or weight file of the study, or a hub id.

    Parameters
    ----------
    model : str
    params : ModelParams
        Its entry in the section `models`.
    root : Path
        The study's folder.

    Returns
    -------
    path : Path
    revision : str or None
        The hub's; None for a path of the study.

    Raises
    ------
    StudyError
        If there is no such folder or file, or the hub's files are not here and cannot be fetched.
    """
    path = root / params.checkpoint
    if path.exists():
        return path, None
    if not HUB_ID.fullmatch(params.checkpoint):
        raise StudyError(
            where=f"{PARAMS_FILE}: models.{model}.checkpoint",
            found=f"no {params.checkpoint}",
            expected="a folder with config.json and weights, a weight file, or a hub id like org/name",
            do=f"copy the checkpoint to {path}, or correct its name",
        )
    folder = _snapshot(model, params, root)
    return folder, folder.name


def _snapshot(model: str, params: ModelParams, root: Path) -> Path:
    """Files of a hub checkpoint: those in the local cache, else fetched, at once or not at all."""
    from huggingface_hub import constants, snapshot_download

    files = [*_CONFIGS, "README.md", "*.safetensors", "*.safetensors.index.json"]
    name, revision = params.checkpoint, params.revision
    try:
        return _complete(Path(snapshot_download(name, revision=revision, local_files_only=True)))
    except (OSError, ValueError) as error:
        if refused := environment_error(error, f"{PARAMS_FILE}: models.{model}.checkpoint"):
            raise refused from error
        reason = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        try:
            files = _files_to_fetch(params, files)
            fetched = snapshot_download(name, revision=revision, allow_patterns=files, etag_timeout=_HUB_TIMEOUT_S)
            return Path(fetched)
        except Exception as error:  # whatever the network, the proxy or the hub answers
            if refused := environment_error(error, f"{PARAMS_FILE}: models.{model}.checkpoint"):
                raise refused from error
            reason = first_line(error)
    raise StudyError(
        where=f"{PARAMS_FILE}: models.{model}.checkpoint",
        found=f"no folder and no cached copy of {params.checkpoint} ({reason})",
        expected="its files on this machine",
        do=f"copy config.json, preprocessor_config.json, README.md and the weights to a folder such as "
        f"{root / 'data' / 'weights' / model}, and name that folder",
    )


def _complete(folder: Path) -> Path:
    """A cached snapshot, if it has weights: other programs fetch single files."""
    if not (folder / "config.json").is_file() or not weight_files(folder):
        raise ValueError("incomplete")
    return folder


def _files_to_fetch(params: ModelParams, files: list[str]) -> list[str]:
    """Ask the hub once, with a short time limit, whether it answers and has safetensors."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(params.checkpoint, revision=params.revision, timeout=_HUB_TIMEOUT_S)
    names = [sibling.rfilename for sibling in info.siblings or []]
    return files if any(name.endswith(".safetensors") for name in names) else [*files, "pytorch_model*.bin*"]


def weights_digest(path: Path, untrained: int | None, where: str) -> str:
    """SHA-256 over names and bytes of a checkpoint's weights and configuration.

    An untrained twin takes the configuration only.

    Parameters
    ----------
    path : Path
        The checkpoint's folder or weight file.
    untrained : int, optional
        Seed of the twin's weights.
    where : str
        The checkpoint, for messages.

    Returns
    -------
    str
        Hexadecimal.

    Raises
    ------
    StudyError
        If the checkpoint has no weights.
    """
    folder = path if path.is_dir() else path.parent
    files = [folder / name for name in _CONFIGS if (folder / name).is_file()]
    if untrained is None:
        weights = weight_files(path)
        if not weights:
            raise StudyError(
                where=where,
                found="no weights",
                expected="model.safetensors or pytorch_model.bin",
                do="copy the weights beside config.json",
            )
        files += weights
    return files_digest(files)


def read_licence(path: Path, network: Network) -> str:
    """Licence that the front matter of a checkpoint's card names; without a card, that of the official weights.

    Parameters
    ----------
    path : Path
        The checkpoint's folder or weight file.
    network : Network

    Returns
    -------
    str
        Several apart by commas.

    Raises
    ------
    StudyError
        If the card is too large, or its licence cannot be read or is no short text.
    """
    readme = (path if path.is_dir() else path.parent) / "README.md"
    if not readme.exists():
        return network.licence
    file_bytes(readme)
    with readme.open("rb") as opened:
        beginning = opened.read(_CARD_BYTES).decode("utf-8", errors="replace")
    match = re.match(r"---\s*\n(.*?)\n---", beginning, re.DOTALL)
    try:
        card = parse_yaml(match.group(1)) if match else None
    except yaml.YAMLError:
        card = None
    except ValueError as error:
        raise _no_licence(readme, f"front matter that cannot be read ({error})") from None
    licence = card.get("license") if isinstance(card, dict) else None
    if isinstance(card, dict) and licence in ("other", None):
        licence = card.get("license_name") or licence
    names = licence if isinstance(licence, list) else [licence or network.licence]
    if not all(isinstance(name, str | int | float) for name in names):
        raise _no_licence(readme, "a license that is no text")
    named = ", ".join(str(name) for name in names)
    if len(named) > _MAX_LICENCE:
        raise _no_licence(readme, f"a license of {len(named)} characters")
    return named


def _no_licence(readme: Path, found: str) -> StudyError:
    return StudyError(
        where=str(readme), found=found, expected="the name of a licence", do="correct `license` at its beginning"
    )


def _refuse_hollow(n_bytes: int, facts: Facts, where: str) -> None:
    """Refuse weights that cannot be those of the network: the missing ones would be made before they are missed."""
    blocks = max(len(stream.layers) for stream in facts.streams) - 1
    width = max(width for stream in facts.streams for width in stream.widths)
    if n_bytes and blocks * width**2 > n_bytes:
        raise StudyError(
            where=where,
            found=f"{n_bytes} bytes of weights",
            expected=f"those of {blocks} blocks of width {width}, as config.json says",
            do="copy the checkpoint again",
        )


def is_non_commercial(licence: str) -> bool:
    """True if a licence forbids commercial use."""
    return _NON_COMMERCIAL.search(licence.lower()) is not None


def _check_licence(model: str, licence: str, accepted: bool) -> None:
    if is_non_commercial(licence) and not accepted:
        raise StudyError(
            where=f"{PARAMS_FILE}: models.{model}",
            found=f"weights under {licence}, for non-commercial use only",
            expected="your consent to these terms",
            do=f"set models.{model}.accept_licence: true in params.yaml if they suit you",
        )
