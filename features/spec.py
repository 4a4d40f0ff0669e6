"""What a feature cube's fingerprint hashes. Imports no torch: plans and explanations need none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cinecube.features.network import Reading
from cinecube.features.record import Record, read_record
from cinecube.features.stimuli import find_segments
from cinecube.store.errors import StudyError
from cinecube.store.fingerprint import file_digest
from cinecube.store.labels import find_layer
from cinecube.store.params import ModelParams, Study
from cinecube.store.schema import SCHEMA, Stream


def feature_spec(study: Study, model: str, film: str, root: Path) -> dict[str, Any]:
    """Everything that changes the numbers of a feature cube, from files alone.

    Raises
    ------
    StudyError
        If the model or film is unknown, a segment or the checkpoint's record is missing, or the study asks the
        network for what it does not have.
    """
    record = read_record(study, model, root)
    digests = {segment: file_digest(path) for segment, path in find_segments(study, film, root).items()}
    return make_spec(study, model, record, digests)


def make_spec(study: Study, model: str, record: Record, stimulus: Mapping[str, str]) -> dict[str, Any]:
    """The spec of a feature cube of segments whose files have these digests, in this order."""
    params, reading = study.model(model), make_reading(study, model, record)
    return {
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
        "layers": _all_layers(reading.streams),
        "pooling": reading.pooling,
        "clock": {"tr_s": study.clock.tr_s, "window_s": study.clock.window_s},
        "frames_per_window": reading.frames_per_window,
        "rate_hz": reading.rate_hz,
        "context_s": reading.context_s,
        "preprocessing": record.facts.preprocessing,
        "dtype": params.dtype,
        "segments": list(stimulus),
        "stimulus": dict(stimulus),
    }


def make_reading(study: Study, model: str, record: Record, device: str = "cpu") -> Reading:
    """How the study reads a network, its defaults filled in.

    Raises
    ------
    StudyError
        If it asks for a layer, a pooling or a number of frames that the network does not have.
    """
    params, facts, where = study.model(model), record.facts, f"models.{model}"
    if params.pooling not in facts.poolings:
        raise StudyError(
            where=f"{where}.pooling",
            found=params.pooling,
            expected=f"one of {', '.join(facts.poolings)}: {record.extractor} has no such token",
            do="choose another pooling",
        )
    return Reading(
        streams=_chosen(params, facts.streams, model),
        pooling=params.pooling,
        frames_per_window=_frames(params, record, where),
        rate_hz=facts.rate_hz,
        window_s=study.clock.window_s,
        context_s=_context(params, record, where),
        untrained=params.untrained,
        device=device,
    )


def _frames(params: ModelParams, record: Record, where: str) -> int:
    asked, own = params.frames_per_window, record.facts.frames_per_window
    if asked is None or asked == own:
        return own
    if own == 0 or record.facts.frames_fixed:
        raise StudyError(
            where=f"{where}.frames_per_window",
            found=str(asked),
            expected=f"{own}, which is what {record.extractor} reads" if own else "none: this network reads no picture",
            do="remove the key",
        )
    return asked


def _context(params: ModelParams, record: Record, where: str) -> float:
    if params.context_s and not record.facts.rate_hz:
        raise StudyError(
            where=f"{where}.context_s",
            found=f"{params.context_s} s",
            expected="0: this network reads no sound, and only sound is looked back at",
            do="remove the key",
        )
    return params.context_s


def _chosen(params: ModelParams, streams: tuple[Stream, ...], model: str) -> tuple[Stream, ...]:
    """Streams under their labels, with the layers that the study names, by depth."""
    known = _all_layers(streams)
    where = f"models.{model}.layers"
    chosen = known if params.layers == "all" else [find_layer(layer, known, where) for layer in params.layers]
    if not chosen:
        raise StudyError(where=where, found="no layer", expected="'all' or some labels", do="name at least one")
    labelled = []
    for stream in streams:
        widths = dict(zip(stream.layers, stream.widths, strict=True))
        layers = [label for label in stream.layers if label in chosen]
        name = f"{model}.{stream.name}" if stream.name else model
        labelled.append(Stream(name, layers, [widths[label] for label in layers]))
    return tuple(stream for stream in labelled if stream.layers)


def _all_layers(streams: tuple[Stream, ...]) -> list[str]:
    """Layers of all streams, each once, in their order."""
    return list(dict.fromkeys(label for stream in streams for label in stream.layers))
