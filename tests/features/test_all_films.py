"""All films of all networks at once: each network starts once, and the cubes are those of single extractions."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from distributed import Client, LocalCluster
from tests.conftest import tree_digest

from cinecube.features.extraction import all_films, block_reading
from cinecube.features.extraction.all_films import fill_journals
from cinecube.features.extraction.stage import extract_film
from cinecube.features.films.stage import write_films_table
from cinecube.features.networks.registry import find_network
from cinecube.status.plan import plan_study
from cinecube.status.timings import note
from cinecube.store.base.errors import StudyError
from cinecube.store.base.journal import journal_blocks
from cinecube.store.base.paths import StudyPaths
from cinecube.store.params.document import Study
from cinecube.store.params.run_params import ClusterAddress, JobQueue

from .conftest import make_study, write_records

MODELS = ["vit", "wav2vec2", "tvlt"]
# Networks of our own: to import those of transformers takes a process three times as long.
OURS = ["imagebind", "tvlt"]
FILMS = ["amber", "birch"]


@pytest.fixture(scope="module")
def _birch(tmp_path_factory: pytest.TempPathFactory, write_film: Any, make_clicks: Any) -> Path:
    path = tmp_path_factory.mktemp("birch") / "birch01.mp4"
    return write_film(path, n_frames=150, sound=make_clicks(6, [2.0]))


@pytest.fixture
def films(study: Study, tmp_path: Path, _birch: Path) -> Study:
    """Three networks and two films."""
    return _two_films(study, tmp_path, _birch)


def _two_films(study: Study, root: Path, birch: Path) -> Study:
    (root / "stimuli/birch").mkdir()
    shutil.copy(birch, root / "stimuli/birch/birch01.mp4")
    compute = study.compute.model_copy(update={"films": FILMS})
    return _of(study.model_copy(update={"compute": compute}), MODELS)


def _of(study: Study, models: list[str]) -> Study:
    return study.model_copy(update={"compute": study.compute.model_copy(update={"models": models})})


def _among(cubes: dict[str, str], models: list[str]) -> dict[str, str]:
    return {name: digest for name, digest in cubes.items() if name.split()[0] in models}


@pytest.fixture(scope="module")
def alone(
    checkpoints: dict[str, Path], stimuli: Path, _birch: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Cubes of single extractions, one process and film at a time."""
    root, study = tmp_path_factory.mktemp("alone"), make_study(checkpoints)
    shutil.copytree(stimuli, root / "stimuli")
    write_records(study, root)
    return publish(_of(_two_films(study, root, _birch), [*MODELS, "imagebind"]), root)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each network was loaded in this process."""
    found: Counter[str] = Counter()

    def counting(extractor: str, where: str) -> Any:
        network = find_network(extractor, where)

        def load(path: Path, reading: Any) -> Any:
            found[extractor] += 1
            return network.load(path, reading)

        return replace(network, load=load)

    monkeypatch.setattr(block_reading, "find_network", counting)
    monkeypatch.setattr(block_reading, "_loaded", {})
    return found


def none_kept(_: Any) -> list[tuple[str, str]]:
    return []


def publish(study: Study, root: Path) -> dict[str, str]:
    """The stages `features`: digest of every cube."""
    found = {}
    for model in study.compute.models:
        for film in study.compute.films:
            found[f"{model} {film}"] = tree_digest(extract_film(study, model, film, root).path)
    return found


def test_each_network_is_loaded_once_and_cubes_are_those_of_single_extractions(
    films: Study, tmp_path: Path, alone: dict[str, str], loads: Counter[str]
) -> None:
    seen: list[tuple[int, int]] = []
    filled = fill_journals(films, tmp_path, none_kept, lambda done, total: seen.append((done, total)))
    assert loads == dict.fromkeys(MODELS, 1)
    assert filled.rows == dict.fromkeys(MODELS, 16 + 5)
    assert seen[0] == (0, 63)
    assert seen[-1] == (63, 63)
    assert publish(films, tmp_path) == _among(alone, MODELS)
    assert loads == dict.fromkeys(MODELS, 1), "publishing loaded a network"


def test_only_what_is_missing_is_computed(films: Study, tmp_path: Path, loads: Counter[str]) -> None:
    one = films.model_copy(update={"compute": films.compute.model_copy(update={"films": ["amber"]})})
    fill_journals(one, tmp_path, none_kept)
    publish(one, tmp_path)
    loads.clear()
    block_reading._loaded.clear()
    kept = fill_journals(films, tmp_path, lambda absent: [("vit", "birch")])
    assert (kept.current, kept.kept, set(kept.rows)) == (3, [("vit", "birch")], {"wav2vec2", "tvlt"})
    assert set(kept.rows.values()) == {5}
    assert "vit" not in loads
    again = fill_journals(films, tmp_path, none_kept)
    assert again.rows == {"vit": 5}, "finished blocks were computed again"
    assert not fill_journals(films, tmp_path, none_kept).rows


def test_what_is_finished_outlives_a_fault(films: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sound of the second film's network fails; the first network's blocks stay."""
    network = find_network("wav2vec2", "")

    def broken(path: Path, reading: Any) -> Any:
        raise StudyError(where="here", found="a fault", expected="none", do="go on")

    def find(extractor: str, where: str) -> Any:
        return replace(network, load=broken) if extractor == "wav2vec2" else find_network(extractor, where)

    with monkeypatch.context() as patched:
        patched.setattr(block_reading, "find_network", find)
        patched.setattr(block_reading, "_loaded", {})
        with pytest.raises(StudyError, match="a fault"):
            fill_journals(films, tmp_path, none_kept)
    assert not StudyPaths(tmp_path).extracted.exists()
    assert set(fill_journals(films, tmp_path, none_kept).rows) == {"wav2vec2", "tvlt"}


