"""The real `dvc` runs what has changed and nothing else, resumes what was killed, and serves a lab's own data."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
from click.testing import CliRunner
from tests import warm
from tests.conftest import REPOSITORY, Folder, dvc, dvc_environment, tree_digest
from tests.stage_code import ROOMS, WITHOUT_CODE, code_of_stages, commands

from cinecube.cli import main
from cinecube.store.cube.cubes import open_cube

pytestmark = pytest.mark.slow

FILMS = {"amber": ["amber01", "amber02"], "dune": ["dune01"]}
TINY = {"subjects": 1, "segment_s": 24, "overlap_s": 2, "repeated": [], "parcels": 8, "targets_per_parcel": 4}


# Stages that fit something by `analysis/ridge`.
SOLVE = {"ceiling", "encode@vit", "encode@wav2vec2", "encode_residual@pair0", "partition", "residual_features@pair0"}
# Notes which files of ours a command has loaded by its end.
RECORDER = """
import atexit, os, sys
from pathlib import Path

def note():
    if Path(sys.argv[0]).name == "cinecube":
        files = {getattr(module, "__file__", None) or "" for name, module in sys.modules.items() if "cinecube" in name}
        Path(os.environ["LOADED"], f"{sys.argv[1]} {os.getpid()}").write_text("\\n".join(files))

atexit.register(note)
"""


def _running(output: str) -> set[str]:
    return {name.removeprefix("data/dvc.yaml:") for name in re.findall(r"Running stage '([^']+)'", output)}


def _stages_run(output: str) -> set[str]:
    """Stages that ran, but for the one that always does."""
    running = _running(output)
    assert "inputs" in running
    return running - {"inputs"}


def _changed(status: str) -> set[str]:
    """Stages that `dvc status` names."""
    named = (line.removesuffix(":") for line in status.splitlines() if line.endswith(":") and line[:1].strip())
    return {name.removeprefix("data/dvc.yaml:") for name in named}


def _shrink(params: dict[str, Any]) -> None:
    params["films"] = dict(FILMS)
    params["split"] = {"train": ["amber"], "test": ["dune"], "gap_s": 4}
    params["compute"] = {"models": ["vit", "wav2vec2"], "films": list(FILMS)}
    params["brain"]["subjects"] = ["sub-01"]
    params["encode"]["folds"] = 2
    params["ceiling"]["use"] = "none"
    params["residual"] = [{"keep": "vit", "remove": "wav2vec2"}]
    params["partition"] = [["vit", "wav2vec2"]]
    params["statistics"] |= {"permutations": 99, "block_rows": 2, "compare": [["vit", "wav2vec2"]]}
    params["unimodal"] = {"video": ["vit"], "audio": ["wav2vec2"]}
    params["keep_weights"] = [{"model": "vit"}]
    params["simulate"] |= TINY


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A tiny study made by `cinecube init` and run by `dvc repro`."""
    root = tmp_path_factory.mktemp("pipeline") / "tiny"
    result = CliRunner().invoke(main, ["init", str(root)])
    assert result.exit_code == 0, result.output
    folder = Folder(root)
    folder.change(_shrink)
    (root.parent / "sitecustomize.py").write_text(RECORDER)
    (root.parent / "loaded").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(root.parent))
        patch.setenv("LOADED", str(root.parent / "loaded"))
        dvc(root, "repro")
    assert (root / "results/report/index.html").is_file()
    return folder


@pytest.fixture
def tiny(finished: Folder, tmp_path: Path) -> Folder:
    """A copy of it, with its own cache and locks, to change."""
    shutil.copytree(finished.root, tmp_path / "tiny", symlinks=True)
    return Folder(tmp_path / "tiny")


def test_a_second_repro_runs_nothing_but_inputs(finished: Folder) -> None:
    kept = [finished.root / name for name in ("dvc.lock", "data/dvc.lock", "data/versions.json")]
    before = [path.read_bytes() for path in kept]
    assert _running(dvc(finished.root, "repro")) == {"inputs"}
    assert [path.read_bytes() for path in kept] == before
    assert dvc(finished.root, "status").split() == ["data/dvc.yaml:inputs:", "always", "changed"]


