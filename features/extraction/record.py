"""The record of a checkpoint, `data/checkpoints/<model>.json`: what stages depend on in place of the weights."""

from __future__ import annotations

from pathlib import Path

from cinecube.features.networks.network import Facts
from cinecube.store.base.bounded import parse_json
from cinecube.store.base.errors import StudyError, environment_error
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.section import Section
from cinecube.store.params.document import Study, parse


class Record(Section):
    """The record of a checkpoint.

    Attributes
    ----------
    model, extractor, checkpoint : str
        As `params.yaml` names them.
    extractor_version, reading_version : int
        Version of the network's code, and of the decoding and windows that all networks share.
    revision : str or None
        The hub's commit; None for a folder.
    weights_digest : str
        SHA-256 over weights and configuration.
    licence : str
        Of the weights; `unknown` if their card names none.
    untrained : int or None
        Seed of fresh weights instead of the checkpoint's.
    width : int
        Dims of its widest layer.
    facts : Facts
        Its layers and inputs.
    """

    model: str
    extractor: str
    extractor_version: int
    reading_version: int
    checkpoint: str
    revision: str | None
    weights_digest: str
    licence: str
    untrained: int | None
    width: int
    facts: Facts


def read_record(study: Study, model: str, root: Path) -> Record:
    """Read a model's record and check that it belongs to the study as it is.

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
        If the study has no such model, or the record is missing, broken or of other parameters.
    """
    params = study.model(model)
    path = StudyPaths(root).checkpoint(model)
    where = StudyPaths(root).relative(path)
    try:
        raw = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(
            where=where,
            found="no record",
            expected="one of its checkpoint",
            do=f"run `cinecube checkpoint {model}`",
        ) from None
    except ValueError as error:
        raise stale(where, f"no JSON ({error})", "a record") from None
    except OSError as error:
        raise environment_error(error, where) or stale(where, f"no file ({error.strerror})", "a record") from error
    record = parse(Record, raw, where, do=f"run `cinecube checkpoint {model}` to write it anew")
    for key in ("extractor", "checkpoint", "untrained"):
        if getattr(record, key) != getattr(params, key):
            raise stale(where, f"{key} {getattr(record, key)}", f"{getattr(params, key)}, as params.yaml says")
    return record


def stale(where: str, found: str, expected: str) -> StudyError:
    """Error for a record that is no longer true.

    Parameters
    ----------
    where : str
        The record's file.
    found, expected : str
        As in `StudyError`.

    Returns
    -------
    StudyError
    """
    return StudyError(where=where, found=found, expected=expected, do="re-run `dvc repro`")
