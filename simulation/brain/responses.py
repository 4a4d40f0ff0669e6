"""Signals of the planted layers in the films: each target's true signal, before noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cinecube.simulation.brain.planted_parcels import Parcel
from cinecube.simulation.features.drawn import Layers
from cinecube.simulation.setup.seeding import generator
from cinecube.simulation.setup.simulate_params import SimulateSpec

# The haemodynamic response: most at the parcel's delay, a little one volume before and after.
_DISPERSION = {-1: 0.15, 0: 0.7, 1: 0.15}

Features = Mapping[str, Mapping[str, Layers]]
"""(row, dim) by segment, stream and layer."""


def plant(
    spec: SimulateSpec, parcels: Sequence[Parcel], features: Features, train: Sequence[str]
) -> dict[str, dict[str, np.ndarray]]:
    """True signals of every subject.

    Parameters
    ----------
    spec : SimulateSpec
        Latents, targets, subjects, seed.
    parcels : sequence of Parcel
        In the order of their targets.
    features : mapping
        Drawn features of every segment.
    train : sequence of str
        Training segments, whose rows set what unit variance is.

    Returns
    -------
    dict of str to dict of str to ndarray
        (row, target) float64 by subject and segment, of unit variance over the training rows; zero in idle parcels.
    """
    signals: dict[str, dict[str, list[np.ndarray]]] = {
        subject: {segment: [] for segment in features} for subject in spec.subject_names()
    }
    for parcel in parcels:
        courses = [_latents(spec, parcel, place, features, train) for place in range(len(parcel.sources))]
        for subject in spec.subject_names():
            planted = _parcel_signal(spec, parcel, subject, courses, train)
            for segment, streams in features.items():
                nothing = np.zeros((_n_rows(streams), spec.targets_per_parcel))
                signals[subject][segment].append(planted.get(segment, nothing))
    return {
        subject: {segment: np.concatenate(parts, axis=1) for segment, parts in by_segment.items()}
        for subject, by_segment in signals.items()
    }


def _n_rows(streams: Mapping[str, Layers]) -> int:
    """Rows of a segment."""
    return len(next(iter(next(iter(streams.values())).values())))


def _latents(
    spec: SimulateSpec, parcel: Parcel, place: int, features: Features, train: Sequence[str]
) -> dict[str, np.ndarray]:
    """A source's time courses after the haemodynamic response, (row, latent) by segment.

    They are random projections of the layer, the same for all subjects.
    """
    source = parcel.sources[place]
    layer = {segment: streams[source.model][source.layer].astype(float) for segment, streams in features.items()}
    layer = _standardised(layer, train)
    rng = generator(spec.seed, "latents", parcel.name, place)
    projection = rng.normal(0, 1, (next(iter(layer.values())).shape[1], spec.latents))
    courses = _standardised({segment: rows @ projection for segment, rows in layer.items()}, train)
    return {segment: _delayed(rows, parcel.delay_tr) for segment, rows in courses.items()}


def _parcel_signal(
    spec: SimulateSpec,
    parcel: Parcel,
    subject: str,
    courses: list[dict[str, np.ndarray]],
    train: Sequence[str],
) -> dict[str, np.ndarray]:
    """A parcel's targets in one subject, (row, target) by segment; empty for an idle parcel."""
    signal: dict[str, np.ndarray] = {}
    shape = (spec.latents, spec.targets_per_parcel)
    for place, (source, course) in enumerate(zip(parcel.sources, courses, strict=True)):
        shared = generator(spec.seed, "mixing", parcel.name, place).normal(0, 1, shape)
        own = generator(spec.seed, "mixing", parcel.name, place, subject).normal(0, 1, shape)
        mixing = shared + spec.individuality * own
        mixed = {segment: rows @ mixing for segment, rows in course.items()}
        scale = np.sqrt(source.share) / np.concatenate([mixed[segment] for segment in train]).std(axis=0)
        for segment, rows in mixed.items():
            signal[segment] = signal.get(segment, 0.0) + rows * scale
    return signal


def _delayed(rows: np.ndarray, delay_tr: int) -> np.ndarray:
    """Rows after the haemodynamic response; before a run begins there is nothing."""
    response = np.zeros_like(rows)
    for offset, weight in _DISPERSION.items():
        delay = delay_tr + offset
        if delay < len(rows):
            response[delay:] += weight * rows[: len(rows) - delay]
    return response


def _standardised(rows: dict[str, np.ndarray], train: Sequence[str]) -> dict[str, np.ndarray]:
    """Mean 0 and variance 1 over the training rows; what does not vary there becomes 0."""
    whole = np.concatenate([rows[segment] for segment in train])
    mean, std = whole.mean(axis=0), whole.std(axis=0)
    scale = np.divide(1.0, std, out=np.zeros_like(std), where=std > 0)
    return {segment: (values - mean) * scale for segment, values in rows.items()}