def test_what_a_stage_loads_is_among_what_it_depends_on(finished: Folder) -> None:
    """As it ran; `tests.stage_code` reads it off the imports."""
    code = {name: [REPOSITORY / folder for folder in folders] for name, folders in code_of_stages().items()}
    # The face reads all of params.yaml, whatever the stage; rooms themselves hold names only.
    anyway = REPOSITORY / "simulation" / "setup"
    rooms = {REPOSITORY / room for room in ROOMS}
    inits = {room / "__init__.py" for room in rooms}
    seen = set()
    for note in (finished.root.parent / "loaded").iterdir():
        command = note.name.split()[0]
        seen.add(command)
        loaded = {Path(line) for line in note.read_text().splitlines()}
        folders = {*code.get(command, []), anyway}
        strange = {path for path in loaded - inits if rooms & set(path.parents) and not folders & set(path.parents)}
        assert not strange or command in WITHOUT_CODE, (command, strange)
    assert seen == set(commands()) - {"imported"}


def test_a_change_of_a_solver_is_seen_by_all_that_solve(tiny: Folder) -> None:
    """In a study that holds the code, as the default one does."""
    for room in ROOMS:
        shutil.copytree(REPOSITORY / room, tiny.root / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "data/dvc.yaml", ".dvcignore"):
        shutil.copy(REPOSITORY / name, tiny.root / name)
    dvc(tiny.root, "commit", "-f")
    assert _changed(dvc(tiny.root, "status")) == {"inputs"}
    with (tiny.root / "analysis/ridge/factors.py").open("a") as file:
        file.write("# another solver\n")
    changed = _changed(dvc(tiny.root, "status"))
    assert changed >= SOLVE
    assert not [name for name in changed if name.split("@")[0] in ("films", "checkpoint", "features", "brain")]
    assert "simulate" not in changed
    assert {stage for stage, (state, _) in _plan(tiny).items() if state == "done"} >= {"brain@sub-01", "films"}
    assert _plan(tiny)["ceiling"] == ("stale", "analysis/ridge changed")


@pytest.mark.long
def test_forcing_everything_leaves_the_locks_as_they_were(tiny: Folder) -> None:
    locks = [tiny.root / "dvc.lock", tiny.root / "data/dvc.lock"]
    before = [lock.read_bytes() for lock in locks]
    output = dvc(tiny.root, "repro", "-f")
    stages = {name for lock in before for name in yaml.safe_load(lock)["stages"]}
    assert _running(output) == stages | {"inputs"}
    assert [lock.read_bytes() for lock in locks] == before


def test_changing_one_model_runs_that_model_alone(tiny: Folder) -> None:
    tiny.change(lambda params: params["models"]["vit"].update(pooling="cls"))
    output = dvc(tiny.root, "repro")
    assert "of 1 models computed, 2 cubes are up to date" in output
    assert _stages_run(output) == {
        "privacy",  # a checkpoint may lie in the study
        "checkpoint@vit",
        "extract",
        "features@vit-amber",
        "features@vit-dune",
        "encode@vit",
        "weights@entry0",
        "contents",
        "residual_features@pair0",
        "encode_residual@pair0",
        "whole_brain",
        "layerwise",
        "residual",
        "partition_layers",
        "partition",
        "partition_tables",
        "significance",
        "figures",
        "oracle",
        "report",
    }


