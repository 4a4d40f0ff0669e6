"""`params.yaml`, read once at the edge: frozen models, unknown keys are errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, WithJsonSchema, field_validator, model_validator

from cinecube.store.base.bounded import parse_yaml, read_text, yaml_fault
from cinecube.store.base.errors import StudyError
from cinecube.store.base.labels import check_name, no_such, one_of, suggestion
from cinecube.store.base.paths import PARAMS_FILE as PARAMS_FILE
from cinecube.store.base.section import Section, WrongValue, as_written
from cinecube.store.clock.clock import Clock
from cinecube.store.params.analysis_params import (
    CeilingParams,
    EncodeParams,
    KeptWeights,
    Pair,
    Statistics,
    Unimodal,
)
from cinecube.store.params.model_params import ModelParams
from cinecube.store.params.run_params import DaskParams, Run
from cinecube.store.params.wrong_params import explain

ALGONAUTS_SPACE = "MNI152NLin2009cAsym"
"""Space in which the data of Algonauts 2025 were averaged into parcels."""
_PAIR = ("keep", "remove")
Preset = Literal["none", "motion", "simple", "simple+gsr", "scrubbing", "compcor", "ica_aroma"]
Source = Literal["fmriprep", "algonauts2025", "arrays"]

# Labels as YAML may have them, see `_labels_as_text`.
_LABELS = WithJsonSchema({"type": "object", "additionalProperties": {"type": ["string", "number", "null"]}})

_Model = TypeVar("_Model", bound=BaseModel)


class Split(Section):
    """Films to fit on and films to test on; `gap_s` is dropped where a fold cuts a film in two."""

    train: list[str] = Field(min_length=1)
    """Films to fit on."""
    test: list[str] = Field(min_length=1)
    """Films to test on, and to choose nothing by."""
    gap_s: float = Field(4.0, ge=0, le=3600)
    """Seconds that are dropped where a fold cuts a film in two: neighbouring segments share some."""


class Compute(Section):
    """Models and films that this study extracts itself; none in a study that reuses cubes of others."""

    models: list[str] = Field(default_factory=list)
    """Models, of the section `models`."""
    films: list[str] = Field(default_factory=list)
    """Films, of the section `films`."""


class Imported(Section):
    """A model whose feature cubes this study did not compute."""

    model: str
    """Its name; if `models` has it too, its cubes must be what is asked for there."""
    source: str
    """Where they come from: a repository, or the file of an added array."""
    rev: str | None = None
    """The revision of the repository that was asked for; `.dvc` files hold the commit."""
    resample: Literal["mean", "lanczos"] = "mean"
    """How rows of another clock become rows of this study's: mean by their overlap, or lanczos."""


