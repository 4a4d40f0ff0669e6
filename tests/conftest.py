"""One set of fixtures that imitates the real disk: a small simulated study, made and run once."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from filelock import FileLock
from tests import warm

REPOSITORY = Path(__file__).resolve().parents[1]

# Tests reach no model hub; without this an unknown checkpoint would be looked for there.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

LAST_STAGES = (
    "whole-brain",
    "layerwise",
    "residual",
    "partition-layers",
    "partition",
    "partition-tables",
    "significance",
    "figures",
    "oracle",
    "report",
)

# Three subjects, six minutes of film and little noise: at this size the planted layers are still found (test_truth.py).
FILMS = {"amber": ["amber01", "amber02"], "birch": ["birch01", "birch02"], "dune": ["dune01", "dune02"]}
SMALL = {"subjects": 3, "segment_s": 60, "noise": 0.2}

# The file that is begun with, and makes the study.
_MAKES_STUDY = "cinecube.test_analyses"
_GROUP = pytest.StashKey[str]()


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `-n 2 --dist loadgroup --no-loadscope-reorder`: one process makes the study that many files take, the others
    do what needs none meanwhile, the slow files first. What shares another costly fixture runs in one process.
    """
    cases: Counter[tuple[Path, str]] = Counter()
    for item in items:
        if mark := item.get_closest_marker("one_in"):
            case = (item.path, item.originalname)  # type: ignore[attr-defined]
            if cases[case] % mark.args[0]:
                item.add_marker("long")
            cases[case] += 1
    if "long" not in config.getoption("markexpr"):
        items[:] = [item for item in items if item.get_closest_marker("long") is None]
    last: dict[str, tuple[bool, bool]] = {}
    for item in items:
        fixtures, room = set(getattr(item, "fixturenames", ())), item.path.parent.name
        group = "servers" if "published" in fixtures and room == "store" else f"{room}.{item.path.stem}"
        item.add_marker(pytest.mark.xdist_group(group))
        # tests/features has a small `study` of its own
        waits = bool({"simulated", "study"} & fixtures) and room != "features"
        quick = item.get_closest_marker("slow") is None
        waited, quickly = last.get(group, (False, True))
        last[group] = (waited or waits, quickly and quick)
        item.stash[_GROUP] = group
    items.sort(key=lambda item: (item.stash[_GROUP] != _MAKES_STUDY, last[item.stash[_GROUP]]))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a test that is skipped fails, but for those marked gpu")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    unwanted = report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("gpu") is None
    if unwanted and item.config.getoption("--no-skips"):
        report.outcome, report.longrepr = "failed", f"skipped: {report.longrepr[-1]}"  # type: ignore[index]
    return report


_SECONDS, _GIGABYTE = 20.0, 2**30


@pytest.fixture
def bounded() -> Generator[None]:
    """Bad input costs a test at most 20 s of processor, and 1 GB above what its process had; commands it starts too."""
    began, peaks = sum(os.times()[:4]), _peaks()
    has = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    yield
    assert sum(os.times()[:4]) - began < _SECONDS
    # The system counts the memory of who starts a command as the command's own, until that is loaded.
    for before, after, rest in zip(peaks, _peaks(), (has, peaks[0]), strict=True):
        assert after == before or after - rest < _GIGABYTE, f"{(after - rest) / _GIGABYTE:.1f} GB"


def _peaks() -> list[int]:
    """The most memory that this process and one that it waited for ever had, in bytes."""
    return [1024 * resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]


