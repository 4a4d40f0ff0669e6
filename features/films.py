"""The table of films: each segment probed once, before anything is computed from it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from cinecube.features.probing import probe
from cinecube.features.stimuli import find_segments
from cinecube.store.atomic import staged
from cinecube.store.films import COLUMNS
from cinecube.store.params import Study
from cinecube.store.paths import StudyPaths


def write_films_table(study: Study, root: Path) -> pd.DataFrame:
    """Probe every segment of a study and write `data/films.csv`.

    Returns
    -------
    DataFrame
        One row per segment: film, duration in seconds, rows at the study's clock, frame rate, size, sound.

    Raises
    ------
    StudyError
        If a segment is missing, unreadable, truncated or of variable frame rate.
    """
    rows = []
    for film in study.films:
        for segment, path in find_segments(study, film, root).items():
            info = probe(path, StudyPaths(root).relative(path))
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
                )
            )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    with staged(StudyPaths(root).films) as partial:
        table.to_csv(partial, index=False)
    return table