def test_nothing_is_extracted_that_dvc_has(tiny: Folder) -> None:
    """Cubes that are not here, by the lock file or by an earlier run: `extract` looks, and leaves them to it."""
    shutil.rmtree(tiny.root / "data/features/vit")
    assert "2 cubes are up to date, 2 left to DVC" in tiny.must("extract").stdout
    assert not _stages_run(dvc(tiny.root, "repro", "features"))
    tiny.change(lambda params: params["models"]["vit"].update(pooling="cls"))
    dvc(tiny.root, "repro", "extract")
    assert "computed before" in dvc(tiny.root, "repro", "features")
    tiny.change(lambda params: params["models"]["vit"].pop("pooling"))
    assert _plan(tiny)["checkpoint@vit"][1] == "params.yaml models.vit changed; DVC has it from an earlier run"
    assert "is cached" in dvc(tiny.root, "repro", "checkpoint@vit")
    shutil.rmtree(tiny.root / "data/features/vit")
    assert "2 cubes are up to date, 2 left to DVC" in tiny.must("extract").stdout
    assert "is cached" in dvc(tiny.root, "repro", "features")


def _plan(folder: Folder) -> dict[str, tuple[str, str]]:
    steps = json.loads(folder.must("plan", "--json").stdout)
    return {step["stage"]: (step["state"], step["why"]) for step in steps}


def test_plan_says_what_dvc_would_run(tiny: Folder) -> None:
    assert {state for state, _ in _plan(tiny).values()} == {"done"}
    tiny.change(lambda params: params["statistics"].update(permutations=98))
    plan = _plan(tiny)
    assert plan["significance"] == ("stale", "params.yaml statistics changed")
    assert plan["report"][0] == "stale"
    assert plan["encode@vit"][0] == plan["whole_brain"][0] == "done"
    tiny.change(lambda params: params["statistics"].update(permutations=99))
    tiny.change(lambda params: params["encode"].update(folds=3))
    plan = _plan(tiny)
    stale = {stage for stage, (state, _) in plan.items() if state == "stale"}
    assert {"encode@vit", "encode_residual@vit-wav2vec2", "whole_brain", "figures", "report"} <= stale
    assert not any(stage.startswith(("features", "brain", "checkpoint")) for stage in stale)
    # A score cube of another study lies in this one's place.
    tiny.change(lambda params: params["encode"].update(folds=2))
    shutil.rmtree(tiny.root / "results/scores/vit.zarr")
    shutil.copytree(tiny.root / "results/scores/wav2vec2.zarr", tiny.root / "results/scores/vit.zarr")
    assert _plan(tiny)["encode@vit"] == (
        "stale",
        "results/scores/vit.zarr changed; DVC has it from an earlier run",
    )


def test_a_new_model_makes_no_residual_features_of_others_and_no_partition(tiny: Folder) -> None:
    tiny.change(lambda params: params["compute"]["models"].append("ast"))
    plan = _plan(tiny)
    assert plan["features@ast-dune"][0] == plan["encode@ast"][0] == "to do"
    assert {plan[f"{stage}@vit-wav2vec2"][0] for stage in ("residual_features", "encode_residual")} == {"done"}
    assert plan["partition"][0] == "done"
    assert plan["partition_layers"][0] == plan["whole_brain"][0] == plan["significance"][0] == "stale"
    run = _stages_run(dvc(tiny.root, "repro", "residual_features", "partition"))
    assert {"contents", "features@ast-dune", "encode@ast", "partition_layers"} <= run
    assert not run & {"partition", "residual_features@pair0"}
    tiny.change(lambda params: params["residual"].append({"keep": "ast", "remove": "vit"}))
    assert _plan(tiny)["partition"][0] == "done"
    run = _stages_run(dvc(tiny.root, "repro", "residual_features", "partition"))
    assert run == {"contents", "residual_features@pair1", "encode_residual@pair1", "partition_layers"}


def test_a_partition_runs_again_where_what_it_reads_changes(tiny: Folder) -> None:
    metadata = tiny.root / "results/scores/vit.zarr/zarr.json"
    scores = json.dumps(json.loads(metadata.read_text(encoding="ascii")), indent=1)
    metadata.unlink()
    metadata.write_text(scores, encoding="ascii")
    dvc(tiny.root, "commit", "-f", "encode@vit")
    assert _stages_run(dvc(tiny.root, "repro", "partition")) == {"partition_layers"}, "other bytes, the same layers"
    tiny.change(lambda params: params["models"]["vit"].update(pooling="cls"))
    assert _plan(tiny)["partition"][0] == "stale"
    assert "partition" in _stages_run(dvc(tiny.root, "repro", "partition")), "its features are others"
    chosen = tiny.root / "results/partition_layers.json"
    other = dict.fromkeys(json.loads(chosen.read_text(encoding="utf-8")), "embed")
    chosen.unlink()
    chosen.write_text(json.dumps(other), encoding="utf-8")
    assert _plan(tiny)["partition"] == ("stale", "results/partition_layers.json changed")


