"""The planted truth on disk: `truth.json`, and the drawn features that it was made of."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cinecube.simulation.brain.planted_parcels import Parcel
from cinecube.simulation.brain.responses import Features
from cinecube.simulation.brain.scans import NOISE_PHI, Ceilings, subject_noise
from cinecube.simulation.features.small_networks import BLOCKS_OF, HEADS, LICENCE, STREAMS, look, pooling
from cinecube.simulation.setup.simulate_params import NETWORKS, Network, SimulateSpec
from cinecube.store.cube.schema import Stream

_SCHEMA = 2


def write_truth(
    path: Path,
    spec: SimulateSpec,
    films: Mapping[str, Sequence[str]],
    train: Sequence[str],
    parcels: Sequence[Parcel],
    ceilings: Mapping[str, Ceilings],
) -> None:
    """Write `truth.json`: what drives which parcel, with what delay, gain and noise, and what ceiling follows.

    `ceiling` is by subject the correlation that what cleaning leaves of the true signal reaches with the test films,
    their showings averaged, mean over a parcel's targets; `ceiling_one_showing` that with a single showing.

    Parameters
    ----------
    path : Path
        Of `truth.json`.
    spec : SimulateSpec
    films : Mapping of str to sequence of str
        Film -> its segments.
    train : sequence of str
        Films to fit on.
    parcels : sequence of Parcel
    ceilings : Mapping of str to Ceilings
        By subject.
    """
    truth = {
        "schema": _SCHEMA,
        "seed": spec.seed,
        "tr_s": spec.tr_s,
        "films": {film: list(segments) for film, segments in films.items()},
        "train": list(train),
        "repeated": list(spec.repeated),
        "noise_phi": NOISE_PHI,
        "subjects": {subject: {"noise_factor": subject_noise(spec, subject)} for subject in spec.subject_names()},
        "models": _models(spec),
        "parcels": {parcel.name: _parcel(spec, place, parcel, ceilings) for place, parcel in enumerate(parcels)},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(truth, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_drawn(path: Path, spec: SimulateSpec, features: Features) -> None:
    """Write the drawn features, one variable (row, `<stream>.layer`, `<stream>.dim`) per stream.

    Rows are labelled by segment and onset; past the width of a layer values are NaN.

    Parameters
    ----------
    path : Path
    spec : SimulateSpec
    features : Features
        By segment, stream and layer.
    """
    counts = {segment: len(streams["vit"]["embed"]) for segment, streams in features.items()}
    segment = [name for name, count in counts.items() for _ in range(count)]
    onset_s = np.concatenate([np.arange(count) * spec.tr_s for count in counts.values()])
    variables, coords = {}, {}
    for stream in (stream for streams in STREAMS.values() for stream in streams):
        dims = ("row", f"{stream.name}.layer", f"{stream.name}.dim")
        variables[stream.name] = (dims, _stacked(stream, features))
        coords[dims[1]] = np.array(stream.layers, dtype=object)
        coords[dims[2]] = np.arange(max(stream.widths))
    drawn = xr.Dataset(
        variables,
        coords={
            "segment": ("row", np.array(segment, dtype=object)),
            "onset_s": ("row", np.round(onset_s, 6)),
            **coords,
        },
        attrs={"about": "features of frames and sound as drawn, before encoding", "tr_s": spec.tr_s},
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        drawn.to_zarr(path, mode="w", zarr_format=3, consolidated=True)


def _stacked(stream: Stream, features: Features) -> np.ndarray:
    """A stream's features of all segments, (row, layer, dim) float32, NaN past the width of a layer."""
    parts = [np.concatenate([streams[stream.name][layer] for streams in features.values()]) for layer in stream.layers]
    whole = np.full((len(parts[0]), len(parts), max(stream.widths)), np.nan, np.float32)
    for place, part in enumerate(parts):
        whole[:, place, : part.shape[1]] = part
    return whole


def _parcel(spec: SimulateSpec, place: int, parcel: Parcel, ceilings: Mapping[str, Ceilings]) -> dict[str, Any]:
    """A parcel's entry in `truth.json`."""
    own = slice(place * spec.targets_per_parcel, (place + 1) * spec.targets_per_parcel)
    return {
        "sources": [{"model": s.model, "layer": s.layer, "share": s.share} for s in parcel.sources],
        "centre_mm": list(parcel.centre_mm),
        "delay_tr": parcel.delay_tr,
        "gain": parcel.gain,
        "noise": parcel.noise,
        "ceiling": {subject: _mean(found.averaged[own]) for subject, found in ceilings.items()},
        "ceiling_one_showing": {subject: _mean(found.single[own]) for subject, found in ceilings.items()},
    }


def _mean(values: np.ndarray) -> float:
    return round(float(values.mean()), 6)


def _models(spec: SimulateSpec) -> dict[str, Any]:
    """Reading of each stream, under the label that it has in cubes."""
    return {stream.name: _model(spec, network, stream) for network in NETWORKS for stream in STREAMS[network]}


def _model(spec: SimulateSpec, network: Network, stream: Stream) -> dict[str, Any]:
    """Reading of a stream."""
    seen = look(spec, network)
    return {
        "network": network,
        "licence": LICENCE,
        "blocks": BLOCKS_OF[network],
        "heads": HEADS,
        "layers": dict(zip(stream.layers, stream.widths, strict=True)),
        "pooling": {layer: pooling(network, stream.name, layer) for layer in stream.layers},
        "window_s": spec.window_s,
        "context_s": seen.context_s,
        "frames_per_window": seen.frames,
        "sampling": seen.sampling,
        "rate_hz": seen.rate_hz,
    }
