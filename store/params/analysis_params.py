"""Sections of `params.yaml` that say how features are fitted, compared and tested."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from cinecube.store.base.section import Section, WrongValue, as_written

_LONGEST_DELAY = 1000


class Alphas(Section):
    """A logarithmic grid of ridge penalties."""

    min: float = Field(1.0, ge=1e-30, le=1e30)
    max: float = Field(1e8, ge=1e-30, le=1e30)
    n: int = Field(20, ge=1, le=1000)

    @model_validator(mode="after")
    def _rising(self) -> Alphas:
        if self.max < self.min or (self.n > 1 and self.max == self.min):
            raise WrongValue(
                found=f"min {self.min:g} and max {self.max:g}", expected="a max above min", do="correct one of them"
            )
        return self


Choice = Literal["one_alpha", "squared_alphas", "without_last_block", "zscore_across_targets", "delays_across_runs"]


class EncodeParams(Section):
    """Parameters of encoding: features fitted to responses.

    Attributes
    ----------
    delays : list of int
        FIR lags in TRs.
    alphas : Alphas
    folds : int
    solver : str
    targets_per_block : int
        Of one task; changes speed and memory only.
    rows : str
        Rows that all subjects have, or each subject's own.
    compat : tuple of str
        Choices of the code of Oota et al. (2025) to repeat, for whoever must compare; `oota2025` stands for all.
    """

    delays: list[int] = Field([1, 2, 3, 4, 5], min_length=1, max_length=100)
    alphas: Alphas = Alphas()
    folds: int = Field(5, ge=2, le=1000)
    solver: Literal["shared", "himalaya"] = "shared"
    targets_per_block: int = Field(4096, ge=1, le=10_000_000)
    rows: Literal["common", "own"] = "common"
    compat: tuple[Choice, ...] = ()

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
                do="sort them, and take out what stands twice, is negative or further back",
            )
        return self


class CeilingParams(Section):
    """Parameters of the noise ceiling, by which scores are divided.

    Attributes
    ----------
    use : str
        Which ceiling: what other subjects predict, extrapolated to many of them; what repeated films allow; or none.
    threshold, cap : float
        Targets with a lower ceiling have no normalised score; higher shares than `cap` are cut.
    curve : str
        How scores rise with the number of other subjects: the paper's saturating exponential, or as reliability does
        (Spearman-Brown), which is less biased where there are few subjects.
    bootstraps : int
        Resamplings behind the intervals.
    block_rows : int
        Rows that a resampling of repeated films keeps together.
    seed : int
    compat : str, optional
        Whose published procedure to repeat.
    approximate : str
        Whether subjects predict each other from their first thousand components, where all of their targets would take
        days: with more than 4,000 training rows (`auto`), whenever (`always`), or not at all (`never`).
    """

    use: Literal["cross_subject", "repeats", "none"] = "cross_subject"
    threshold: float = Field(0.05, ge=0, le=1)
    cap: float = Field(1.0, gt=0, le=1000)
    curve: Literal["exponential", "reliability"] = "exponential"
    bootstraps: int = Field(100, ge=1, le=100_000)
    block_rows: int = Field(10, ge=1, le=1_000_000)
    seed: int = Field(0, ge=0, lt=2**63)
    compat: Literal["oota2025"] | None = None
    approximate: Literal["auto", "never", "always"] = "auto"


class Pair(Section):
    """Of the residual analysis: a stream to keep, and one whose part in it is removed.

    Attributes
    ----------
    keep, remove : str
    layers : `all` or list of str
        Layers of the removed stream.
    by : str
        What has a penalty of its own: each dim of the kept layer, as the paper has it, or each direction in it, which
        leaves less behind where the removed stream determines some mixtures of dims.
    """

    keep: str
    remove: str
    layers: Literal["all"] | list[str] = "all"
    by: Literal["dim", "direction"] = "dim"

    @property
    def name(self) -> str:
        """Name of its cubes."""
        return f"{self.keep}-{self.remove}"


class KeptWeights(Section):
    """A model whose encoders' weights are kept, at one layer of each of its streams.

    Attributes
    ----------
    model : str
    layer : str or int
        A label or a block's number; `best` is the layer with the highest average `cv_score` of all targets.
    """

    model: str
    layer: str | Annotated[int, Field(ge=0)] = "best"


class Statistics(Section):
    """Parameters of statistical tests.

    Attributes
    ----------
    permutations : int
    permute : str
        Permute blocks of test rows, or shift them in a circle.
    block_rows : `auto` or int
        Rows of a block; chosen from the data's autocorrelation by default.
    fdr : float
        Level of the false discovery rate.
    seed : int
    compare : list of pairs
        Streams that are compared, target by target and ROI by ROI.
    """

    permutations: int = Field(5000, ge=1, le=100_000)
    permute: Literal["blocks", "shifts"] = "blocks"
    block_rows: Literal["auto"] | Annotated[int, Field(ge=1, le=1_000_000)] = "auto"
    fdr: float = Field(0.05, gt=0, lt=1)
    seed: int = Field(0, ge=0, lt=2**63)
    compare: list[tuple[str, str]] = Field(default_factory=list)


class Unimodal(Section):
    """Streams whose mean is the unimodal bar of the paper's figures."""

    video: list[str] = Field(default_factory=list)
    audio: list[str] = Field(default_factory=list)