def test_results_of_an_earlier_pipeline_are_kept(tiny: Folder) -> None:
    """A partition depended on all scores, on the features of all models, and on what its tables follow; encoders and
    ceilings on all of their sections.
    """
    file = tiny.root / "dvc.yaml"
    pipeline = yaml.safe_load(file.read_text(encoding="utf-8"))
    stages = pipeline["stages"]
    del stages["partition_layers"], stages["partition_tables"]
    stages["partition"]["outs"] += ["results/tables/partition.csv", "results/tables/partition_roi.csv"]
    stages["partition"]["params"] += ["rois", "statistics.seed"]
    stages["ceiling"]["params"].append("ceiling")
    for name in ("encode", "encode_residual", "weights", "partition", "significance", "oracle"):
        stages[name]["params"] = ["encode", *(key for key in stages[name]["params"] if "encode." not in str(key))]
    stages["contents"]["params"].remove("partition")
    stages["partition"]["deps"] = ["data/brain", "results/scores"]
    digests = next(param for param in stages["partition"]["params"] if "data/contents.json" in param)
    digests["data/contents.json"] = ["models"]
    file.write_text(yaml.safe_dump(pipeline), encoding="utf-8")
    dvc(tiny.root, "commit", "-f")
    (tiny.root / "results/partition_layers.json").unlink()
    kept = tiny.must("upgrade", "--yes").stdout
    assert _plan(tiny)["partition"][0] == "done"
    ran = _stages_run(dvc(tiny.root, "repro", "--no-run-cache"))  # without what DVC remembers of runs
    assert ran <= {"contents", "partition_layers", "partition_tables", "oracle"}, kept
    pipeline = yaml.safe_load(file.read_text(encoding="utf-8"))["stages"]
    assert "rois" not in pipeline["partition"]["params"]
    assert "encode" not in pipeline["encode"]["params"]


def test_plan_tells_what_another_machine_has_from_what_never_ran(tiny: Folder) -> None:
    shutil.rmtree(tiny.root / ".dvc" / "cache")
    for gone in ("data/brain/sub-01.zarr", "data/features/vit/amber.zarr"):
        shutil.rmtree(tiny.root / gone)
    plan = _plan(tiny)
    there = ("not here", "recorded elsewhere: `cinecube pull` brings it")
    assert plan["brain@sub-01"] == plan["features@vit-amber"] == there
    assert plan["features@wav2vec2-amber"][0] == "stale"  # here, and in no cache
    assert "are recorded and not here; run `cinecube pull` first" in tiny.must("plan").stdout


def test_what_changes_speed_only_runs_nothing(tiny: Folder) -> None:
    tiny.change(lambda params: params["run"].update(batch=3, block_rows=5))
    assert _stages_run(dvc(tiny.root, "repro")) == set()
    tiny.change(lambda params: params["encode"].update(targets_per_block=7))
    assert _stages_run(dvc(tiny.root, "repro")) == {"report"}  # which shows the parameters
    tiny.change(
        lambda params: params["encode"].update(solver="himalaya")
    )  # of a few targets it chooses other penalties
    assert _plan(tiny)["encode@vit"] == ("stale", 'solver was as by default, here "himalaya"')


