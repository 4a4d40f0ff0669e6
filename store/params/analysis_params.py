"""Sections of `params.yaml` that say how features are fitted, compared and tested."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, WithJsonSchema, field_validator, model_validator

from cinecube.store.base.section import Section, WrongValue, as_written

_LONGEST_DELAY = 1000


class Alphas(Section):
    """A logarithmic grid of ridge penalties."""

    min: float = Field(1.0, ge=1e-30, le=1e30)
    """The smallest."""
    max: float = Field(1e8, ge=1e-30, le=1e30)
    """The largest."""
    n: int = Field(20, ge=1, le=1000)
    """How many, evenly spaced on a logarithmic scale."""

    @model_validator(mode="after")
    def _rising(self) -> Alphas:
        if self.max < self.min or (self.n > 1 and self.max == self.min):
            raise WrongValue(
                found=f"min {self.min:g} and max {self.max:g}", expected="a max above min", do="correct one of them"
            )
        return self


Choice = Literal["one_alpha", "squared_alphas", "without_last_block", "zscore_across_targets", "delays_across_runs"]

_COMPAT = WithJsonSchema(
    {
        "anyOf": [
            {"const": "oota2025", "type": "string"},
            {"type": "array", "items": {"enum": list(get_args(Choice)), "type": "string"}},
            {"type": "null"},
        ]
    }
)


class EncodeParams(Section):
    """Parameters of encoding: features fitted to responses."""

    delays: list[int] = Field([1, 2, 3, 4, 5], min_length=1, max_length=100)
    """FIR lags of the features."""
    alphas: Alphas = Alphas()
    folds: int = Field(5, ge=2, le=1000)
    """Parts of the training films for choosing penalties and layers; each is whole segments, so there are no more.
    """
    solver: Literal["shared", "himalaya"] = "shared"
    """`shared`: one factorisation for all targets and subjects; `himalaya`: that library's own, slower."""
    targets_per_block: int = Field(4096, ge=1, le=10_000_000)
    """Of one task; changes speed and memory only."""
    rows: Literal["common", "own"] = "common"
    """Rows that all subjects have, or each subject's own."""
    compat: Annotated[tuple[Choice, ...], _COMPAT] = ()
    """Choices of the code of Oota et al. (2025) to repeat, for whoever must compare; `oota2025` stands for all."""

    @field_validator("compat", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return get_args(Choice) if value == "oota2025" else () if value is None else value

    @model_validator(mode="after")
    def _one_alpha_is_shared(self) -> EncodeParams:
        if "one_alpha" in self.compat and self.solver != "shared":
            raise WrongValue(
                key="solver",
                found=self.solver,
                expected="shared, which one_alpha of `compat` needs",
                do="set `solver: shared`, or leave out one_alpha",
            )
        return self

    @model_validator(mode="after")
    def _delays_look_back(self) -> EncodeParams:
        if self.delays != sorted(set(self.delays)) or self.delays[0] < 0 or self.delays[-1] > _LONGEST_DELAY:
            raise WrongValue(
                key="delays",
                found=as_written(self.delays),
                expected=f"different whole numbers of TRs, 0 to {_LONGEST_DELAY}, in rising order",
                do="sort them, and take out what is there twice, is negative or further back",
            )
        return self


class CeilingParams(Section):
    """Parameters of the noise ceiling, by which scores are divided."""

    use: Literal["cross_subject", "repeats", "none"] = "cross_subject"
    """Which ceiling scores are divided by: what other subjects predict, extrapolated to many; what repeated films
    allow; or none.
    """
    threshold: float = Field(0.05, ge=0, le=1)
    """Targets with a lower ceiling (r) have no normalised score."""
    cap: float = Field(1.0, gt=0, le=1000)
    """Shares of the ceiling above it are cut."""
    curve: Literal["exponential", "reliability"] = "exponential"
    """How scores rise with the number of other subjects: the paper's saturating `exponential`, or as `reliability`
    does (Spearman-Brown), which is less biased where there are few subjects.
    """
    bootstraps: int = Field(100, ge=1, le=100_000)
    """Resamplings behind the intervals."""
    block_rows: int = Field(10, ge=1, le=1_000_000)
    """Rows that a resampling of repeated films keeps together."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Of the resamplings."""
    compat: Literal["oota2025"] | None = None
    """Whose published procedure to repeat."""
    approximate: Literal["auto", "never", "always"] = "auto"
    """Whether subjects predict each other from their first thousand components, where all of their targets would take
    days: with more than 4,000 training rows and 1,000 targets of each subject (`auto`), always, or never.
    """


class Pair(Section):
    """Of the residual analysis: a stream to keep, and one whose part in it is removed."""

    keep: str
    """The stream whose features are kept."""
    remove: str
    """The stream whose part in them is removed."""
    layers: Literal["all"] | list[str] = "all"
    """Layers of the removed stream."""
    by: Literal["dim", "direction"] = "dim"
    """What has a penalty of its own: each `dim` of the kept layer, as the paper has it, or each `direction` in it,
    which leaves less behind where the removed stream determines some mixtures of dims.
    """

    @property
    def name(self) -> str:
        """Name of its cubes."""
        return f"{self.keep}-{self.remove}"

    @property
    def title(self) -> str:
        """The pair in words, as pages and pictures have it."""
        return f"{self.keep} without {self.remove}"


class KeptWeights(Section):
    """A model whose encoders' weights are kept, at one layer of each of its streams."""

    model: str
    """A model of `models` or `imported`."""
    layer: str | Annotated[int, Field(ge=0)] = "best"
    """A label or a block's number; `best` is the layer with the highest average `cv_score` of all targets."""


class Statistics(Section):
    """Parameters of statistical tests."""

    permutations: int = Field(5000, ge=1, le=100_000)
    """How many; the smallest p is one over one more."""
    permute: Literal["blocks", "shifts"] = "blocks"
    """Permute `blocks` of test rows, or shift them in a circle."""
    block_rows: Literal["auto"] | Annotated[int, Field(ge=1, le=1_000_000)] = "auto"
    """Rows of a block; chosen from the data's autocorrelation by `auto`."""
    fdr: float = Field(0.05, gt=0, lt=1)
    """Level of the false discovery rate."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Of the permutations and bootstraps."""
    compare: list[tuple[str, str]] = Field(default_factory=list)
    """Pairs of streams that are compared, target by target and region by region."""


class Unimodal(Section):
    """Streams whose mean is the unimodal bar of the paper's figures."""

    video: list[str] = Field(default_factory=list)
    """Of the picture alone."""
    audio: list[str] = Field(default_factory=list)
    """Of the sound alone."""
