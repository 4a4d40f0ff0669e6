"""Reading a study with all its sections, the simulated one's too."""

from __future__ import annotations

from pathlib import Path

from cinecube.simulation.spec import SimulateSpec
from cinecube.store.params import PARAMS_FILE, Study, load_study, parse


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
    """The study's `simulate` section, checked; scans are at the study's clock unless it says otherwise."""
    clock = {"tr_s": study.clock.tr_s, "window_s": study.clock.window_s}
    return parse(SimulateSpec, clock | dict(study.simulate or {}), f"{PARAMS_FILE}: simulate")
