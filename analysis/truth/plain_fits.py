"""Fits of the oracles: rows found by dictionaries of labels, delays by a loop over rows, kernel ridge in float64.

Nothing here comes from the pipeline's solvers, alignment or delays. What is shared with it is the reading of files and
the choice of folds, so that both fit the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from cinecube.analysis.ridge.folds import Fold, Gap, leave_segments_out
from cinecube.analysis.truth.planted import drawn_stream
from cinecube.store.params.document import Study

Row = tuple[str, int, int]
"""A segment, the number of TRs since its start, and which showing of it; 0 is the mean of all."""
Features = Mapping[str, np.ndarray]
"""Segment -> features of the drawn film, (row, dim) float64, a row per TR."""


def read_drawn(drawn: xr.Dataset, stream: str, layers: Sequence[str] | None = None) -> Features:
    """Features of some layers of a stream, side by side; of all of them without `layers`.

    Parameters
    ----------
    drawn : Dataset
        The drawn features of one study, with `segment` on row.
    stream : str
    layers : sequence of str, optional
        Labels on the layer axis.

    Returns
    -------
    dict of str to array of float64, shape (row, dim)
        By segment.
    """
    features, segment = drawn_stream(drawn, stream), drawn["segment"].values
    parts = []
    for label in layers or features["layer"].values.tolist():
        layer = features.sel(layer=label).transpose("row", "dim").values
        parts.append(layer[:, ~np.isnan(layer).all(axis=0)])
    values = np.hstack(parts).astype(np.float64)
    return {name: values[segment == name] for name in dict.fromkeys(segment.tolist())}


@dataclass(frozen=True)
class PlainFits:
    """A study as plain fits need it.

    Attributes
    ----------
    study : Study
    features : dict of str to Features
        By stream.
    tr_s, window_s : float
        Seconds between rows, and most seconds of film that one of them sees.
    """

    study: Study
    features: Mapping[str, Features]
    tr_s: float
    window_s: float

    @property
    def train(self) -> list[str]:
        """Segments of the training films."""
        return self.study.segments(self.study.split.train)

    @property
    def segments(self) -> list[str]:
        """Segments of all films of the split, training films first."""
        return self.study.segments([*self.study.split.train, *self.study.split.test])

    @property
    def length(self) -> dict[str, int]:
        """Rows of each segment that all streams have."""
        return {name: min(len(known[name]) for known in self.features.values()) for name in self.segments}

    def is_train(self, order: Sequence[Row]) -> np.ndarray:
        """True for rows of training films, (row,)."""
        return np.array([segment in self.train for segment, _, _ in order])

    def groups(self, brains: Mapping[str, xr.Dataset]) -> list[tuple[list[Row], dict[str, list[list[int]]]]]:
        """Rows that subjects share, training films first, and by subject the rows of its cube whose mean each is."""
        seen = {name: self._showings(brain) for name, brain in brains.items()}
        seen = {name: rows for name, rows in seen.items() if self._has_enough(rows)}
        if self.study.encode.rows == "common":
            # Who lacks a showing has no say in which of its rows there are.
            showings = {name: {(segment, repeat) for segment, _, repeat in rows} for name, rows in seen.items()}
            seen = {
                name: {
                    row: at
                    for row, at in rows.items()
                    if all(row in seen[other] for other in seen if (row[0], row[2]) in showings[other])
                }
                for name, rows in seen.items()
            }
        groups: dict[tuple[Row, ...], dict[str, list[list[int]]]] = {}
        for name, rows in seen.items():
            order = tuple(sorted(rows, key=lambda row: (self.segments.index(row[0]), row[2], row[1])))
            groups.setdefault(order, {})[name] = [rows[row] for row in order]
        return [(list(order), showings) for order, showings in groups.items()]

    def _has_enough(self, rows: Mapping[Row, Sequence[int]]) -> bool:
        """True if a subject can be fitted: a segment to fit on, one to validate on, and one to test on."""
        there = {segment for segment, _, _ in rows}
        return len(there & set(self.train)) >= min(2, len(self.train)) and bool(there - set(self.train))

    def _showings(self, brain: xr.Dataset) -> dict[Row, list[int]]:
        """Rows of the brain cube behind each row that has features."""
        length = self.length
        seen: dict[str, dict[int, dict[int, int]]] = {name: {} for name in self.segments}
        labels = [brain[name].values.tolist() for name in ("segment", "repeat", "onset_s")]
        for position, (segment, repeat, onset_s) in enumerate(zip(*labels, strict=True)):
            number = round(onset_s / self.tr_s)
            if number < length.get(segment, 0):
                seen[segment].setdefault(int(repeat), {})[number] = position
        rows: dict[Row, list[int]] = {}
        for segment, by_repeat in seen.items():
            if self.study.brain.repeats == "separate":
                rows |= {(segment, n, repeat): [at] for repeat, own in by_repeat.items() for n, at in own.items()}
            elif by_repeat:
                everywhere = set.intersection(*(set(own) for own in by_repeat.values()))
                rows |= {(segment, n, 0): [own[n] for own in by_repeat.values()] for n in everywhere}
        return rows

    def design(self, stream: str, order: Sequence[Row], delays: Sequence[int]) -> np.ndarray:
        """Standardised features as they were so many TRs ago in the same segment, zeros before it begins.

        Parameters
        ----------
        stream : str
        order : sequence of (segment, number, showing)
        delays : sequence of int
            TRs.

        Returns
        -------
        array, shape (row, delay x dim)
            Standardised on the training rows of `order`.
        """
        known = self.features[stream]
        seen = sorted({(segment, number) for segment, number, _ in order if segment in self.train})
        fitted = np.array([known[segment][number] for segment, number in seen])
        mean, spread = fitted.mean(axis=0), fitted.std(axis=0)
        scale = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 1e-7 * np.abs(mean))
        rows = []
        for segment, number, _ in order:
            past = [number - delay for delay in delays]
            rows.append([(known[segment][n] - mean) * scale if n >= 0 else np.zeros(len(mean)) for n in past])
        return np.array(rows).reshape(len(rows), -1)

    def folds(self, order: Sequence[Row], delays: Sequence[int]) -> list[Fold]:
        """The pipeline's folds of the training rows among these.

        Parameters
        ----------
        order : sequence of (segment, number, showing)
        delays : sequence of int
            TRs; the longest widens the gaps.

        Returns
        -------
        list of (train, validation)
            Positions among the training rows.
        """
        study, rows = self.study, [row for row in order if row[0] in self.train]
        return leave_segments_out(
            np.array([segment for segment, _, _ in rows], dtype=object),
            np.array([number * self.tr_s for _, number, _ in rows]),
            {film: segments for film, segments in study.films.items() if film in study.split.train},
            {segment: (length - 1) * self.tr_s for segment, length in self.length.items()},
            study.encode.folds,
            Gap(study.split.gap_s, self.tr_s, self.window_s, max(delays)),
        )

    def fit(
        self, kernel: np.ndarray, shown: np.ndarray, responses: np.ndarray, folds: Sequence[Fold]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Kernel ridge, each target with its best penalty.

        Parameters
        ----------
        kernel : ndarray (row, row)
            Of the training rows.
        shown : ndarray (new row, row)
            Of the rows to predict with the training rows.
        responses : ndarray (row, target)
        folds : sequence of Fold

        Returns
        -------
        ndarray (target,), ndarray (new row, target)
            The least squared error on the folds, and what its penalty predicts.
        """
        params = self.study.encode.alphas
        alphas = np.logspace(np.log10(params.min), np.log10(params.max), params.n)
        losses = np.zeros((len(alphas), responses.shape[1]))
        for train, held in folds:
            predicted = _ridge(kernel[np.ix_(train, train)], responses[train], kernel[np.ix_(held, train)], alphas)
            losses += ((predicted - responses[held]) ** 2).mean(axis=1) / len(folds)
        predicted = _ridge(kernel, responses, shown, alphas)
        return losses.min(axis=0), np.stack([predicted[a, :, t] for t, a in enumerate(losses.argmin(axis=0))], axis=1)


def _ridge(kernel: np.ndarray, responses: np.ndarray, shown: np.ndarray, alphas: np.ndarray) -> np.ndarray:
    """Predictions (alpha, row, target) of kernel ridge, for rows by their kernel with the training rows."""
    values, vectors = np.linalg.eigh(kernel)
    left, right = shown @ vectors, vectors.T @ responses
    return np.array([(left / (values + alpha)) @ right for alpha in alphas])


def mean_showings(
    brain: xr.Dataset, targets: Sequence[int] | np.ndarray, showings: Sequence[Sequence[int]]
) -> np.ndarray:
    """Responses (row, target) of targets at these positions, the mean of each row's showings.

    Parameters
    ----------
    brain : Dataset
        A brain cube.
    targets : sequence or array of int
        Positions on the target axis.
    showings : sequence of sequence of int
        For each row, positions on the cube's time axis.

    Returns
    -------
    array of float64, shape (row, target)
    """
    bold = brain["bold"].isel(target=targets).transpose("time", "target").values.astype(np.float64)
    return np.array([bold[positions].mean(axis=0) for positions in showings])