def dvc_environment() -> dict[str, str]:
    """Variables under which DVC finds this environment's commands, and is nobody's."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", "GIT_CONFIG_GLOBAL": os.devnull}


def dvc(root: Path, *words: str) -> str:
    """What the real `dvc` prints, which has to succeed; it and what it starts begin warm."""
    done = warm.call(["dvc", *words], root, dvc_environment())
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@dataclass(frozen=True)
class Folder:
    """A study's folder and the commands run in it."""

    root: Path

    def run(self, *words: str) -> Result:
        """Run a `cinecube` command on the study; the result has exit_code, stdout and stderr."""
        from cinecube.cli import main

        here = ("--study", str(self.root)) if words[0] != "init" else ()
        return CliRunner().invoke(main, [words[0], *here, *words[1:]])

    def must(self, *words: str) -> Result:
        """Run a command that has to succeed."""
        result = self.run(*words)
        assert result.exit_code == 0, f"{' '.join(words)}: {result.output}\n{result.exception!r}"
        return result

    def error(self, *words: str) -> str:
        """Run a command that has to fail as users are promised: exit code 1, one line, no traceback."""
        result = self.run(*words)
        assert result.exit_code == 1, f"{' '.join(words)}: {result.output}\n{result.exception!r}"
        assert isinstance(result.exception, SystemExit), repr(result.exception)
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1, result.stderr
        return lines[0]

    def params(self) -> dict[str, Any]:
        loaded: dict[str, Any] = yaml.safe_load((self.root / "params.yaml").read_text(encoding="utf-8"))
        return loaded

    def change(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Edit params.yaml."""
        params = self.params()
        change(params)
        (self.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")

    def copy(self, to: Path) -> Folder:
        """A copy of the whole study; files are linked, so damage them by replacing, never by writing into them."""
        shutil.copytree(self.root, to, copy_function=_link, dirs_exist_ok=True)
        for name in ("params.yaml", "dvc.yaml"):
            if (to / name).exists():
                text = (to / name).read_text(encoding="utf-8")
                (to / name).unlink()
                (to / name).write_text(text, encoding="utf-8")
        return Folder(to)


def _link(source: str, to: str) -> None:
    """Link a file, but for locks: copies of a study do not wait for each other."""
    is_lock = source.endswith(".lock") or Path(source).parent.name == "locks"
    (shutil.copy if is_lock else os.link)(source, to)


def shrink(params: dict[str, Any], **simulate: Any) -> None:
    """Make the default study's parameters those of a small one."""
    params["films"] = dict(FILMS)
    params["simulate"].update(SMALL | simulate)
    params["compute"]["models"] = [name for name in params["compute"]["models"] if "untrained" not in name]
    params["encode"]["alphas"]["n"] = 10
    params["brain"]["subjects"] = [f"sub-{i + 1:02d}" for i in range(params["simulate"]["subjects"])]
    params["residual"] = params["residual"][::3]
    params["partition"] = params["partition"][:1]
    params["statistics"] |= {"permutations": 199, "compare": params["statistics"]["compare"][:1]}


def make_small(root: Path, **simulate: Any) -> Folder:
    """The default study's parameters at a small size, in a new folder."""
    root.mkdir(parents=True, exist_ok=True)
    shutil.copy(REPOSITORY / "params.yaml", root / "params.yaml")
    folder = Folder(root)
    folder.change(lambda params: shrink(params, **simulate))
    return folder


def tree_digest(path: Path) -> str:
    """SHA-256 over names and bytes of everything under a folder."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            digest.update(str(file.relative_to(path)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _kept(name: str) -> Folder | None:
    """A study made before, where whoever runs one test again and again keeps them (CONTRIBUTING.md, Tests)."""
    folder = Path(os.environ.get("CINECUBE_TEST_STUDIES", os.devnull)) / name
    return Folder(folder) if folder.is_dir() else None


def made_once(name: str, factory: pytest.TempPathFactory, make: Callable[[Folder], None]) -> Folder:
    """A copy of a study that the first process to ask for it makes, for all processes of the run."""
    kept = _kept(name)
    if kept is None:
        base = factory.getbasetemp()
        together = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made-once"
        together.mkdir(exist_ok=True)
        kept = Folder(together / name)
        with FileLock(together / f"{name}.lock"):
            if not kept.root.is_dir():
                making = Folder(factory.mktemp("making") / name)
                make(making)
                making.root.rename(kept.root)
    return kept.copy(factory.mktemp(name))


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A small simulated study: films, scans, checkpoints and truth, nothing computed from them yet."""

    def make(folder: Folder) -> None:
        small = make_small(folder.root)
        with pytest.MonkeyPatch.context() as patch:  # its processes would import torch once more each
            patch.setattr("cinecube.simulation.simulate._pool", lambda workers: ThreadPoolExecutor(1))
            small.must("simulate")

    return made_once("simulated", tmp_path_factory, make)


@pytest.fixture(scope="session")
def study(simulated: Folder, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The same study with every stage run, in the order of the pipeline."""

    def make(folder: Folder) -> None:
        simulated.copy(folder.root)
        params = folder.params()
        folder.must("films")
        for model in params["compute"]["models"]:
            folder.must("checkpoint", model)
        folder.must("extract")
        for model in params["compute"]["models"]:
            for film in params["compute"]["films"]:
                folder.must("features", model, film)
        for subject in params["brain"]["subjects"]:
            folder.must("brain", subject)
        folder.must("ceiling")
        folder.must("contents")
        pairs = [f"{pair['keep']}-{pair['remove']}" for pair in params["residual"]]
        for pair in pairs:
            folder.must("residual-features", pair)
        for model in (*params["compute"]["models"], *pairs):
            folder.must("encode", model)
        for stage in LAST_STAGES:
            folder.must(stage)

    return made_once("study", tmp_path_factory, make)


@pytest.fixture
def scratch(study: Folder, tmp_path: Path) -> Folder:
    """A copy of the finished study to damage."""
    return study.copy(tmp_path / "study")


@pytest.fixture
def raw(simulated: Folder, tmp_path: Path) -> Folder:
    """A copy of the study before anything is computed, to damage."""
    return simulated.copy(tmp_path / "study")
