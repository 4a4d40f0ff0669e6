"""The study's page: where it is, and whether it is of the study as it is."""

from __future__ import annotations

from pathlib import Path

from cinecube.status.pipeline import stages_to_run
from cinecube.store.base.errors import StudyError
from cinecube.store.base.paths import StudyPaths
from cinecube.store.params.document import Study, refuse_no_source


def report_page(study: Study, root: Path) -> tuple[Path, str]:
    """The report of a study.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Returns
    -------
    page : Path
        Absolute.
    why : str
        Why `dvc repro` would write it again, as DVC says; empty where it would not, or DVC does not know.

    Raises
    ------
    StudyError
        If there is none.
    """
    paths = StudyPaths(root.resolve())
    if not paths.report.is_file():
        refuse_no_source(study)
        raise StudyError(
            where=paths.relative(paths.report),
            found="no report",
            expected="the page that the last stage writes",
            do="run `dvc repro`; `cinecube plan` says what is to be done, and how long it takes",
        )
    return paths.report, stages_to_run(study, root).get("report", "")