class BrainParams(Section):
    """The scans, and how they become brain cubes."""

    source: Source = "fmriprep"
    """`fmriprep`: derivatives; `algonauts2025`: the challenge's HDF5; `arrays`: a lab's own, with tables of rows."""
    path: str
    """Folder of the scans, from the study's."""
    subjects: list[str] = Field(min_length=1)
    """Subjects, as their folders are called: `sub-01`."""
    space: str = "MNI152NLin2009cAsym"
    """Value of the `space` entity: `MNI152NLin2009cAsym`, `T1w`, `fsLR`, `fsaverage6`, …."""
    surface: Literal["fsaverage5", "fsaverage6", "fsaverage7"] | None = None
    """Mesh that volumes in an MNI space are projected to."""
    meshes: str | None = None
    """Folder of this mesh's `pial_left.gii.gz`, `white_left.gii.gz` and those of the right; nilearn's own without it.
    """
    targets: Literal["voxels", "parcels"] = "voxels"
    """`voxels`: each voxel, vertex or grayordinate for itself; or `parcels`, averages over those of the atlas."""
    atlas: str | None = None
    """A labelled volume with its table, a pair of surfaces, a `.dlabel.nii`, or `hcp-mmp`; from the study's folder."""
    choose: Annotated[dict[str, str], _LABELS] = Field(default_factory=dict)
    """BIDS entity -> label of the file to take where one showing has several; empty for the file without the entity."""
    tasks: str | None = None
    """Name of a segment by its task, as `friends_{task}`; without a rule both are the same."""
    confounds: Preset | Annotated[list[str], Field(min_length=1)] = "simple"
    """What is taken out of each run: a preset, or columns of the table by name."""
    detrend: bool = True
    """Whether a straight line is taken out of each run, too."""
    high_pass_hz: float = Field(0.008, ge=0, le=10)
    """Slower waves are taken out of each run; 0 for none."""
    fwhm_mm: float = Field(0.0, ge=0, le=100)
    """Width of the kernel that smooths volumes; 0 for none."""
    repeats: Literal["average", "separate"] = "average"
    """Whether showings of one segment are averaged, or are rows of their own."""
    publish: bool = False
    """Whether `dvc push` sends scans and responses of single subjects, for which you need their consent; changes no
    number.
    """

    @field_validator("choose", mode="before")
    @classmethod
    def _labels_as_text(cls, choose: Any) -> Any:
        """YAML reads `2` as a number and nothing as null."""
        if not isinstance(choose, dict):
            return choose
        return {
            entity: "" if label is None else str(label) if type(label) in (int, float) else label
            for entity, label in choose.items()
        }

    @field_validator("tasks")
    @classmethod
    def _names_a_task_once(cls, tasks: str | None) -> str | None:
        if tasks is not None and tasks.count("{task}") != 1:
            do = "write it as the name of a segment with {task} in it"
            raise WrongValue(found=as_written(tasks), expected="text with {task} once, as friends_{task}", do=do)
        return tasks

    @model_validator(mode="after")
    def _keys_go_together(self) -> BrainParams:
        cleaned, is_mni = self.source != "fmriprep", self.space.startswith("MNI")
        by = f"none with source: {self.source}, whose values are cleaned already"
        alone = "null with source: " + self.source
        for key, wrong, expected, do in (
            ("confounds", cleaned and self.confounds != "none", by, "set brain.confounds to none"),
            ("fwhm_mm", cleaned and self.fwhm_mm > 0, f"0 with source: {self.source}", "set brain.fwhm_mm to 0"),
            ("surface", cleaned and self.surface, alone, "leave brain.surface out"),
            ("meshes", self.meshes and not self.surface, "null without surface", "set brain.surface, or leave it out"),
            ("space", self.surface and not is_mni, "an MNI space with surface", "leave brain.surface out"),
            ("space", self.source == "algonauts2025" and self.space != ALGONAUTS_SPACE, ALGONAUTS_SPACE, "set it"),
        ):
            if wrong:
                raise WrongValue(key=key, found=as_written(getattr(self, key)), expected=expected, do=do)
        return self


