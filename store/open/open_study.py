"""A study opened for reading: its cubes by name, lazily."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xarray as xr

from cinecube.store.base.bounded import parse_json
from cinecube.store.base.errors import StudyError
from cinecube.store.base.labels import find_label, find_layer
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube, refuse_another
from cinecube.store.cube.schema import Stream, merged_layers
from cinecube.store.dvc.pulling import PulledCubes
from cinecube.store.params.document import Study, load_study


class Cubes(Protocol):
    """A source of a study's cubes."""

    def open(self, path: Path, model: str | None = None, layer: int | str | None = None) -> xr.Dataset:
        """Open a cube lazily; `model` and `layer` are all that will be read of it, where they are known.

        Parameters
        ----------
        path : Path
            In the study.
        model : str, optional
            The only one that will be read.
        layer : int or str, optional
            The only one that will be read: its block number or label.

        Returns
        -------
        Dataset

        Raises
        ------
        StudyError
            If it is not there, or lacks what will be read.
        """
        ...

    def text(self, path: Path) -> str | None:
        """A text file; None if there is none."""
        ...

    def names(self, folder: Path) -> list[str]:
        """Files below a folder, from it, in order; none where there is no such folder."""
        ...


class FolderCubes:
    """Cubes of a working tree, and those of it that `cinecube pull` left in DVC's cache.

    Parameters
    ----------
    paths : StudyPaths
    """

    def __init__(self, paths: StudyPaths) -> None:
        self._paths, self._pulled = paths, PulledCubes(paths.root)

    def open(self, path: Path, model: str | None = None, layer: int | str | None = None) -> xr.Dataset:
        """Open a cube of the folder lazily, or the layers of it that were pulled; see `Cubes.open`.

        Parameters
        ----------
        path : Path
            In the study.
        model : str, optional
            The only one that will be read.
        layer : int or str, optional
            The only one that will be read: its block number or label.

        Returns
        -------
        Dataset
        """
        where = self._paths.relative(path)
        self._pulled.refuse_kept_back(path, where)
        cube = None if path.exists() or model is None else self._pulled.open(path, model, layer, where)
        return open_cube(path, where=where) if cube is None else cube

    def text(self, path: Path) -> str | None:
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def names(self, folder: Path) -> list[str]:
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