def test_what_tables_follow_makes_no_cube_again(tiny: Folder) -> None:
    """Of fits that took days other regions, thresholds and seeds are averaged in seconds."""
    stages = ("ceiling", "partition_tables", "whole_brain", "encode")
    tiny.change(lambda params: params["statistics"].update(seed=7))
    tiny.change(lambda params: params["ceiling"].update(threshold=0.2, cap=0.9))
    plan = _plan(tiny)
    assert plan["partition"][0] == plan["ceiling"][0] == "done"
    assert plan["partition_tables"] == ("stale", "params.yaml statistics.seed changed")
    assert _stages_run(dvc(tiny.root, "repro", *stages)) == {"partition_tables", "whole_brain"}
    tiny.change(lambda params: params["ceiling"].update(seed=7))
    assert _plan(tiny)["ceiling"] == ("stale", "seed was as by default, here 7")
    assert "ceiling" in _stages_run(dvc(tiny.root, "repro", *stages))


def test_what_changes_no_number_computes_nothing(tiny: Folder) -> None:
    """DVC removes the outputs of what it runs again; what it has recorded of them is taken back."""
    kept = ("data/features", "results/scores", "data/ceiling.zarr")
    before = [tree_digest(tiny.root / name) for name in kept]
    tiny.change(lambda params: params["models"]["vit"].update(checkpoint="moved", pooling="mean"))
    assert _plan(tiny)["features@vit-amber"][0] != "done", "no weights are there"
    shutil.copytree(tiny.root / "data/weights/vit", tiny.root / "moved")
    plan = _plan(tiny)
    assert plan["features@vit-amber"] == (
        "done",
        "params.yaml models.vit changed; its numbers stay the same",
    )
    assert plan["checkpoint@vit"][0] == "stale"
    assert plan["encode@vit"] == plan["contents"] == ("done", "")
    assert "up to date" in tiny.must("why", "vit/amber").output
    said = dvc(tiny.root, "repro", "features", "encode")
    assert {"features@vit-amber", "features@vit-dune"} <= _stages_run(said)
    assert not any(stage.startswith("encode") for stage in _stages_run(said))
    assert said.count("rows, up to date") == 2
    assert [tree_digest(tiny.root / name) for name in kept] == before
    tiny.change(lambda params: params["models"]["vit"].update(pooling="cls"))
    plan = _plan(tiny)
    assert plan["features@vit-amber"][0] == plan["encode@vit"][0] == "stale"
    tiny.change(lambda params: params["models"]["vit"].pop("pooling"))
    tiny.change(lambda params: params["films"].update(birch=["birch01"]))
    stages = ("encode@vit", "ceiling")
    said = dvc(tiny.root, "repro", "--single-item", *stages)
    assert _running(said) == set(stages)
    assert said.count("as DVC has recorded it") == 2
    assert [tree_digest(tiny.root / name) for name in kept] == before
    assert "as DVC has" not in dvc(tiny.root, "repro", "--single-item", "--force", "encode@vit"), "somebody wants it so"
    # Features of other bytes and the same fingerprint, as from another GPU: what is made of them is computed.
    tiny.change(lambda params: params["films"].update(oak=["oak01"]))
    metadata = tiny.root / "data/features/vit/amber.zarr/zarr.json"
    text = json.dumps(json.loads(metadata.read_text(encoding="ascii")), indent=1)
    metadata.unlink()
    metadata.write_text(text, encoding="ascii")
    said = dvc(tiny.root, "repro", "--single-item", "encode@vit", "encode@wav2vec2")
    assert said.count("as DVC has recorded it") == 1
    assert "results/scores/wav2vec2.zarr, results/predictions/wav2vec2.zarr: as DVC" in said
    # The cache is not whole.
    tiny.change(lambda params: params["films"].update(elm=["elm01"]))
    for part in (tiny.root / ".dvc/cache").rglob("*.dir"):
        part.unlink()
    assert "as DVC has" not in dvc(tiny.root, "repro", "--single-item", "encode@vit")


@pytest.mark.long
def test_adding_a_film_extracts_that_film_alone(tiny: Folder) -> None:
    def add(params: dict[str, Any]) -> None:
        params["films"]["birch"] = ["birch01"]
        params["compute"]["films"].append("birch")

    before = tree_digest(tiny.root / "data/features/vit/amber.zarr")
    tiny.change(add)
    run = _stages_run(dvc(tiny.root, "repro", "features"))
    assert {stage for stage in run if stage.startswith("features")} == {"features@vit-birch", "features@wav2vec2-birch"}
    assert tree_digest(tiny.root / "data/features/vit/amber.zarr") == before