class Study(Section):
    """One study: `params.yaml` and what follows from it."""

    study: str
    """The study's name."""
    clock: Clock
    stimuli: str | None = None
    """Folder of the films, `<stimuli>/<film>/<segment>.mp4`; null where all features are imported."""
    films: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(min_length=2)
    """Film -> its segments in order."""
    split: Split
    models: dict[str, ModelParams] = Field(default_factory=dict)
    """Networks by the names that cubes, tables and figures have for them."""
    compute: Compute = Compute()
    imported: list[Imported] = Field(default_factory=list)
    """Models whose cubes come from elsewhere, by `cinecube import` and `cinecube add`."""
    run: Run = Run()
    brain: BrainParams
    encode: EncodeParams = EncodeParams()
    keep_weights: list[KeptWeights] = Field(default_factory=list)
    """Models whose encoders' weights are kept in results/weights, to look into and to predict new films with."""
    ceiling: CeilingParams = CeilingParams()
    residual: list[Pair] = Field(default_factory=list)
    """Pairs of the residual analysis: what of `keep` is left without what `remove` explains."""
    partition: list[list[str]] = Field(default_factory=list)
    """Sets of two or three streams: variance that they explain alone and together."""
    statistics: Statistics = Statistics()
    rois: str | None = None
    """Regions: a shipped set, as `oota2025`, or a YAML file: REGION -> parcels; null for none."""
    unimodal: Unimodal = Unimodal()
    show_films: bool = False
    """Whether the report shows small pictures of the test films. They go wherever the report goes."""
    dask: DaskParams = "local"
    """Where blocks of features and of targets are computed: `local`, GPUs, a scheduler, or a batch system."""
    simulate: dict[str, Any] | None = None
    """Sizes of a simulated study; its films and scans are somebody's own without it."""

    @model_validator(mode="after")
    def _names_are_known(self) -> Study:
        for key, kind, names in (
            ("films", "film", self.films),
            ("films", "segment", self.segments()),
            ("models", "model", self.models),
            ("imported", "model", self._imported_names()),
            ("brain.subjects", "subject", self.brain.subjects),
        ):
            for name in names:
                _check_name(key, kind, name)
        _known("split.train", "film", self.split.train, self.films)
        _known("split.test", "film", self.split.test, self.films)
        _known("compute.films", "film", self.compute.films, self.films)
        _known("compute.models", "model", self.compute.models, self.models)
        self._streams_are_known()
        both = sorted(set(self.split.train) & set(self.split.test))
        if both:
            raise WrongValue(
                key="split",
                found=f"{', '.join(both)} in train and in test",
                expected="test films that no encoder is fitted on",
                do="remove it from one of them",
            )
        if twice := _twice(self.segments()):
            raise WrongValue(
                key="films", found=f"segment {twice} twice", expected="segment names that differ", do="rename one"
            )
        for key, kind, names in (
            ("split.train", "film", self.split.train),
            ("split.test", "film", self.split.test),
            ("compute.films", "film", self.compute.films),
            ("compute.models", "model", self.compute.models),
            ("brain.subjects", "subject", self.brain.subjects),
        ):
            if twice := _twice(names):
                raise WrongValue(
                    key=key, found=f"the {kind} {twice} twice", expected="each once", do="remove one of them"
                )
        return self

    @model_validator(mode="after")
    def _high_pass_leaves_something(self) -> Study:
        highest = 0.5 / self.clock.tr_s
        if self.brain.high_pass_hz >= highest:
            raise WrongValue(
                key="brain.high_pass_hz",
                found=f"{self.brain.high_pass_hz:g}",
                expected=f"less than {highest:g} Hz, the fastest wave that a TR of {self.clock.tr_s:g} s shows",
                do="lower it: 0.008 is usual, 0 takes no drift out",
            )
        return self

    def named_streams(self) -> dict[str, str]:
        """Models and streams that analyses name, by the key that names them: `residual.0.keep`, `unimodal.video.1`."""
        named = {f"residual.{i}.{key}": getattr(pair, key) for i, pair in enumerate(self.residual) for key in _PAIR}
        lists = {f"partition.{i}": streams for i, streams in enumerate(self.partition)}
        lists |= {f"statistics.compare.{i}": list(pair) for i, pair in enumerate(self.statistics.compare)}
        lists |= {"unimodal.video": self.unimodal.video, "unimodal.audio": self.unimodal.audio}
        return named | {f"{key}.{i}": stream for key, streams in lists.items() for i, stream in enumerate(streams)}

    def _streams_are_known(self) -> None:
        for key, stream in self.named_streams().items():
            if self._owner(stream) is None:
                raise WrongValue(key=key, **self._no_model(stream))
        for i, streams in enumerate(self.partition):
            if len(streams) not in (2, 3) or len(set(streams)) < len(streams):
                raise WrongValue(
                    key=f"partition.{i}",
                    found=as_written(streams),
                    expected="two or three different streams",
                    do="name them",
                )
        _each_once("partition", "the set", [" + ".join(streams) for streams in self.partition])
        _each_once("statistics.compare", "the pair", [" - ".join(pair) for pair in self.statistics.compare])
        for i, pair in enumerate(self.residual):
            if pair.keep == pair.remove:
                raise WrongValue(
                    key=f"residual.{i}",
                    found=f"{pair.keep} to keep and to remove",
                    expected="two different streams",
                    do="correct one of them",
                )
        imported = self._imported_names()
        again = sorted({name for name in imported if imported.count(name) > 1 or name in self.compute.models})
        if again:
            raise WrongValue(
                key="imported",
                found=f"{again[0]}, which is listed twice or is in compute.models",
                expected="models that are computed here or come from elsewhere",
                do="remove it from one of them",
            )
        kept = [entry.model for entry in self.keep_weights]
        _known("keep_weights", "model", kept, self.encoded)
        _each_once("keep_weights", "the model", kept)
        names = [pair.name for pair in self.residual]
        _each_once("residual", "the pair", names)
        models = sorted(set(names) & {*self.models, *imported})
        if models:
            raise WrongValue(
                key="models",
                found=f"{models[0]}, the name of a pair too",
                expected="another name",
                do="rename the model",
            )

    def _owner(self, stream: str) -> str | None:
        # A model's own name may hold a dot: the longest that fits is the owner.
        owners = [name for name in self.known_models if str(stream) == name or str(stream).startswith(f"{name}.")]
        return max(owners, key=len, default=None)

    def _no_model(self, stream: str) -> dict[str, str]:
        known = self.known_models
        return {
            "found": f"{stream!r}, no model nor a stream of one",
            "expected": f"{one_of(known, str(stream))}, or a stream such as imagebind.video",
            "do": suggestion(str(stream), known) or "correct it, or add its model to `models`",
        }

    def _imported_names(self) -> list[str]:
        return [entry.model for entry in self.imported]

    @property
    def known_models(self) -> list[str]:
        """Models of the section `models`, then the imported ones that it lacks."""
        return list(dict.fromkeys([*self.models, *self._imported_names()]))

    def import_of(self, model: str) -> Imported | None:
        """Source of a model's cubes; None if this study computes them."""
        return next((entry for entry in self.imported if entry.model == model), None)

    @property
    def encoded(self) -> list[str]:
        """Models that encoders are fitted to: those computed here, then the imported ones."""
        return [*self.compute.models, *self._imported_names()]

    def is_untrained(self, stream: str) -> bool:
        """True if a stream is of a model with fresh weights."""
        params = self.models.get(self.owner(stream))
        return params is not None and params.untrained is not None

    def owner(self, stream: str) -> str:
        """The model whose cubes hold a stream: `imagebind` of `imagebind.concat`.

        Raises
        ------
        StudyError
            If the study has no such model.
        """
        owner = self._owner(stream)
        if owner is None:
            raise StudyError(where=f"{PARAMS_FILE}: models", **self._no_model(stream))
        return owner

    def kept_weights(self, model: str) -> KeptWeights:
        """A model's entry in `keep_weights`.

        Raises
        ------
        StudyError
            If it has none.
        """
        entries = {entry.model: entry for entry in self.keep_weights}
        _refuse_unknown(model, entries, "model", "keep_weights")
        return entries[model]

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
        names = [*self.known_models, *(pair.name for pair in self.residual)]
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


