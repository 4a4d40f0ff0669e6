"""Reading a study with all its sections, the simulated one's too."""

from __future__ import annotations

from pathlib import Path

from cinecube.simulation.setup.simulate_params import simulate_spec
from cinecube.store.params.document import Study, load_study


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
