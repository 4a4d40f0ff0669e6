"""Reading a study with all its sections, the simulated one's too."""

from __future__ import annotations

from pathlib import Path

from cinecube.simulation.setup.simulate_params import SimulateSpec
from cinecube.store.base.errors import StudyError
from cinecube.store.params.document import PARAMS_FILE, Study, load_study, parse


def load(root: Path) -> Study:
    """Read and check the study in folder `root`, `simulate` included where it has that section.

    Raises
    ------
    StudyError
        If `params.yaml` is missing or wrong.
    """
    study = load_study(root)
    if study.simulate is not None:
        simulate_spec(study)
    return study


def simulate_spec(study: Study) -> SimulateSpec:
    """The study's `simulate` section, checked; scans are at the study's clock unless it says otherwise.

    Raises
    ------
    StudyError
        If it has none: its films and scans are somebody's own.
    """
    if study.simulate is None:
        raise StudyError(
            where=PARAMS_FILE,
            found="no section simulate",
            expected="one, where films and scans are simulated",
            do="make such a study with `cinecube init DIR --template simulated`",
        )
    clock = {"tr_s": study.clock.tr_s, "window_s": study.clock.window_s}
    return parse(SimulateSpec, clock | dict(study.simulate), f"{PARAMS_FILE}: simulate")
