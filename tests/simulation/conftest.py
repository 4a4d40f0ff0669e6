"""A study of a few seconds, simulated once for all tests of this room."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from cinecube.simulation.brain.reachable import Cleaning
from cinecube.simulation.setup.simulate_params import SimulateSpec
from cinecube.simulation.simulate import simulate

_FILMS = {"amber": ["amber01", "amber02"], "dune": ["dune01"]}
_SPEC = SimulateSpec(seed=3, subjects=2, segment_s=10, repeated=("dune",), parcels=40, targets_per_parcel=4)


@pytest.fixture(scope="session")
def spec() -> SimulateSpec:
    return _SPEC


@pytest.fixture(scope="session")
def films() -> dict[str, list[str]]:
    return _FILMS


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of the small study."""
    root = tmp_path_factory.mktemp("made")
    # Seven rows: any more confounds would leave nothing of them.
    simulate(_SPEC, _FILMS, ["amber"], root, cleaning=Cleaning("none", 0))
    return root


@pytest.fixture(scope="session")
def digests() -> Callable[[Path], dict[str, str]]:
    """SHA-256 of every file under a folder, by name."""

    def digest(root: Path) -> dict[str, str]:
        files = (path for path in sorted(root.rglob("*")) if path.is_file())
        return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    return digest
