"""The finding in a sentence, and the design of the study in a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from cinecube.analysis.regions.roi_tables import WHOLE_BRAIN
from cinecube.store.params.document import Study

_MOST_NAMED = 6


def headline(means: pd.DataFrame, groups: Mapping[str, Sequence[str]], best: str | None, study: Study) -> str:
    """The finding in a sentence, with numbers.

    Parameters
    ----------
    means : DataFrame
        Over subjects: `roi`, `model`, `score`, `normalised`; streams and unimodal means.
    groups : mapping of str to sequence of str
        The unimodal means by name: see `paper_figures.groups`.
    best : str, optional
        Stream that the training films prefer; None where none has a score.
    study : Study

    Returns
    -------
    str
    """
    if best is None:
        return "No model has a score."
    whole = means[means["roi"] == WHOLE_BRAIN].set_index("model")
    own = whole.loc[best]
    share = f", {own['normalised']:.0%} of the ceiling" if np.isfinite(own["normalised"]) else ""
    said = f"{best} predicts best, r = {own['score']:.2f}{share}"
    others = whole.drop(index=[best, *groups], errors="ignore")["score"].dropna()
    if len(others) and others.max() > own["score"]:
        # Chosen without the test film, whose scores may order them otherwise.
        said = (
            f"{best}, which the training films prefer, predicts with r = {own['score']:.2f}{share}; {others.idxmax()}"
            f" reaches {others.max():.2f} on the test film"
        )
    return f"{said}{_modalities(means, groups, study)}."


def _modalities(means: pd.DataFrame, groups: Mapping[str, Sequence[str]], study: Study) -> str:
    """Regions that a video, an audio or a multi-modal stream predicts best, if there are two modalities and regions."""
    trained = [model for model in means["model"].unique() if model not in groups and not study.is_untrained(model)]
    # A model of one stream that is in no group, such as loudness, is of no modality that is known here.
    kinds = {model: "other" if study.owner(model) == model else "multi-modal" for model in trained}
    kinds |= {model: name.removeprefix("unimodal ") for name, models in groups.items() for model in models}
    regions = means[(means["roi"] != WHOLE_BRAIN) & means["model"].isin(trained)]
    wide = regions.pivot(index="roi", columns="model", values="score").reindex(list(dict.fromkeys(regions["roi"])))
    best = wide.T.groupby(kinds).max().T.dropna(how="all")
    if len(groups) < 2 or best.empty:
        return ""
    won = best.idxmax(axis=1)
    parts = []
    order = dict.fromkeys((*(name.removeprefix("unimodal ") for name in groups), "multi-modal", "other"))
    for name in [name for name in order if name in best]:
        # Clearest first.
        own = best[(won == name) & (best[name] > 0)]
        ahead = (own[name] - own.drop(columns=name).max(axis=1)).sort_values(ascending=False)
        if len(ahead):
            rest = len(ahead) - _MOST_NAMED
            named = ", ".join(map(str, ahead.index[:_MOST_NAMED])) + (f" and {rest} more" if rest > 0 else "")
            parts.append(f"{name} models win {named}")
    return f"; {', '.join(parts)}" if parts else ""


def design(study: Study, minutes: float, n_rows: int, n_streams: int) -> str:
    """The study in a line.

    Parameters
    ----------
    study : Study
    minutes : float
        Of all films.
    n_rows : int
        Of all films.
    n_streams : int

    Returns
    -------
    str
    """
    models = f"{len(study.encoded)} {'model' if len(study.encoded) == 1 else 'models'}" + (
        f" in {n_streams} streams" if n_streams > len(study.encoded) else ""
    )
    subjects = len(study.brain.subjects)
    return (
        f"{len(study.films)} films ({minutes:.1f} minutes, {n_rows} rows of {study.clock.tr_s} s), {subjects} "
        f"{'subject' if subjects == 1 else 'subjects'}, {models}. Fitted on {', '.join(study.split.train)}; tested on "
        f"{', '.join(study.split.test)}."
    )