@pytest.mark.long
def test_adding_a_subject_extracts_nothing(tiny: Folder) -> None:
    def add(params: dict[str, Any]) -> None:
        params["simulate"]["subjects"] = 2
        params["brain"]["subjects"].append("sub-02")

    tiny.change(add)
    run = _stages_run(dvc(tiny.root, "repro", "brain", "features"))
    assert run == {"simulate", "brain@sub-02"}
    before = open_cube(tiny.root / "results/scores/vit.zarr").load()
    assert "since nothing of theirs has changed: sub-01" in dvc(tiny.root, "repro", "encode@vit")
    after = open_cube(tiny.root / "results/scores/vit.zarr").load()
    assert list(after["subject"].values) == ["sub-01", "sub-02"]
    xr.testing.assert_equal(after["score"].sel(subject=["sub-01"]).reindex_like(before), before["score"])


def test_killed_extraction_resumes_and_ends_with_the_same_bytes(tiny: Folder, tmp_path: Path) -> None:
    def slow_down(params: dict[str, Any]) -> None:
        # Many frames a window make a block slow enough to be caught between two of them.
        params["models"]["vit"]["frames_per_window"] = 96
        params["run"].update(block_rows=2, batch=2)

    tiny.change(slow_down)
    dvc(tiny.root, "repro", "checkpoint@vit")
    undisturbed = Folder(tmp_path / "undisturbed")
    shutil.copytree(tiny.root, undisturbed.root, symlinks=True)
    undisturbed.must("features", "vit", "amber")
    journal = tiny.root / ".cinecube" / "journal"
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "features@vit-amber"],
        cwd=tiny.root,
        env=dvc_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while len(list(journal.rglob("*.npy"))) < 3:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    cube = tiny.root / "data/features/vit/amber.zarr"
    assert not cube.exists(), "a half-written cube in its place"
    finished_rows = sum(2 for _ in journal.rglob("*.npy"))
    output = dvc(tiny.root, "repro", "features@vit-amber")
    kept = re.search(r"amber.zarr: (\d+) rows, (\d+) of them from an earlier run", output)
    assert kept, output
    assert 0 < int(kept[2]) < int(kept[1])
    assert int(kept[2]) >= finished_rows - 2
    assert tree_digest(cube) == tree_digest(undisturbed.root / "data/features/vit/amber.zarr")
    assert not list(journal.rglob("*.npy")), "the journal of a published cube is gone"


@pytest.mark.long
def test_added_features_are_encoded_like_any_other(tiny: Folder) -> None:
    table = pd.read_csv(tiny.root / "data/films.csv")
    each = zip(table["segment"], table["rows"], strict=True)
    rows = [(name, round(k * 1.49, 6)) for name, n_rows in each for k in range(n_rows)]
    own = pd.DataFrame(rows, columns=["segment", "onset_s"])
    own["loudness"] = np.random.default_rng(0).standard_normal(len(own))
    own.to_csv(tiny.root / "loudness.csv", index=False)
    tiny.must("add", str(tiny.root / "loudness.csv"), "--model", "loudness")
    tiny.change(lambda params: params.update(imported=[{"model": "loudness", "source": "loudness.csv"}]))
    assert _plan(tiny)["encode_imported@loudness"][0] == "to do"
    run = _stages_run(dvc(tiny.root, "repro", "whole_brain"))
    # Residuals depend on their own two models.
    assert run == {"imported@entry0", "encode_imported@entry0", "contents", "whole_brain"}
    scores = pd.read_csv(tiny.root / "results/tables/whole_brain.csv")
    assert set(scores["model"]) == {"vit", "wav2vec2", "loudness"}
    # Another set of the partition is fitted alone: each takes a day at real size.
    first = open_cube(tiny.root / "results/partition.zarr").load()
    tiny.change(lambda params: params["partition"].insert(0, ["loudness", "vit"]))
    assert "as the last run left them, since nothing of theirs has changed: vit + wav2vec2" in dvc(
        tiny.root, "repro", "partition"
    )
    both = open_cube(tiny.root / "results/partition.zarr").load()
    assert list(both["set"].values) == ["loudness + vit", "vit + wav2vec2"]
    for name, values in first.data_vars.items():
        own = both[name].sel(set=["vit + wav2vec2"]).reindex_like(values)
        np.testing.assert_array_equal(own, values)
    (tiny.root / "dvc.lock").rename(tiny.root / "kept.lock")
    shutil.rmtree(tiny.root / "results/partition.zarr")
    assert "last run" not in tiny.must("partition").output
    xr.testing.assert_allclose(open_cube(tiny.root / "results/partition.zarr").load(), both)
    (tiny.root / "kept.lock").rename(tiny.root / "dvc.lock")
    tiny.must("add", str(tiny.root / "loudness.csv"), "--model", "again")  # lists itself
    run = _stages_run(dvc(tiny.root, "repro", "whole_brain"))
    scored = {stage for stage in run if stage.startswith("encode")}
    assert scored == {"encode_imported@entry1"}, "another import scores no model again"
    assert {"imported@entry0", "imported@entry1"} <= run


