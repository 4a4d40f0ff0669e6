"""The study as a whole: the same bytes from the same arguments, and a truth that says what was planted."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

import cinecube.simulation
from cinecube.simulation.brain.reachable import Cleaning
from cinecube.simulation.features.small_networks import STREAMS
from cinecube.simulation.setup.simulate_params import SimulateSpec
from cinecube.simulation.simulate import simulate
from cinecube.store.base.errors import StudyError


def test_same_arguments_same_bytes(
    made: Path,
    spec: SimulateSpec,
    films: dict[str, list[str]],
    digests: Callable[[Path], dict[str, str]],
    tmp_path: Path,
) -> None:
    """Whatever the number of workers, and over what stood there before."""
    (tmp_path / "stimuli" / "old").mkdir(parents=True)
    (tmp_path / "truth").mkdir()
    told: list[tuple[int, int]] = []
    cleaning = Cleaning("none", 0)
    simulate(
        spec, films, ["amber"], tmp_path, cleaning=cleaning, workers=1, progress=lambda *numbers: told.append(numbers)
    )
    assert digests(tmp_path) == digests(made)
    assert "weights/imagebind/imagebind.pth" in digests(made)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scans", "stimuli", "truth", "weights"]
    assert told == [(k, 5) for k in range(1, 6)]


@pytest.mark.parametrize("own", ["stimuli/amber/amber01.MOV", "scans/sub-01/func/a_bold.nii.gz", "weights/a.pth"])
def test_what_was_not_simulated_is_not_replaced(
    spec: SimulateSpec, films: dict[str, list[str]], tmp_path: Path, own: str
) -> None:
    (tmp_path / own).parent.mkdir(parents=True)
    (tmp_path / own).write_bytes(b"a year of work")
    with pytest.raises(StudyError, match=r"found files that were not simulated .* --template simulated"):
        simulate(spec, films, ["amber"], tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / own]


def test_truth_says_what_was_planted(made: Path, spec: SimulateSpec) -> None:
    truth = json.loads((made / "truth" / "truth.json").read_text(encoding="utf-8"))
    assert truth["schema"] == 2
    assert truth["seed"] == spec.seed
    parcels = truth["parcels"]
    driven = {name: parcel for name, parcel in parcels.items() if parcel["sources"]}
    assert len(driven) == 30
    assert len(parcels) == 40
    for parcel in driven.values():
        assert sum(source["share"] for source in parcel["sources"]) == pytest.approx(1)
        assert parcel["delay_tr"] in (2, 3, 4)
        for subject in spec.subject_names():
            assert 0 < parcel["ceiling_one_showing"][subject] < parcel["ceiling"][subject] < 1


def test_truth_says_how_each_stream_was_read(made: Path) -> None:
    models = json.loads((made / "truth" / "truth.json").read_text(encoding="utf-8"))["models"]
    assert set(models) == {stream.name for streams in STREAMS.values() for stream in streams}
    assert models["imagebind.concat"]["layers"] == {"head": 64}
    assert (models["vivit"]["frames_per_window"], models["vivit"]["sampling"]) == (32, "consecutive")
    assert (models["ast"]["context_s"], models["wav2vec2"]["context_s"], models["tvlt.joint"]["context_s"]) == (
        1.07,
        4,
        0,
    )
    assert (models["tvlt.joint"]["rate_hz"], models["imagebind.audio"]["rate_hz"]) == (44100, 16000)
    for stream in models.values():
        assert set(stream["pooling"]) == set(stream["layers"])


def test_unknown_films_are_refused(spec: SimulateSpec, films: dict[str, list[str]], tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="split.train: found 'ember'"):
        simulate(spec, films, ["ember"], tmp_path)
    with pytest.raises(StudyError, match="simulate.repeated: found 'dunes'"):
        simulate(spec.model_copy(update={"repeated": ("dunes",)}), films, ["amber"], tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong", [{"parcel": 3}, {"fps": "0"}, {"fps": "fast"}, {"width": 161}, {"noise": -1}, {"window_s": 2.5}]
)
def test_spec_refuses(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SimulateSpec.model_validate(wrong)


def test_only_architectures_come_from_features() -> None:
    """What judges the pipeline must not share its code."""
    allowed = {
        "cinecube.features.architectures.imagebind": {"ImageBindNetwork", "Sizes", "rename"},
        "cinecube.features.architectures.tvlt": {"TvltNetwork", "rename"},
        "cinecube.features.networks.network": {"Checkpoint"},
    }
    for path in sorted(Path(cinecube.simulation.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.startswith(("cinecube.features", "cinecube.analysis")) for name in modules), path.name
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith(
                ("cinecube.features", "cinecube.analysis")
            ):
                names = {alias.name for alias in node.names}
                assert names <= allowed.get(str(node.module), set()), f"{path.name}: {node.module}"


def test_spec_imports_nothing_heavy() -> None:
    heavy = {"torch", "av", "nilearn", "scipy"}
    code = f"import sys, cinecube.simulation.setup.simulate_params; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
