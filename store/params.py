"""`params.yaml`, read once at the edge: frozen models, unknown keys are errors."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from cinecube.store.analysis_params import CeilingParams, EncodeParams, Pair, Statistics, Unimodal
from cinecube.store.clock import Clock
from cinecube.store.errors import StudyError
from cinecube.store.labels import check_name
from cinecube.store.section import Section

PARAMS_FILE = "params.yaml"

_Model = TypeVar("_Model", bound=BaseModel)


class Split(Section):
    """Films to fit on and films to test on; `gap_s` is dropped where a fold cuts a film in two."""

    train: list[str] = Field(min_length=1)
    test: list[str] = Field(min_length=1)
    gap_s: float = Field(4.0, ge=0)


class ModelParams(Section):
    """One network as a study reads it. All of it but `accept_licence` changes the numbers of its cubes.

    Attributes
    ----------
    extractor, checkpoint, revision : str
        Which network, and its weights: a hub id with a revision, a folder or a file.
    layers : `all` or list of str
        Which layers to keep.
    pooling : str
        How the tokens of a layer become one vector.
    frame_pooling : str
        How the frames of a window do, where a network reads one at a time.
    final_norm : bool
        Whether the last block is read after the norm that follows it.
    frames_per_window, sampling, context_s
        What is read of the film; the network's own values where nothing is said.
    window_s : float, optional
        Seconds of film that one window sees; the clock's where nothing is said, or the stride.
    stride_s : float, optional
        Seconds between windows where they lie closer than rows; `resample` makes rows of them.
    dtype, precision : str
        Of the numbers in the cube, and of those in the network.
    untrained : int, optional
        Seed of fresh weights: the paper's baseline.
    compat : str, optional
        Whose published errors to repeat.
    accept_licence : bool
        Consent to weights for non-commercial use only.
    """

    extractor: str
    checkpoint: str
    revision: str | None = None
    layers: Literal["all"] | list[str] = "all"
    pooling: Literal["mean", "patches", "cls", "last"] = "mean"
    frame_pooling: Literal["mean", "last"] = "mean"
    final_norm: bool = False
    frames_per_window: Literal["all"] | PositiveInt | None = None
    sampling: Literal["even", "ends", "consecutive"] | None = None
    context_s: float | None = Field(None, ge=0)
    window_s: PositiveFloat | None = None
    stride_s: PositiveFloat | None = None
    resample: Literal["mean", "lanczos"] = "mean"
    dtype: Literal["float32", "float16"] = "float32"
    precision: Literal["float32", "bfloat16"] = "float32"
    untrained: int | None = Field(None, ge=0)
    compat: Literal["oota2025"] | None = None
    accept_licence: bool = False


class Compute(Section):
    """What this study extracts itself."""

    models: list[str] = Field(min_length=1)
    films: list[str] = Field(min_length=1)


class Imported(Section):
    """A model whose feature cubes this study did not compute.

    Attributes
    ----------
    model : str
    source : str
        Where they come from: the file of an added array.
    """

    model: str
    source: str


class Run(Section):
    """How fast things run; none of it enters a fingerprint."""

    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    backend: Literal["numpy", "torch"] = "numpy"
    batch: PositiveInt = 16
    threads: PositiveInt = 1
    block_rows: PositiveInt = 512


class BrainParams(Section):
    """Where the scans are and how they become brain cubes."""

    source: Literal["fmriprep"] = "fmriprep"
    path: str
    subjects: list[str] = Field(min_length=1)
    space: str = "MNI152NLin2009cAsym"
    targets: Literal["voxels", "parcels"] = "voxels"
    atlas: str | None = None
    confounds: Literal["none", "motion", "simple", "simple+gsr"] = "simple"
    high_pass_hz: float = Field(0.008, ge=0)
    fwhm_mm: float = Field(0.0, ge=0)
    repeats: Literal["average", "separate"] = "average"


class ClusterAddress(Section):
    """A running Dask scheduler."""

    address: str


class JobQueue(Section):
    """A batch system: any class of `dask_jobqueue`, the number of jobs, and the class's own options."""

    jobqueue: str
    jobs: PositiveInt = 1
    options: dict[str, Any] = Field(default_factory=dict)


DaskParams = Literal["local"] | ClusterAddress | JobQueue
"""Where blocks of targets are computed."""


