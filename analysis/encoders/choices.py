"""Choices of the code of Oota et al. (2025) that `encode.compat` repeats, and what each of them is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

import numpy as np

from cinecube.analysis.cubes.spaces import FeatureSpace, Responses
from cinecube.analysis.encoders.across_targets import AcrossTargets
from cinecube.analysis.encoders.layout import Settings
from cinecube.store.params.analysis_params import Choice
from cinecube.store.params.document import Study

# Their penalties enter squared: ridge by singular values divides by s² + alpha².
SQUARED_ALPHAS = np.logspace(1, 3, 10) ** 2

WHAT: Mapping[Choice, str] = {
    "one_alpha": "one penalty for all targets of a subject, by their mean correlation on held-out rows",
    "squared_alphas": "ten penalties from 100 to 1,000,000: 10 to 1,000, squared",
    "without_last_block": "layers counted from the embedding, so that the output of the last block is never read",
    "zscore_across_targets": "responses z-scored over the targets of each TR instead of over time",
    "delays_across_runs": "delayed features that reach into the run before",
}


def choose_settings(settings: Settings, compat: tuple[Choice, ...]) -> Settings:
    """Settings of the encoders with the choices that concern them."""
    return replace(
        settings,
        alphas=SQUARED_ALPHAS if "squared_alphas" in compat else settings.alphas,
        one_alpha="one_alpha" in compat,
        across_runs="delays_across_runs" in compat,
    )


def choose_inputs(
    space: FeatureSpace, brains: Mapping[str, Responses], compat: tuple[Choice, ...]
) -> tuple[FeatureSpace, dict[str, Responses]]:
    """Features and responses as the choices make an encoder see them."""
    if "zscore_across_targets" in compat:
        brains = {
            name: AcrossTargets(**{field.name: getattr(brain, field.name) for field in fields(brain)})
            for name, brain in brains.items()
        }
    return replace(space, without_last_block="without_last_block" in compat), dict(brains)


def without_choices(study: Study) -> Study:
    """The same study without `encode.compat`: for analyses that have their own way to fit."""
    return study.model_copy(update={"encode": study.encode.model_copy(update={"compat": ()})})