class OpenStudy:
    """The cubes of a study. Opening reads labels; values are read when they are asked for.

    Parameters
    ----------
    params : Study
    paths : StudyPaths
    cubes : Cubes
    """

    def __init__(self, params: Study, paths: StudyPaths, cubes: Cubes) -> None:
        self.params, self.paths, self.cubes = params, paths, cubes

    def __repr__(self) -> str:
        """The study's name, models, films and subjects."""
        study = self.params
        return (
            f"<cinecube study {study.study!r}: models {', '.join(study.known_models)}; "
            f"films {', '.join(study.films)}; subjects {', '.join(study.brain.subjects)}>"
        )

    @property
    def models(self) -> list[str]:
        """Names of its models, computed here or imported; a model may have several streams."""
        return self.params.known_models

    @property
    def subjects(self) -> list[str]:
        """Names of those scanned."""
        return list(self.params.brain.subjects)

    @property
    def films(self) -> list[str]:
        """Names of its films; `params.split` says which of them are tested on."""
        return list(self.params.films)

    def features(
        self, model: str | Sequence[str], film: str | Sequence[str] | None = None, layer: int | str | None = None
    ) -> xr.DataArray:
        """Features of one or several models.

        Parameters
        ----------
        model : str or sequence of str
            Names in `params.yaml`, of one stream of such a model (`imagebind.video`), which gives its own layers and
            dims only, or of a residual pair (`tvlt.joint-videomae`; films that were fitted or tested on). Several are
            joined, and padded with NaN past their width, lazily.
        film : str or sequence of str, optional
            One film, or several, one after another; all films of the study without it.
        layer : int or str, optional
            Block number (0 is `embed`) or label; all layers without it.

        Returns
        -------
        DataArray
            `(time, dim, model, layer)`, without `layer` if one was asked for. Rows are those of the cubes as they are
            stored, by their labels; analyses bring cubes of another clock to the study's.

        Raises
        ------
        StudyError
            If there is no such model, film or layer, its cube is neither here nor in DVC's cache, or models that are
            joined have other rows than each other.
        """
        names = _names(model, "model")
        films = list(self.params.films) if film is None else _names(film, "film")
        by_model = [self._one_model(name, films, layer, is_joined=len(names) > 1) for name in names]
        if len(by_model) == 1:
            return by_model[0]
        _refuse_other_rows(names, by_model)
        joined = xr.concat(
            by_model, dim="model", join="outer", coords="minimal", compat="override", combine_attrs="drop_conflicts"
        )
        if "layer" not in joined.dims:
            return joined
        # An outer join orders labels by the alphabet.
        streams = [Stream(name, part["layer"].values.tolist(), []) for name, part in zip(names, by_model, strict=True)]
        return joined.sel(layer=merged_layers(streams))

    def _one_model(self, name: str, films: list[str], layer: int | str | None, is_joined: bool) -> xr.DataArray:
        model = self._owner(name)
        pairs = {pair.name for pair in self.params.residual}
        parts = []
        for film in films:
            self.params.film(film)
            path = self.paths.residual(name, film) if name in pairs else self.paths.features(model, film)
            where = self.paths.relative(path)
            cube = self.cubes.open(path, name, layer)
            refuse_another(cube, where, "features", model=model, segments=self.params.films[film])
            if model != name:
                cube = _select_stream(cube, name, where)
                cube = cube.isel(layer=cube["width"].values[0] > 0)
            features = cube["features"].assign_attrs(cube.attrs)
            if is_joined or len(films) > 1:  # labels stay as they are: to compare them nothing is computed
                features = features.copy(data=features.variable.chunk({"model": 1, "layer": 1}).data)
            if layer is not None:
                label = find_layer(layer, list(cube["layer"].values), where)
                _refuse_never(cube, label, where)
                features = features.sel(layer=label)
            if model != name:
                features = features.isel(dim=slice(0, int(features["width"].max())))
            parts.append(features)
        if len(parts) == 1:
            return parts[0]
        return xr.concat(
            parts, dim="time", coords="minimal", compat="override", join="exact", combine_attrs="drop_conflicts"
        )

    def _owner(self, name: str) -> str:
        """The model of a name that may be one of its streams: `imagebind` of `imagebind.video`; a pair is its own."""
        if any(name == pair.name for pair in self.params.residual):
            return name
        return self.params.owner(name)

    def brain(self, subject: str) -> xr.Dataset:
        """One subject's responses `bold (time, target)` with their labels."""
        path = self.paths.brain(self.params.subject(subject))
        cube = self.cubes.open(path)
        refuse_another(cube, self.paths.relative(path), "bold", subject=subject)
        return cube

    def scores(self, model: str) -> xr.Dataset:
        """Scores of a model, of a stream or of a residual pair: `score (subject, model, layer, target)` and more."""
        return self._of_model(model, self.paths.scores, "score")

    def ceiling(self) -> xr.Dataset:
        """Noise ceilings: `cross_subject (subject, target)`, `repeats (subject, target)` and more."""
        return self._whole(self.paths.ceiling, "cross_subject")

    def significance(self) -> xr.Dataset:
        """Tests of every target: `score`, `p` and `q (subject, model, target)`, and those of comparisons."""
        return self._whole(self.paths.significance, "q")

    def _whole(self, path: Path, holds: str) -> xr.Dataset:
        cube = self.cubes.open(path)
        refuse_another(cube, self.paths.relative(path), holds)
        return cube

    def predictions(self, model: str | None = None) -> xr.Dataset:
        """Test films as predicted and as measured, average over each parcel's targets.

        Parameters
        ----------
        model : str, optional
            A model, a stream of one or a residual pair; without it all models that encoders are fitted to, joined.

        Returns
        -------
        Dataset
            `predicted (subject, model, time, parcel)`, `measured (subject, time, parcel)` and `targets (subject,
            parcel)`; `layer (subject, model, parcel)` beside them.

        Raises
        ------
        StudyError
            If there is no such model, its cube is not here, or models that are joined have other rows than each other.
        """
        if model is None:
            parts = [self.predictions(name) for name in self.params.encoded]
            _refuse_other_rows(self.params.encoded, parts)
            return xr.concat(parts, "model", data_vars="minimal", coords="minimal", compat="override", join="exact")
        return self._of_model(model, self.paths.predictions, "predicted")

    def weights(self, model: str, layer: int | str | None = None) -> xr.Dataset:
        """Weights of a model's encoders, where `keep_weights` of `params.yaml` asks for them.

        Parameters
        ----------
        model : str
            A model, or a stream of one.
        layer : int or str, optional
            Block number (0 is `embed`) or label: streams whose weights are kept at another layer are left out.

        Returns
        -------
        Dataset
            `weights (subject, model, target, delay, dim)`, NaN past a layer's width; `mean` and `spread (subject,
            model, dim)`, by which features are standardised first; `layer (model)` beside them.

        Raises
        ------
        StudyError
            If `keep_weights` lacks the model, no weights are kept at the layer, or the cube is not here.
        """
        self.params.kept_weights(self.params.owner(model))
        cube = self._of_model(model, self.paths.weights, "weights")
        if layer is None:
            return cube
        kept = [str(label) for label in cube["layer"].values if label]
        label = find_layer(layer, list(dict.fromkeys(kept)), f"weights of {model}")
        return cube.isel(model=[m for m, other in enumerate(cube["layer"].values) if str(other) == label])

    def _of_model(self, model: str, place: Callable[[str], Path], holds: str) -> xr.Dataset:
        """A cube of a model's results, or its part of one stream."""
        owner = self._owner(model)
        path = place(owner)
        where, cube = self.paths.relative(path), self.cubes.open(path)
        refuse_another(cube, where, holds, model=owner)
        return cube if owner == model else _select_stream(cube, model, where)

    def truth(self) -> dict[str, Any]:
        """The planted signals of a simulated study.

        Raises
        ------
        StudyError
            If the study was not simulated.
        """
        path = self.paths.truth
        text = self.cubes.text(path)
        if text is None:
            raise StudyError(
                where=self.paths.relative(path),
                found="no truth",
                expected="a simulated study",
                do="run `dvc repro` in a study made with `cinecube init --template simulated`",
            )
        try:
            truth: dict[str, Any] = parse_json(text)
        except ValueError as error:
            raise StudyError(
                where=self.paths.relative(path),
                found=f"no JSON ({error})",
                expected="what was planted",
                do="run `dvc repro`, which makes it anew",
            ) from error
        return truth