def refuse_no_source(study: Study) -> None:
    """Refuse a study in which nothing can run: without films and imported cubes nobody knows how long segments are.

    Parameters
    ----------
    study : Study

    Raises
    ------
    StudyError
        Naming the import that comes first.
    """
    if study.stimuli is None and not study.imported:
        raise StudyError(
            where=f"{PARAMS_FILE}: imported",
            found="no films and no imported cubes",
            expected="either, to know how long segments are",
            do="run `cinecube import REPO --model MODEL` first, and `dvc repro` then",
        )


def _refuse_unknown(name: str, known: Collection[str], kind: str, section: str) -> None:
    text = str(name)  # from Python it may be a number or a list
    if text != name or name not in known:
        owners = [one for one in known if text.startswith(f"{one}.") and "-" not in text]
        if owners:
            hint = f"streams of {max(owners, key=len)} come together: ask for it"
        else:
            hint = "add it there, or ask for one of these" if known else "add it there"
        raise no_such(kind, name, known, f"{PARAMS_FILE}: {section}", hint, guess=not owners)


def _twice(names: list[str]) -> str | None:
    """The first name that stands there more than once."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _each_once(key: str, kind: str, names: list[str]) -> None:
    if doubled := _twice(names):
        raise WrongValue(key=key, found=f"{kind} {doubled} twice", expected="each once", do="remove one of them")


def _known(key: str, kind: str, names: list[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise WrongValue(
                key=key,
                found=f"no {kind} {name!r}",
                expected=f"{one_of(known, name)}, the keys of `{kind}s`"
                if known
                else f"a key of `{kind}s`, which has none",
                do=suggestion(name, known) or f"correct it, or add it to `{kind}s`",
            )


def _check_name(key: str, kind: str, name: str) -> None:
    try:
        check_name(name, kind)
    except StudyError as error:
        raise WrongValue(key=f"{key}: {error.where}", found=error.found, expected=error.expected, do=error.do) from None


def load_study(root: Path) -> Study:
    """Read and check `params.yaml` of the study in folder `root`.

    Raises
    ------
    StudyError
        If the file is missing, is no YAML, lacks a key, has an unknown one or a wrong value.
    """
    refuse_no_study(root)
    path = root / PARAMS_FILE
    try:
        text = read_text(path)
    except UnicodeDecodeError as error:
        raise _no_text(str(path), error) from None
    return read_study(text, str(path))


def refuse_no_study(root: Path) -> None:
    """Refuse a folder without `params.yaml`.

    Raises
    ------
    StudyError
        As `load_study` does.
    """
    path = root / PARAMS_FILE
    if not path.exists():
        bare = (root / "HEAD").is_file() and (root / "objects").is_dir()
        raise StudyError(
            where=str(path),
            found="a bare repository" if bare else "no such file",
            expected="a study's parameters",
            do="clone it and run there" if bare else "run in a study's folder, or make one with `cinecube init DIR`",
        )


def read_study(text: str, where: str) -> Study:
    """Check the text of a `params.yaml`; raises as `load_study` does.

    Parameters
    ----------
    text : str
    where : str
        What messages call the file where it is no YAML.

    Returns
    -------
    Study

    Raises
    ------
    StudyError
        As of `load_study`.
    """
    try:
        raw = parse_yaml(text, strict=True)
    except (yaml.YAMLError, ValueError) as error:
        raise _no_yaml(where, error) from None
    return parse(Study, raw, PARAMS_FILE)


def _no_text(where: str, error: UnicodeDecodeError) -> StudyError:
    line = error.object[: error.start].count(b"\n") + 1
    return StudyError(
        where=where,
        found=f"a byte that is no UTF-8, {error.object[error.start]:#04x}, in line {line}",
        expected="YAML in UTF-8",
        do="save the file in UTF-8, or write that line anew",
    )


def _no_yaml(where: str, error: Exception) -> StudyError:
    fault = yaml_fault(error)
    do = "correct that line" if "line " in fault else "correct it"
    return StudyError(where=where, found=f"broken YAML ({fault})", expected="YAML in UTF-8", do=do)


def parse(model: type[_Model], raw: Any, where: str, do: str | None = None) -> _Model:
    """Check `raw` against a pydantic model; the first thing wrong becomes one line.

    Parameters
    ----------
    model : type
    raw : Any
        What a YAML or JSON file holds.
    where : str
        The file.
    do : str, optional
        What to do about anything wrong, where that is not to edit the file.

    Returns
    -------
    object
        Of the model's type.

    Raises
    ------
    StudyError
        Naming the key, what it holds and what was expected.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise explain(error, raw, where, do) from None
