"""The spec that a feature cube's fingerprint hashes. Imports no torch: plans and explanations need none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cinecube.features.extraction.record import Record, read_record
from cinecube.features.films.probed import choices_of
from cinecube.features.films.stimuli import find_segments
from cinecube.features.networks.compat import NO_QUIRKS, OOTA2025, Quirks
from cinecube.features.networks.network import Facts, Reading
from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import file_digest
from cinecube.store.base.labels import find_layer, layer_number
from cinecube.store.base.paths import PARAMS_FILE
from cinecube.store.clock.clock import SAME_S
from cinecube.store.cube.schema import SCHEMA, Stream, merged_layers
from cinecube.store.params.document import Study
from cinecube.store.params.model_params import ModelParams

Choices = Mapping[str, Mapping[str, Any]]


def feature_spec(study: Study, model: str, film: str, root: Path, record: Record | None = None) -> dict[str, Any]:
    """Everything that changes the numbers of a feature cube, from files alone.

    Parameters
    ----------
    study : Study
    model, film : str
    root : Path
        The study's folder.
    record : Record, optional
        Of the model's checkpoint; the one in the study by default.

    Returns
    -------
    dict
        Field -> value.

    Raises
    ------
    StudyError
        If the model or film is unknown, a segment or the checkpoint's record is missing, or the study asks the
        network for what it does not have.
    """
    record = record or read_record(study, model, root)
    paths = find_segments(study, film, root)
    digests = {segment: file_digest(path) for segment, path in paths.items()}
    read = {segment: choices_of(path, root, digests[segment]) for segment, path in paths.items()}
    return make_spec(study, model, record, digests, read)


def make_spec(
    study: Study, model: str, record: Record, stimulus: Mapping[str, str], read: Mapping[str, Choices]
) -> dict[str, Any]:
    """The spec of a feature cube of segments.

    Parameters
    ----------
    study : Study
    model : str
    record : Record
        Of the model's checkpoint.
    stimulus : Mapping
        Digests of the segments' files, in the order of the segments.
    read : Mapping
        What of each file is read out of the ordinary, see `Tracks.choices`. Films that are read as they are stored
        have none, and then the spec has no such field.

    Returns
    -------
    dict
        Field -> value.
    """
    params, reading = study.model(model), make_reading(study, model, record)
    spec = {
        "schema": SCHEMA,
        "kind": "features",
        "extractor": record.extractor,
        "extractor_version": record.extractor_version,
        "reading_version": record.reading_version,
        # A folder is a path, and a path changes no number; a hub's revision is a commit.
        "checkpoint": record.checkpoint if record.revision else None,
        "revision": record.revision,
        "weights_digest": record.weights_digest,
        "untrained": record.untrained,
        "layers": merged_layers(reading.streams),
        "pooling": reading.pooling,
        "frame_pooling": reading.frame_pooling if record.facts.stills else None,
        "final_norm": reading.final_norm,
        "clock": {"tr_s": study.clock.tr_s, "window_s": row_window_s(study, reading)},
        "window_s": reading.window_s,
        "stride_s": reading.stride_s,
        "resample": reading.resample if reading.stride_s else None,
        "frames_per_window": reading.frames_per_window,
        "sampling": reading.sampling if reading.frames_per_window else None,
        "rate_hz": reading.rate_hz,
        "context_s": reading.context_s,
        "preprocessing": record.facts.preprocessing,
        "precision": reading.precision,
        "compat": params.compat,
        "dtype": params.dtype,
        "segments": list(stimulus),
        "stimulus": dict(stimulus),
    }
    kinds = {"picture": reading.frames_per_window, "sound": reading.rate_hz}
    of_network = {
        segment: {kind: choices[kind] for kind, is_read in kinds.items() if is_read and choices.get(kind)}
        for segment, choices in read.items()
    }
    of_network = {segment: choices for segment, choices in of_network.items() if choices}
    return {**spec, "read": of_network} if of_network else spec


def make_reading(study: Study, model: str, record: Record, device: str = "cpu") -> Reading:
    """The study's reading of a network, its defaults filled in.

    Parameters
    ----------
    study : Study
    model : str
    record : Record
        Of the model's checkpoint.
    device : str
        Device of torch, such as `cuda`.

    Returns
    -------
    Reading

    Raises
    ------
    StudyError
        If it asks for what the network does not have: a layer, a pooling, a number of frames, ….
    """
    params, facts, where = study.model(model), record.facts, f"{PARAMS_FILE}: models.{model}"
    _check(params, record, where)
    quirks = OOTA2025[record.extractor] if params.compat else NO_QUIRKS
    window_s = params.window_s or params.stride_s or study.clock.window_s
    return Reading(
        streams=_chosen(params, facts.streams, f"{where}.layers", quirks),
        pooling=params.pooling,
        frame_pooling=params.frame_pooling,
        final_norm=params.final_norm,
        frames_per_window=params.frames_per_window or facts.frames_per_window,
        sampling=params.sampling or facts.sampling,
        rate_hz=facts.rate_hz,
        window_s=window_s,
        context_s=_context(params, facts, window_s, where),
        stride_s=params.stride_s,
        resample=params.resample,
        untrained=params.untrained,
        precision=params.precision,
        quirks=quirks,
        device=device,
    )


def row_window_s(study: Study, reading: Reading) -> float:
    """Seconds of film that a row of the cube covers.

    Parameters
    ----------
    study : Study
    reading : Reading

    Returns
    -------
    float
        The window of the network, or the clock's where strides are averaged to rows.
    """
    return study.clock.window_s if reading.stride_s else reading.window_s


def stream_label(model: str, stream: str) -> str:
    """Label of a stream on the cube's `model` axis.

    Parameters
    ----------
    model : str
        Name in `params.yaml`.
    stream : str
        The network's name for it; empty where it has one stream.

    Returns
    -------
    str
    """
    return f"{model}.{stream}" if stream else model


def _check(params: ModelParams, record: Record, where: str) -> None:
    """Refuse what this network cannot do."""
    facts, name = record.facts, record.extractor
    _refuse(
        params.pooling not in facts.poolings,
        f"{where}.pooling",
        params.pooling,
        f"one of {', '.join(facts.poolings)}: {name} has no such token",
    )
    _refuse(
        params.frame_pooling != "mean" and not facts.stills,
        f"{where}.frame_pooling",
        params.frame_pooling,
        f"no such key: {name} does not read frames one at a time",
    )
    _refuse(
        params.final_norm and not facts.final_norm, f"{where}.final_norm", "true", f"false: {name} has no final norm"
    )
    pictures, asked = facts.frames_per_window, params.frames_per_window
    _refuse(
        asked is not None and asked != pictures and (not pictures or facts.frames_fixed),
        f"{where}.frames_per_window",
        str(asked),
        f"{pictures}, which is what {name} reads" if pictures else "none: this network reads no picture",
    )
    _refuse(
        params.sampling is not None and not pictures,
        f"{where}.sampling",
        str(params.sampling),
        "none: this network reads no picture",
    )
    _refuse(
        bool(params.context_s) and facts.stills,
        f"{where}.context_s",
        f"{params.context_s:g} s" if params.context_s else "",
        "0: frames that are read one at a time have no look-back",
    )
    _refuse(
        params.compat is not None and name not in OOTA2025,
        f"{where}.compat",
        str(params.compat),
        f"none: no error of the published code is known for {name}",
    )


def _refuse(wrong: bool, where: str, found: str, expected: str) -> None:
    if wrong:
        raise StudyError(where=where, found=found, expected=expected, do="remove the key, or correct it")


def _context(params: ModelParams, facts: Facts, window_s: float, where: str) -> float:
    """Seconds of look-back: what the study says, or the network's own as far as it fits."""
    _refuse(
        facts.longest_s is not None and window_s > facts.longest_s + SAME_S,
        f"{where}.window_s",
        f"{window_s:g} s",
        f"{facts.longest_s or 0:g} s or less: the network would drop the rest",
    )
    room = float("inf") if facts.longest_s is None else max(0.0, facts.longest_s - window_s)
    if params.context_s is None:
        return round(min(facts.context_s, room), 6)
    _refuse(
        params.context_s > room + SAME_S,
        f"{where}.context_s",
        f"{params.context_s:g} s before windows of {window_s:g} s",
        f"{room:g} s or less: the network takes {facts.longest_s or 0:g} s of sound, and would drop the newest",
    )
    return params.context_s


def _chosen(params: ModelParams, streams: tuple[Stream, ...], where: str, quirks: Quirks) -> tuple[Stream, ...]:
    """Streams with the layers that the study names, by depth."""
    known = merged_layers(streams)
    chosen = known if params.layers == "all" else [find_layer(layer, known, where) for layer in params.layers]
    if not chosen:
        raise StudyError(where=where, found="no layer", expected="'all' or some labels", do="name at least one")
    kept = []
    for stream in streams:
        widths = dict(zip(stream.layers, stream.widths, strict=True))
        dropped = _dropped(stream, quirks)
        layers = [label for label in stream.layers if label in chosen and label not in dropped]
        kept.append(Stream(stream.name, layers, [widths[label] for label in layers], stream.deepest))
    return tuple(stream for stream in kept if stream.layers)


def _dropped(stream: Stream, quirks: Quirks) -> set[str]:
    """Layers that a published code never read."""
    if not quirks.blocks_dropped or (quirks.streams and stream.name not in quirks.streams):
        return set()
    return set([label for label in stream.layers if layer_number(label)][-quirks.blocks_dropped :])