class Study(Section):
    """One study: `params.yaml` and what follows from it."""

    study: str
    clock: Clock
    stimuli: str
    films: dict[str, list[str]] = Field(min_length=2)
    split: Split
    models: dict[str, ModelParams] = Field(min_length=1)
    compute: Compute
    imported: list[Imported] = Field(default_factory=list)
    run: Run = Run()
    brain: BrainParams
    encode: EncodeParams = EncodeParams()
    ceiling: CeilingParams = CeilingParams()
    residual: list[Pair] = Field(default_factory=list)
    partition: list[list[str]] = Field(default_factory=list)
    statistics: Statistics = Statistics()
    rois: str | None = None
    unimodal: Unimodal = Unimodal()
    dask: DaskParams = "local"
    simulate: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _names_are_known(self) -> Study:
        for kind, names in (
            ("film", self.films),
            ("segment", self.segments()),
            ("model", [*self.models, *self._imported_names()]),
            ("subject", self.brain.subjects),
        ):
            for name in names:
                check_name(name, kind)
        _known("split.train", self.split.train, self.films, "films")
        _known("split.test", self.split.test, self.films, "films")
        _known("compute.films", self.compute.films, self.films, "films")
        _known("compute.models", self.compute.models, self.models, "models")
        self._streams_are_known()
        both = sorted(set(self.split.train) & set(self.split.test))
        if both:
            raise ValueError(f"split: {', '.join(both)} is in train and in test; a test film is never trained on")
        segments = self.segments()
        twice = sorted({name for name in segments if segments.count(name) > 1})
        if twice:
            raise ValueError(f"films: segment {', '.join(twice)} stands twice; segment names must differ")
        return self

    def _streams_are_known(self) -> None:
        """What analyses name is a model, or a stream of one."""
        named = {
            "residual": [stream for pair in self.residual for stream in (pair.keep, pair.remove)],
            "partition": [stream for streams in self.partition for stream in streams],
            "statistics.compare": [stream for pair in self.statistics.compare for stream in pair],
            "unimodal": [*self.unimodal.video, *self.unimodal.audio],
        }
        for key, streams in named.items():
            for stream in streams:
                self._owner(key, stream)
        for number, streams in enumerate(self.partition):
            if len(streams) not in (2, 3) or len(set(streams)) < len(streams):
                raise ValueError(f"partition.{number}: {', '.join(streams)}; name two or three different streams")
        for number, pair in enumerate(self.residual):
            if pair.keep == pair.remove:
                raise ValueError(f"residual.{number}: {pair.keep} is kept and removed; name two streams")
        imported = self._imported_names()
        again = sorted({name for name in imported if imported.count(name) > 1 or name in self.models})
        if again:
            raise ValueError(f"imported: {again[0]} is listed twice, or is a model of `models`; rename one")
        names = [pair.name for pair in self.residual]
        twice = sorted({name for name in names if names.count(name) > 1 or name in self.models or name in imported})
        if twice:
            raise ValueError(f"residual: {twice[0]} is the name of two pairs, or of a model; rename the model")

    def _owner(self, key: str, stream: str) -> str:
        # A model's own name may hold a dot: the longest that fits is the owner.
        known = [*self.models, *self._imported_names()]
        owners = [name for name in known if stream == name or stream.startswith(f"{name}.")]
        if owners:
            return max(owners, key=len)
        raise ValueError(f"{key}: {stream!r} is no model, nor a stream of one ({', '.join(known)})")

    def _imported_names(self) -> list[str]:
        return [entry.model for entry in self.imported]

    @property
    def encoded(self) -> list[str]:
        """Models that encoders are fitted to: those computed here, then the imported ones."""
        return [*self.compute.models, *self._imported_names()]

    def is_untrained(self, stream: str) -> bool:
        """Whether a stream is of a model with fresh weights."""
        params = self.models.get(self.owner(stream))
        return params is not None and params.untrained is not None

    def owner(self, stream: str) -> str:
        """The model whose cubes hold a stream: `imagebind` of `imagebind.concat`.

        Raises
        ------
        StudyError
            If the study has no such model.
        """
        try:
            return self._owner("models", stream)
        except ValueError:
            raise StudyError(
                where=f"{PARAMS_FILE}: models",
                found=f"no model {stream!r}",
                expected=f"one of {', '.join([*self.models, *self._imported_names()])}, or a stream of one",
                do="correct the name",
            ) from None

    def pair(self, name: str) -> Pair:
        """A pair of the residual analysis by its name.

        Raises
        ------
        StudyError
            If the study has no such pair.
        """
        pairs = {pair.name: pair for pair in self.residual}
        _refuse_unknown(name, pairs, "pair", "residual")
        return pairs[name]

    def scored(self, name: str) -> str:
        """The name of a model or of a residual pair, if the study has it.

        Raises
        ------
        StudyError
            If it has not.
        """
        names = [*self.models, *self._imported_names(), *(pair.name for pair in self.residual)]
        _refuse_unknown(name, names, "model or pair", "models")
        return name

    def segments(self, films: list[str] | None = None) -> list[str]:
        """Names of all segments of `films` (default: of all films), in order."""
        return [segment for film in films or self.films for segment in self.films[film]]

    def model(self, name: str) -> ModelParams:
        """Parameters of a model by name.

        Raises
        ------
        StudyError
            If the study has no such model.
        """
        _refuse_unknown(name, self.models, "model", "models")
        return self.models[name]

    def film(self, name: str) -> list[str]:
        """Segments of a film by name.

        Raises
        ------
        StudyError
            If the study has no such film.
        """
        _refuse_unknown(name, self.films, "film", "films")
        return self.films[name]

    def subject(self, name: str) -> str:
        """A subject's name, if the study has it.

        Raises
        ------
        StudyError
            If it has not.
        """
        _refuse_unknown(name, self.brain.subjects, "subject", "brain.subjects")
        return name

    def film_of(self, segment: str) -> str:
        """The film that a segment belongs to."""
        return next(film for film, segments in self.films.items() if segment in segments)