def open_folder(root: Path) -> OpenStudy:
    """Open the study in a folder.

    Raises
    ------
    StudyError
        If it holds no study.
    """
    params, paths = load_study(root), StudyPaths(root)
    return OpenStudy(params, paths, FolderCubes(paths))


def _names(asked: Any, what: str) -> list[str]:
    """One name or several as a list; anything else is refused in words."""
    names = [asked] if isinstance(asked, str) else list(asked) if isinstance(asked, Iterable) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise StudyError(
            where=f"`{what}=`", found=repr(asked), expected="a name, or a list of names", do=f"correct `{what}=`"
        )
    return names


def _refuse_other_rows(names: Sequence[str], parts: Sequence[xr.DataArray] | Sequence[xr.Dataset]) -> None:
    """Joined by position, rows of two clocks would share a label that is that of one of them."""
    first = parts[0]
    for name, part in zip(names, parts, strict=True):
        if not all(np.array_equal(part[label].values, first[label].values) for label in ("segment", "onset_s")):
            raise StudyError(
                where=f"models {names[0]} and {name}",
                found=f"{first.sizes['time']} and {part.sizes['time']} rows, with other onsets or segments",
                expected="the same rows",
                do="ask for one at a time; analyses bring cubes from elsewhere to the study's clock",
            )


def _refuse_never(cube: xr.Dataset, label: str, where: str) -> None:
    """A layer that none of a cube's streams has was never computed; others lack it as padding."""
    if not (cube["width"].sel(layer=label) > 0).any():
        raise StudyError(
            where=where,
            found=f"no layer {label} of {', '.join(map(str, cube['model'].values))}: it never existed",
            expected="a layer with a width",
            do="see `cinecube show` for the layers of each stream",
        )


def _select_stream(cube: xr.Dataset, name: str, where: str) -> xr.Dataset:
    """A cube's part of one stream, with the axis `model` of length one."""
    do = "see `cinecube show` for the streams of a cube"
    return cube.isel(model=[find_label(name, cube["model"].values, where, do=do)])
