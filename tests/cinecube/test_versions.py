"""Results say which version of the code made them, and `inputs` says which version is installed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import Folder

from cinecube.analysis import ceilings, encoders, partition, residuals, significance
from cinecube.features.networks.registry import BUILT_IN, find_network, network_version
from cinecube.status.versions import study_versions, told_apart
from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import canonical, fingerprint
from cinecube.store.cube.cubes import open_cube, write_cube
from cinecube.store.cube.heads import stored_spec
from cinecube.store.params.document import load_study
from cinecube.store.scans import VERSION

OLDER = "it is of an older version of cinecube, which did not record its own"
# Cubes whose specs say their version, and the folder of code that is raised in the tests.
CUBES = {
    "results/scores/vit.zarr": "encoders",
    "results/scores/tvlt.joint-ast.zarr": "encoders",
    "data/ceiling.zarr": "ceilings",
    "results/partition.zarr": "partition",
    "results/significance.zarr": "significance",
}


def _why(folder: Folder, cube: str) -> tuple[str, list[str]]:
    found = json.loads(folder.must("why", cube, "--json").stdout)
    return found["state"], [*found["fields"], *found["reasons"]]


def test_a_raised_version_makes_cubes_stale_in_words(study: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    for cube in CUBES:
        assert _why(study, cube) == ("up to date", [])
    for module in (encoders, ceilings, partition, significance):
        monkeypatch.setitem(module.VERSIONS, module.__name__.rpartition(".")[2], 2)
        monkeypatch.setitem(module.VERSIONS, "cubes", 3)
    for cube, folder in CUBES.items():
        state, (line, *more) = _why(study, cube)
        changed = sorted([f"{folder} 1, here 2", "cubes 1, here 3"])
        assert (state, line) == ("stale", f"it is of an older version of cinecube ({', '.join(changed)})")
        # What it is made from is what it was: tests alone name the scores that are stale by now, but not here.
        assert not more


def test_a_shared_folder_that_older_cubes_do_not_name_counts_once_it_is_raised(
    study: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (ceilings, partition, significance):
        assert "encoders" not in module.VERSIONS
        monkeypatch.setitem(module.VERSIONS, "encoders", 2)
    for cube in ("data/ceiling.zarr", "results/partition.zarr", "results/significance.zarr"):
        state, lines = _why(study, cube)
        assert (state, lines[0]) == ("stale", "it is of an older version of cinecube (encoders 1, here 2)")


def test_results_are_of_the_version_of_every_folder_that_they_are_computed_by() -> None:
    """But for tables, which have versions of their own."""
    analysis = Path(encoders.__file__).parents[1]
    versioned = {path.parent.name for path in analysis.glob("*/__init__.py") if "\nVERSION = " in path.read_text()}
    lacking = []
    for room in sorted(versioned):
        face = (analysis / room / "__init__.py").read_text()
        if "VERSIONS = " not in face:
            continue
        used = {
            name
            for path in (analysis / room).glob("*.py")
            if not path.stem.endswith("_tables")
            for name in re.findall(r"from cinecube\.analysis\.(\w+)", path.read_text())
        }
        lacking += [(room, other) for other in (used & versioned) - {room} if f"{other}.VERSION" not in face]
    assert lacking == []


def test_what_had_no_version_is_of_version_1(study: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its fingerprint is that of cubes from before versions: no residual is made again."""
    residual = "data/residual/tvlt.joint-ast/amber.zarr"
    assert "version" not in stored_spec(study.root / residual)
    assert _why(study, residual) == ("up to date", [])
    monkeypatch.setitem(residuals.SHARED_VERSIONS, "ridge", 2)
    assert _why(study, residual) == ("stale", [OLDER])