def _refuse_unknown(name: str, known: Collection[str], kind: str, section: str) -> None:
    if name not in known:
        owners = [one for one in known if name.startswith(f"{one}.") and "-" not in name]
        close = [max(owners, key=len)] if owners else difflib.get_close_matches(name, list(known), n=1)
        hint = f"did you mean {close[0]!r}?" if close else "add it there, or ask for one of these"
        raise StudyError(
            where=f"{PARAMS_FILE}: {section}",
            found=f"no {kind} {name!r}",
            expected=f"one of {', '.join(known)}",
            do=f"streams of {close[0]} come together: ask for it" if owners else hint,
        )


def _known(key: str, names: list[str], known: dict[str, Any], section: str) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{key}: {name!r} is not in {section} ({', '.join(known)})")


def load_study(root: Path) -> Study:
    """Read and check `params.yaml` of the study in folder `root`.

    Raises
    ------
    StudyError
        If the file is missing, is no YAML, lacks a key, has an unknown one or a wrong value.
    """
    path = root / PARAMS_FILE
    if not path.is_file():
        raise StudyError(
            where=str(path),
            found="no such file",
            expected="a study's parameters",
            do="run in a study's folder, or make one with `cinecube init DIR`",
        )
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise StudyError(where=PARAMS_FILE, found=f"broken YAML ({error})", expected="YAML", do="mend it") from None
    return parse(Study, raw, PARAMS_FILE)


def parse(model: type[_Model], raw: Any, where: str) -> _Model:
    """Check `raw` against a pydantic model; the first thing wrong becomes one line.

    Raises
    ------
    StudyError
        Naming the key, what it holds and what was expected.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise _explain(model, first, where) from None


def _explain(model: type[BaseModel], error: Any, where: str) -> StudyError:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        known = _keys_beside(model, location)
        close = difflib.get_close_matches(location[-1], known, n=1)
        return StudyError(
            where=f"{where}: {key}",
            found=f"an unknown key {location[-1]!r}",
            expected=f"one of {', '.join(known)}" if known else "a known key",
            do=f"did you mean {close[0]!r}?" if close else "remove it or correct its name",
        )
    if error["type"] == "missing":
        return StudyError(where=f"{where}: {key}", found="nothing", expected="a value", do="add the key")
    message = error["msg"].removeprefix("Value error, ")
    found = "a contradiction" if error["type"] == "value_error" else repr(error["input"])
    return StudyError(where=f"{where}: {key}" if key else where, found=found, expected=message, do="correct it")


def _keys_beside(model: type[BaseModel], location: list[str]) -> list[str]:
    """Field names of the section in which the key at `location` stands."""
    current: Any = model
    for part in location[:-1]:
        field = current.model_fields.get(part) if hasattr(current, "model_fields") else None
        if field is None:
            continue  # the name of a film or model, whose values all have the same type
        current = field.annotation
        args = getattr(current, "__args__", ())
        sections = [arg for arg in args if isinstance(arg, type) and issubclass(arg, BaseModel)]
        if sections:
            current = sections[-1]
    return list(current.model_fields) if hasattr(current, "model_fields") else []
