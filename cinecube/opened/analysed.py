"""A study opened in Python, with what analyses made of it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from cinecube.store.base.errors import StudyError
from cinecube.store.base.labels import find_label, find_layer, no_such
from cinecube.store.cube.cubes import refuse_another
from cinecube.store.open.open_study import FolderCubes, OpenStudy

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from cinecube.analysis.encoders.pairs import Pairs
    from cinecube.analysis.maps.map_values import Kind

_TABLE = ".csv"


class AnalysedStudy(OpenStudy):
    """A study and its results; from `cinecube.open`. Values are read when they are asked for.

    See `OpenStudy` for the cubes: `features`, `brain`, `scores`, `ceiling`, `significance`, `predictions`, `weights`,
    `truth`. What reads works in a folder and at any revision; `pairs`, `map`, `draw` and `figure` need a folder.
    """

    @property
    def tables(self) -> list[str]:
        """Names that `table` takes."""
        names = [PurePosixPath(name) for name in self.cubes.names(self.paths.tables)]
        return [str(name.with_suffix("")) for name in names if name.suffix == _TABLE]

    def table(self, name: str) -> pd.DataFrame:
        """A table of results by its short name: `roi` of `results/tables/roi.csv`.

        Parameters
        ----------
        name : str
            One of `tables`.

        Returns
        -------
        DataFrame

        Raises
        ------
        StudyError
            If there is no such table, or it is damaged.
        """
        from cinecube.analysis.cubes.tables import parse_table

        name = str(name).removesuffix(_TABLE)
        known = self.tables
        where = self.paths.relative(self.paths.tables)
        if name not in known:
            raise no_such(
                "table", name, known, where, "run `dvc repro`, which makes it, or fetch it by `cinecube pull`"
            )
        return parse_table(self.cubes.text(self.paths.tables / f"{name}{_TABLE}") or "", f"{where}/{name}{_TABLE}")

    def predict(
        self, film: str, model: str | None = None, layer: int | str | None = None, subject: str | None = None
    ) -> xr.DataArray:
        """Predict responses to a film with the weights that `keep_weights` of `params.yaml` keeps.

        Features are standardised with constants of the training films; delays reach over no border of a run.

        Parameters
        ----------
        film : str
            Any film of the study whose features there are; no scan of it is needed.
        model : str, optional
            A model with one stream, or a stream; without it the one whose weights the study keeps.
        layer : int or str, optional
            Block number (0 is `embed`) or label; the layer whose weights are kept without it.
        subject : str, optional
            Whose responses; all subjects' without it.

        Returns
        -------
        DataArray
            `(subject, time, target)`, or `(time, target)` with one subject's targets, in standard deviations of a run;
            `segment` and `onset_s` on time. The correlation with what was measured is `score` of `scores(model)`.

        Raises
        ------
        StudyError
            If there are no such weights, film or subject, the film's features are not here, or were made in another
            way than those that the weights were fitted on.
        """
        from cinecube.analysis.cubes.spaces import at_clock
        from cinecube.analysis.weights.applied import predict_film

        study, segments = self.params, self.params.film(film)
        subjects = self.subjects if subject is None else [study.subject(subject)]
        model = self._kept_model() if model is None else model
        weights = self.weights(model, layer)
        streams = [str(name) for name in weights["model"].values]
        if len(streams) > 1:
            raise StudyError(
                where=f"weights of {model}",
                found=f"{len(streams)} streams",
                expected="one to predict with",
                do=f"name one of {', '.join(streams)}",
            )
        (stream,), owner, kept = streams, study.owner(model), str(weights["layer"].values[0])
        if not kept:
            raise StudyError(
                where=f"weights of {model}",
                found="none, since it has no scores at the layer of `keep_weights`",
                expected="weights",
                do="name another layer in `keep_weights` of params.yaml",
            )
        path = self.paths.features(owner, film)
        where = self.paths.relative(path)
        cube = self.cubes.open(path, stream, kept)
        refuse_another(cube, where, "features", model=owner, segments=segments)
        if imported := study.import_of(owner):
            cube = at_clock(cube, study.clock, segments, imported.resample)
        found = predict_film(weights.sel(subject=subjects), cube, where)
        if subject is None:
            return found
        own = found.isel(subject=0)
        return own.isel(target=np.isfinite(own.values).all(axis=0))

    def _kept_model(self) -> str:
        """The one model whose weights the study keeps."""
        kept = [entry.model for entry in self.params.keep_weights]
        if len(kept) != 1:
            raise StudyError(
                where="predict",
                found="no model",
                expected=f"one of {', '.join(kept)}" if kept else "one whose weights are kept, and none are",
                do="name it" if kept else "name one in `keep_weights` of params.yaml, and run `dvc repro`",
            )
        return kept[0]

    def pairs(self, model: str, layer: int | str, subject: str) -> Pairs:
        """Features and responses of one layer and one subject, as encoders see them, for any program to fit.

        Parameters
        ----------
        model : str
            A model with one stream, a stream, or a residual pair.
        layer : int or str
            Block number (0 is `embed`) or label.
        subject : str

        Returns
        -------
        Pairs
            `X` and `Y`, delayed, aligned and standardised, with rows, runs, folds and penalties.

        Raises
        ------
        StudyError
            If there is no such stream, layer or subject, a cube is not here, or the study is not open from a folder.
        """
        from cinecube.analysis.encoders.pairs import make_pairs
        from cinecube.analysis.encoders.problem import read_problem

        root = self._folder("pairs")
        owner = self._owner(model)
        self.params.subject(subject)
        problem = read_problem(self.params, root, owner, fitted=False)
        where, space = f"features of {owner}", problem.space
        only = space.models[0] if len(space.models) == 1 and model == owner else model
        m = find_label(only, space.models, where, do="name one of its streams")
        own = [name for name, width in zip(space.layers, space.width[m], strict=True) if width > 0]
        return make_pairs(problem, m, space.layers.index(find_layer(layer, own, where)), subject)

    def map(
        self, kind: Kind, model: str | None = None, layer: int | str | None = None, subject: str = "mean"
    ) -> xr.DataArray:
        """One value per target, as `cinecube export` writes it.

        Parameters
        ----------
        kind : str
            `score`, `normalised` (by the ceiling), `depth` (preferred on the training films), `ceiling`, `drop`
            (percent that a removal costs), `q`, `group_t` or `group_q`.
        model : str, optional
            A model, a stream of one, or a residual pair; for `drop` the pair. Not for `ceiling`.
        layer : int or str, optional
            Block number (0 is `embed`) or label, for `score` and `normalised`; by default each target's own, chosen on
            the training films.
        subject : str
            One subject, or `mean`.

        Returns
        -------
        DataArray, dims (target,)

        Raises
        ------
        StudyError
            If there is no such map, or the study is not open from a folder.
        """
        from cinecube.analysis.maps.map_values import map_values

        return map_values(self.params, self._folder("map"), kind, model, layer, subject)[0]

    def draw(
        self, kind: Kind, model: str | None = None, layer: int | str | None = None, subject: str = "mean"
    ) -> Axes | None:
        """Draw a map on the cortex as the report does; parameters are those of `map`.

        Parameters
        ----------
        kind, model, layer, subject
            See `map`.

        Returns
        -------
        matplotlib Axes or None
            The first of its figure; None where no target has a value, or the space has no picture.

        Raises
        ------
        StudyError
            As `map`.
        """
        from cinecube.analysis.figures.paper_figures import draw_study_map

        return draw_study_map(self.params, self._folder("draw"), kind, model, layer, subject)

    def figure(self, number: int | str) -> dict[str, list[Axes]]:
        """Draw a figure of Oota et al. (2025) for this study, to be changed before it is saved.

        Parameters
        ----------
        number : int or str
            2: models over the whole brain; 3: in regions; 4: residuals in regions; 5: what removal costs, on the
            cortex.

        Returns
        -------
        dict of str to list of matplotlib Axes
            Axes of each picture by its name: one picture, and one for each residual pair of figure 5.

        Raises
        ------
        StudyError
            If there is no such figure, a table is missing, or the study is not open from a folder.
        """
        from cinecube.analysis.figures.paper_figures import paper_figure

        return paper_figure(number, self.params, self._folder("figure")).pictures

    def _folder(self, what: str) -> Path:
        """The study's folder; a revision has none."""
        if isinstance(self.cubes, FolderCubes):
            return self.paths.root
        raise StudyError(
            where=what,
            found="a study at a revision",
            expected="one in a folder",
            do="clone it, fetch its cubes by `cinecube pull`, and open the clone",
        )

    def contents(self) -> pd.DataFrame:
        """The cubes that are here, as `cinecube ls` lists them; those that cannot be read are left out.

        Returns
        -------
        DataFrame
            `kind`, `name`, `axes`, `models`, `layers`, `bytes`, `path`, `fingerprint`.
        """
        import pandas as pd

        from cinecube.store.open.listing import list_folder, list_pulled, list_revision
        from cinecube.store.open.revision import RevisionCubes

        def skip(error: StudyError) -> None:
            """A page is no place for errors: reading the cube raises them."""

        if isinstance(self.cubes, RevisionCubes):
            rows = list_revision(self.cubes.index, skip)
        else:
            root = self.paths.root
            rows = [*list_folder(root, skip), *list_pulled(root, root, skip)]
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        """Page of what is in the study, as a notebook shows it."""
        import pandas as pd

        from cinecube.opened.summaries import study_page

        try:
            cubes = self.contents()
        except StudyError:  # a revision that records none
            cubes = pd.DataFrame()
        return study_page(self.params, cubes)
