"""The table of films: each segment probed once, before anything is computed from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from cinecube.features.films.probed import probed
from cinecube.features.films.stimuli import find_segments
from cinecube.store.base.atomic import staged
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer
from cinecube.store.clock.films_table import COLUMNS
from cinecube.store.open.imported import open_imported
from cinecube.store.params.document import Study, refuse_no_source

Progress = Callable[[int, int], None]
_MEGABYTE = 10**6


def write_films_table(study: Study, root: Path, progress: Progress | None = None) -> pd.DataFrame:
    """Probe every segment of a study and write `data/films.csv`.

    Each film is decoded once, to its end, and not again while its file stays the same.

    A study without films (`stimuli: null`) takes the lengths from the feature cubes that it imported.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    progress : callable, optional
        Called with megabytes of films done and in all.

    Returns
    -------
    DataFrame
        One row per segment: film, duration in seconds, rows at the study's clock, frame rate, size, sound, and in
        words what was chosen for the user and what is out of the ordinary.

    Raises
    ------
    StudyError
        If a segment is missing, unreadable, truncated, damaged or of variable frame rate.
    """
    paths = StudyPaths(root)
    with one_writer(paths, paths.films), staged(paths.films) as partial:
        rows = _rows_of_films(study, root, progress) if study.stimuli else _rows_of_cubes(study, root)
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        table.to_csv(partial, index=False)
    return table


def said_of_films(table: pd.DataFrame) -> list[str]:
    """Lines on what was chosen in films and what is unusual in them, one for segments that are alike."""
    # The contents of films that are known by imported cubes alone are unknown.
    lacks = {"no sound": table["sound_rate_hz"].eq(0), "no picture": table["width"].eq(0)}
    said = table["read"].fillna("")
    for what, absent in lacks.items():
        said = said.where(~absent, said.map(lambda read, what=what: f"{read}; {what}" if read else what))
    lines = []
    for film, rows in table.assign(said=said)[said != ""].groupby("film", sort=False):
        for words, alike in rows.groupby("said", sort=False):
            whole = len(alike) == (table["film"] == film).sum() > 1
            lines.append(f"{str(film) if whole else ', '.join(alike['segment'])}: {words!s}")
    return lines


def _rows_of_films(study: Study, root: Path, progress: Progress | None) -> list[tuple[object, ...]]:
    files = [(film, *item) for film in study.films for item in find_segments(study, film, root).items()]
    total = sum(path.stat().st_size for _, _, path in files)
    rows: list[tuple[object, ...]] = []
    before = 0
    for film, segment, path in files:
        done = [before]

        def told(n_bytes: int, done: list[int] = done) -> None:
            done[0] += n_bytes
            if progress:
                progress(done[0] // _MEGABYTE, total // _MEGABYTE)

        info = probed(path, root, told=told)
        before += path.stat().st_size
        if progress:
            progress(before // _MEGABYTE, total // _MEGABYTE)
        rows.append(
            (
                film,
                segment,
                round(info.duration_s, 6),
                study.clock.n_rows(info.duration_s),
                round(float(info.rate_hz), 6),
                info.n_frames,
                info.width,
                info.height,
                info.sound_rate_hz,
                "; ".join(info.said),
            )
        )
    return rows


def _rows_of_cubes(study: Study, root: Path) -> list[tuple[object, ...]]:
    """Rows of films as long as the first imported model says; nothing is known of frames and sound.

    A film may end anywhere in its last window, so a row that begins after that window did might be past the film.
    """
    refuse_no_source(study)
    model = study.imported[0].model
    rows: list[tuple[object, ...]] = []
    for film in study.films:
        with open_imported(study, root, model, film) as cube:
            segments, onsets_s = cube["segment"].values, cube["onset_s"].values
            for segment in study.film(film):
                own_s = onsets_s[segments == segment]
                if not own_s.size:
                    raise StudyError(
                        where=f"model {model} {film}",
                        found=f"no rows of segment {segment}",
                        expected="every segment of `films`",
                        do="take the segment out of `films`, or import cubes that have it",
                    )
                step_s = float(np.median(np.diff(own_s))) if own_s.size > 1 else float(cube["window_s"].values[0])
                n_rows = study.clock.n_rows_from(float(own_s[-1]))
                length_s = round(min(float(own_s[-1]) + step_s, n_rows * study.clock.tr_s), 6)
                rows.append((film, segment, length_s, n_rows, *[None] * (len(COLUMNS) - 4)))
    return rows