def test_a_brain_cube_says_the_version_of_scans(study: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    brain = "data/brain/sub-01.zarr"
    assert stored_spec(study.root / brain)["version"] == {"scans": VERSION}
    assert _why(study, brain) == ("up to date", [])
    monkeypatch.setattr("cinecube.store.scans.brain.VERSION", VERSION + 1)
    told = f"it is of an older version of cinecube (scans {VERSION}, here {VERSION + 1})"
    assert _why(study, brain) == ("stale", [told])


def test_a_cube_that_says_no_version_is_told_to_be_older(scratch: Folder) -> None:
    """As those are that the version before versions wrote."""
    for cube in CUBES:
        path = scratch.root / cube
        spec = stored_spec(path)
        del spec["version"]
        whole = open_cube(path).load()
        whole.close()
        write_cube(path, whole.assign_attrs(spec=canonical(spec), fingerprint=fingerprint(spec)))
        done = scratch.must("why", cube)
        assert done.stdout.splitlines()[:2] == [f"{cube}: stale", f"  {OLDER}"]


@pytest.mark.parametrize(
    ("stored", "asked", "words"),
    [
        ({"ridge": 1}, {"ridge": 1}, ""),
        ({"ridge": 2, "cubes": 1}, {"ridge": 1, "cubes": 1}, "it is of another version of cinecube (ridge 2, here 1)"),
        ({"ridge": 1}, {"ridge": 1, "jobs": 2}, "it is of an older version of cinecube (jobs 1, here 2)"),
        (None, {"ridge": 1}, OLDER),
        (7, {"ridge": 1}, OLDER),
        ({"ridge": 1}, None, ""),
        ({"ridge": 2}, None, "it is of another version of cinecube (ridge 2, here 1)"),
        ({"ridge": "x"}, {"ridge": 1}, "it is of another version of cinecube (ridge x, here 1)"),
        (None, None, ""),
    ],
)
def test_versions_in_words(stored: object, asked: object, words: str) -> None:
    assert told_apart(stored, asked) == words


def test_inputs_writes_the_same_bytes_and_loads_nothing_heavy(simulated: Folder, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from cinecube.cli import main\n"
        "main(['inputs', '--study', sys.argv[1]], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'dvc', 'xarray', 'pandas', 'dask', 'zarr', 'av'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    raw = simulated.copy(tmp_path / "study")
    texts = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code, str(raw.root)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        texts.append((raw.root / "data/versions.json").read_bytes())
    assert texts[0] == texts[1]
    study = load_study(raw.root)
    assert json.loads(texts[0]) == study_versions(study)
    networks = {model: found["network"] for model, found in json.loads(texts[0])["networks"].items()}
    asked = {model: study.model(model).extractor for model in study.compute.models}
    assert networks == {model: find_network(name, "").version for model, name in asked.items()}


@pytest.mark.parametrize("extractor", BUILT_IN)
def test_the_version_of_a_network_is_read_off_its_file(extractor: str) -> None:
    assert network_version(extractor, "") == find_network(extractor, "").version


@pytest.mark.parametrize(
    "text",
    [
        "NETWORK = Network(7, None, None)",
        "NETWORK: Network = network.Network(describe=None, version=7, load=None)",
        "VERSION = 7\nNETWORK = Network(VERSION, None, None)",
        "NETWORK = dataclasses.replace(Network(1, None, None), version=3 + 4)",
        "def make(): return Network(7, None, None)\nNETWORK = make()",
    ],
)
def test_networks_of_others_may_say_their_version_as_they_like(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read off the file where it is written there, and else the file is imported."""
    head = ("import dataclasses", "from cinecube.features.networks import network", "Network = network.Network")
    (tmp_path / "quirky.py").write_text("\n".join([*head, text]))
    (tmp_path / "quirky-1.dist-info").mkdir()
    (tmp_path / "quirky-1.dist-info/METADATA").write_text("Name: quirky\nVersion: 1\n")
    (tmp_path / "quirky-1.dist-info/entry_points.txt").write_text("[cinecube.extractors]\nquirky = quirky:NETWORK\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = network_version("quirky", "")
    sys.modules.pop("quirky", None)
    assert found == 7


def test_an_extractor_that_there_is_not_is_told_at_once(raw: Folder) -> None:
    raw.change(lambda params: params["models"]["vit"].update(extractor="vitt"))
    assert "params.yaml: models.vit.extractor: found an unknown extractor 'vitt'" in raw.error("inputs")
    with pytest.raises(StudyError, match="did you mean 'vit'"):
        network_version("vitt", "models.vit.extractor")