def test_faults_of_films_and_weights_are_found_before_anything_is_read(
    films: Study, tmp_path: Path, loads: Counter[str]
) -> None:
    (tmp_path / "stimuli/birch/birch01.mp4").write_bytes(b"no film")
    with pytest.raises(StudyError, match="birch01"):
        fill_journals(films, tmp_path, none_kept)
    assert not loads


@pytest.fixture(scope="module")
def cluster() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as started,
        Client(started) as client,
    ):
        yield client


@pytest.fixture
def at(films: Study, cluster: Client) -> Study:
    address = ClusterAddress(address=str(cluster.scheduler_info()["address"]))
    return films.model_copy(update={"dask": address})


def test_workers_make_the_same_bytes_and_a_lost_one_costs_its_block(
    at: Study, films: Study, tmp_path: Path, cluster: Client, alone: dict[str, str]
) -> None:
    """One is killed when the first block is finished, and Dask starts another."""
    killed = threading.Thread(target=_kill_one, args=(cluster, StudyPaths(tmp_path).journals), daemon=True)
    killed.start()
    filled = fill_journals(_of(at, OURS), tmp_path, none_kept)
    killed.join(60)
    assert not killed.is_alive()
    assert set(filled.rows) == set(OURS)
    assert publish(_of(films, OURS), tmp_path) == _among(alone, OURS)


def _kill_one(client: Client, journals: Path) -> None:
    pids = list(client.run(os.getpid).values())
    while not any(journals.glob("*/*.npy")):
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.kill(pids[0], signal.SIGKILL)


def test_processes_of_this_machine(
    films: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loads: Counter[str]
) -> None:
    """A study with much to read takes as many as there are cores, and loads nothing itself."""
    monkeypatch.setattr(all_films, "_FEW_WINDOWS", 1)
    assert fill_journals(_of(films, ["tvlt"]), tmp_path, none_kept).rows == {"tvlt": 21}
    assert not loads
    assert journal_blocks(StudyPaths(tmp_path).journals, _spec(films, tmp_path, "tvlt"))


def _spec(study: Study, root: Path, model: str) -> Any:
    from cinecube.features.extraction.spec import feature_spec

    return feature_spec(study, model, "amber", root)


def test_a_fault_on_a_worker_is_one_line_here(at: Study, tmp_path: Path) -> None:
    """Workers find no CUDA."""
    study = at.model_copy(update={"run": at.run.model_copy(update={"device": "cuda"})})
    with pytest.raises(StudyError, match="run.device"):
        fill_journals(study, tmp_path, none_kept)


def test_plan_divides_extraction_among_workers(films: Study, tmp_path: Path) -> None:
    """By two seconds a row, as an earlier extraction took."""
    study = films.model_copy(update={"dask": JobQueue(jobqueue="SLURMCluster", jobs=3)})
    write_films_table(study, tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {extract: {cmd: cinecube extract}}\n")
    for model in MODELS:
        note(tmp_path, ("features", model), 42.0, 21)
    steps = {step.stage: step for step in plan_study(study, tmp_path)}
    extract = steps.pop("extract")
    assert extract.why == "63 rows by 3 workers"
    assert extract.seconds == pytest.approx(63 * 2 / 3)
    features = [step for name, step in steps.items() if name.startswith("features")]
    assert extract.memory_bytes == max(step.memory_bytes for step in features) > 5e8
    assert {step.seconds for step in features} == {0.0}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' own account")
@pytest.mark.long
@pytest.mark.parametrize("n_layers", [1, 12])
def test_planned_memory_is_what_an_extraction_takes(
    tmp_path: Path, write_film: Any, checkpoints: dict[str, Path], n_layers: int
) -> None:
    """Of 34 and 346 MB of weights, within a quarter."""
    import transformers as hf

    weights = tmp_path / "vit"
    sizes = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
    hf.ViTModel(hf.ViTConfig(**sizes, num_hidden_layers=n_layers)).save_pretrained(weights)
    hf.ViTImageProcessorPil(size={"height": 224, "width": 224}).save_pretrained(weights)
    for film, seconds in (("amber", 60), ("birch", 6)):
        write_film(tmp_path / f"stimuli/{film}/{film}01.mp4", n_frames=25 * seconds)
    values = make_study(checkpoints).model_dump(mode="json", exclude_none=True)
    values["models"] = {"vit": {"extractor": "vit", "checkpoint": str(weights), "frames_per_window": 1}}
    values["compute"]["models"] = ["vit"]
    values["films"]["amber"] = ["amber01"]
    study = Study.model_validate(values)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    write_records(study, tmp_path)
    write_films_table(study, tmp_path)
    step = next(step for step in plan_study(study, tmp_path) if step.stage == "features@vit-amber")
    # What the system says of a child counts this process too, where that is larger.
    peak = "sys.stderr.write(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    code = f"import atexit, re, sys; from cinecube.cli import main; atexit.register(lambda: {peak}); main()"
    command = [sys.executable, "-c", code, "features", "vit", "amber"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    measured = 1024 * int(done.stderr.splitlines()[-1])
    assert step.memory_bytes == pytest.approx(measured, rel=0.25)