@pytest.fixture(scope="module")
def own(finished: Folder, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """`init --template own` on the simulated data laid out as a lab would have it, run by `dvc repro`."""
    tmp_path = tmp_path_factory.mktemp("own")
    lab, root = tmp_path / "lab", tmp_path / "mystudy"
    shutil.copytree(finished.root / "data/stimuli", lab / "films")
    shutil.copytree(finished.root / "data/scans", lab / "fmriprep")
    for name in ("vit", "wav2vec2"):
        shutil.copytree(finished.root / "data/weights" / name, lab / name)
    words = ["--stimuli", str(lab / "films"), "--scans", str(lab / "fmriprep"), "--atlas", str(lab / "fmriprep/atlas")]
    result = CliRunner().invoke(main, ["init", str(root), "--template", "own", *words, "--test", "dune"])
    assert result.exit_code == 0, result.output
    own = Folder(root)
    params = own.params()
    assert params["films"] == FILMS
    assert params["split"]["test"] == ["dune"]
    assert params["brain"]["subjects"] == ["sub-01"]
    assert params["clock"]["tr_s"] == 1.49

    def choose(params: dict[str, Any]) -> None:
        params["models"] = {name: {"extractor": name, "checkpoint": f"../lab/{name}"} for name in ("vit", "wav2vec2")}
        params["compute"]["models"] = ["vit", "wav2vec2"]
        params["brain"]["confounds"] = "motion"
        params["residual"] = [{"keep": "vit", "remove": "wav2vec2"}]
        params["partition"] = [["vit", "wav2vec2"]]
        params["statistics"] |= {"permutations": 99, "block_rows": 2}

    own.change(choose)
    dvc(root, "repro")
    return own


@pytest.mark.long  # each run makes one such study in test_whole_studies.py
def test_a_lab_with_its_own_films_and_scans(own: Folder) -> None:
    page = (own.root / "results/report/index.html").read_text(encoding="utf-8")
    assert "mystudy" in page
    assert "Planted and recovered effects" not in page
    assert _stages_run(dvc(own.root, "repro")) == set()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package that commands run instead of this one, to raise versions in."""
    package = tmp_path / "site" / "cinecube"
    unwanted = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "cinecube", package, ignore=unwanted)
    for room in ROOMS:
        shutil.copytree(REPOSITORY / room, package / room, ignore=unwanted)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    return package


def _raise_version(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    raised = re.sub(r"^VERSION = (\d+)$", lambda found: f"VERSION = {int(found[1]) + 1}", text, flags=re.MULTILINE)
    assert raised != text
    file.write_text(raised, encoding="utf-8")


def _said(root: Path, *words: str) -> str:
    """What the installed `cinecube` prints."""
    done = warm.call(["cinecube", *words], root, dvc_environment())
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_upgrade_runs_again_what_it_has_to(tiny: Folder, installed: Path) -> None:
    """A study that holds no code knows of it by versions alone."""
    root = tiny.root
    assert _stages_run(dvc(root, "repro")) == set()

    # The same table comes out, so nothing follows from it.
    _raise_version(installed / "features/films/__init__.py")
    assert _stages_run(dvc(root, "repro")) == {"films"}

    _raise_version(installed / "analysis/ridge/__init__.py")
    plan = {step["dvc_stage"]: (step["state"], step["why"]) for step in json.loads(_said(root, "plan", "--json"))}
    older = "it is of an older version of cinecube (ridge 1, here 2)"
    assert {plan[stage] for stage in SOLVE} == {("stale", older)}, "before anything has run"
    assert {plan[stage][0] for stage in ("films", "checkpoint@vit", "features@vit-dune", "brain@sub-01")} == {"done"}
    assert older in _said(root, "why", "results/scores/vit.zarr")
    run = _stages_run(dvc(root, "repro"))
    assert run >= SOLVE
    assert not [name for name in run if name.split("@")[0] in ("films", "checkpoint", "features", "brain")]
    assert "up to date" in _said(root, "why", "results/scores/vit.zarr")
    assert _stages_run(dvc(root, "repro")) == set()

    # A record of the same checkpoint by another version of its network.
    presets = installed / "features/architectures/presets.py"
    text = presets.read_text(encoding="utf-8")
    raised = re.sub(r"^(VIT = Network\(\s*version=)2,", r"\g<1>3,", text, flags=re.MULTILINE)
    assert raised != text
    presets.write_text(raised, encoding="utf-8")
    assert _stages_run(dvc(root, "repro", "checkpoint")) == {"checkpoint@vit"}
    changed = _changed(dvc(root, "status"))
    assert {name for name in changed if name.startswith("features")} == {"features@vit-amber", "features@vit-dune"}
    _raise_version(installed / "store/scans/__init__.py")
    assert _stages_run(dvc(root, "repro", "brain")) == {"brain@sub-01"}


def test_init_refuses_what_it_cannot_do(tmp_path: Path, finished: Folder) -> None:
    words = ["init", str(tmp_path / "new"), "--template", "own", "--stimuli", str(tmp_path), "--scans", str(tmp_path)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert "found 0 films, expected two or more folders" in result.stderr
    assert not (tmp_path / "new").exists()
    again = CliRunner().invoke(main, ["init", str(finished.root)])
    assert again.exit_code == 1
    assert "found a study" in again.stderr


@pytest.mark.long
def test_a_study_of_an_earlier_version_goes_on(tiny: Folder) -> None:
    """Its pipeline is upgraded; no cube whose fingerprint holds is made again."""
    for name, earlier in (("dvc.yaml", "simulated.dvc.yaml"), ("data/dvc.yaml", "simulated.data.dvc.yaml")):
        shutil.copy(Path(__file__).parent / "earlier" / earlier, tiny.root / name)
    (tiny.root / "data/versions.json").unlink()
    dvc(tiny.root, "commit", "-f")
    assert _running(dvc(tiny.root, "repro")) == set()
    done = tiny.must("upgrade", "--yes")
    cubes = [f"features@{model}-{film}" for model in ("vit", "wav2vec2") for film in FILMS]
    kept = ["films", "checkpoint@vit", "checkpoint@wav2vec2", "brain@sub-01", *cubes, "residual_features@pair0"]
    kept += ["encode@vit", "encode@wav2vec2", "weights@entry0", "encode_residual@pair0"]
    kept += ["ceiling", "partition", "significance"]
    assert f"kept: {', '.join(kept)}" in done.stdout.splitlines()
    # Without what DVC remembers of runs: this version made the results that stand for those of an earlier one.
    run = _stages_run(dvc(tiny.root, "repro", "--no-run-cache"))
    assert {"simulate", "report"} <= run
    assert not run & {*kept}
    assert _stages_run(dvc(tiny.root, "repro")) == set()
