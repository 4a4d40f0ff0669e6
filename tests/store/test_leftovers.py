"""What may go from a study's folder, and what never: live work, the only copy of a cube, what lies behind a link."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cinecube.store.base.errors import StudyError
from cinecube.store.base.fingerprint import fingerprint
from cinecube.store.base.journal import journal_folder, open_journal, row_blocks
from cinecube.store.base.paths import StudyPaths
from cinecube.store.clean import leftovers, unused_caches
from cinecube.store.clean.leftovers import Claim, Leftover
from cinecube.store.cube.cubes import open_cube
from cinecube.store.dvc.chunk_cache import ChunkCache

from .conftest import write_cube_of

SPEC = {"film": "amber"}  # what `write_cube_of` gives the cube of amber
DAY_S = unused_caches.DAY_S


@pytest.fixture
def paths(tmp_path: Path) -> StudyPaths:
    (tmp_path / "study").mkdir()
    return StudyPaths(tmp_path / "study")


@pytest.fixture
def days_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything was written two days ago. Times of renaming cannot be set, so the clock is."""
    now = leftovers.time.time() + 2 * DAY_S
    monkeypatch.setattr(leftovers.time, "time", lambda: now)


def write_journal(paths: StudyPaths, spec: dict[str, str]) -> Path:
    with open_journal(paths.journals, spec, "cube") as journal:
        journal.write(row_blocks({"amber01": 4}, 4)[0], np.zeros((4, 2, 1, 1), np.float32))
    return journal_folder(paths.journals, spec)


@contextmanager
def another_process(code: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs some code, says `ready`, and waits."""
    code = f"import sys, time\nfrom pathlib import Path\n{code}"
    process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


HOLD = """
from cinecube.store.base.journal import open_journal
with open_journal(Path(sys.argv[1]), {"film": "amber"}, "cube"):
    print("ready", flush=True)
    time.sleep(60)
"""


def published(paths: StudyPaths) -> Claim:
    return Claim("vit amber", {paths.features("vit", "amber"): fingerprint(SPEC)})


def test_a_journal_goes_when_its_cube_is_published_and_not_before(paths: StudyPaths) -> None:
    folder = write_journal(paths, SPEC)
    assert leftovers.find_journals(paths, lambda _: published(paths)) == []
    write_cube_of(paths.root, "amber")
    (found,) = leftovers.find_journals(paths, lambda _: published(paths))
    assert (found.path, found.kind, found.why) == (folder, "journal", "vit amber: its cube is published")
    assert found.bytes > 4 * 2 * 4
    leftovers.discard(paths, found)
    assert list(paths.journals.iterdir()) == []


def test_a_cube_that_lacks_a_shard_is_not_published(paths: StudyPaths) -> None:
    write_journal(paths, SPEC)
    write_cube_of(paths.root, "amber")
    (paths.features("vit", "amber") / "features/c/0/0/0/1").unlink()
    assert leftovers.find_journals(paths, lambda _: published(paths)) == []


def test_what_the_study_left_behind_is_named_apart_and_what_is_unknown_stays(paths: StudyPaths) -> None:
    write_journal(paths, SPEC)
    (found,) = leftovers.find_journals(paths, lambda _: Claim("vit amber", {}, "dtype: float32 -> float16"))
    assert (found.kind, found.why) == ("abandoned", "vit amber: dtype: float32 -> float16")
    assert leftovers.find_journals(paths, lambda _: Claim("vit amber", None)) == []
    (journal_folder(paths.journals, SPEC) / "spec.json").write_text('{"film": "dune"}', encoding="utf-8")
    assert leftovers.find_journals(paths, lambda _: Claim("vit amber", {})) == []


def test_a_journal_without_a_block_saves_nothing(paths: StudyPaths) -> None:
    folder = paths.journals / ("a" * 64)
    folder.mkdir(parents=True)
    (found,) = leftovers.find_journals(paths, lambda _: pytest.fail("there is no spec to judge"))
    assert (found.path, found.why) == (folder, "stopped before its first block")


@pytest.mark.usefixtures("days_later")
def test_what_another_process_holds_is_not_listed_and_not_removed(paths: StudyPaths) -> None:
    write_journal(paths, SPEC)
    write_cube_of(paths.root, "amber")
    partial = paths.features("vit", "dune").with_name(".dune.zarr.partial")
    partial.mkdir()
    (journal,) = leftovers.find_journals(paths, lambda _: published(paths))
    (half,) = leftovers.find_partials(paths)
    with another_process(HOLD, str(paths.journals)):
        assert leftovers.is_busy(paths)
        assert leftovers.find_journals(paths, lambda _: published(paths)) == []
        assert leftovers.find_partials(paths) == []
        with pytest.raises(StudyError, match="found a process that holds its lock"):
            leftovers.discard(paths, journal)
        with pytest.raises(StudyError, match="found a stage that runs"):
            leftovers.discard(paths, half)
        assert journal.path.is_dir()
        assert partial.is_dir()
    assert not leftovers.is_busy(paths)
    leftovers.discard(paths, journal)
    leftovers.discard(paths, half)
    assert not journal.path.exists()
    assert not partial.exists()


def test_locks_go_with_their_journals_only(paths: StudyPaths) -> None:
    wanted = write_journal(paths, {"film": "dune"})
    with open_journal(paths.journals, SPEC, "cube") as journal:
        assert leftovers.find_locks(paths) == []
        journal.remove()
        assert leftovers.find_locks(paths) == [], "its writer holds it"
    (found,) = leftovers.find_locks(paths)
    assert (found.path, found.bytes) == (journal.folder.with_suffix(".lock"), 0)
    write_journal(paths, SPEC)
    with pytest.raises(StudyError, match="found a new journal"):
        leftovers.discard(paths, found)
    journal.remove()
    leftovers.discard(paths, found)
    assert sorted(path.name for path in paths.journals.iterdir()) == [wanted.name, f"{wanted.name}.lock"]


KILLED = """
import numpy as np
from cinecube.store.cube.cubes import write_feature_cube
from cinecube.store.cube.schema import Stream, feature_template, rows_index
rows = rows_index({"amber01": np.arange(600) * 1.5})
template = feature_template(rows, 1.5, [Stream("vit", ["embed", "block01"], [8, 8])], "float32", {"schema": 1})
def read(m, k):
    if k:
        print("ready", flush=True)
        time.sleep(60)
    return np.zeros((600, 8))
write_feature_cube(Path(sys.argv[1]), template, read)
"""


def test_a_killed_writer_leaves_a_partial_cube_that_goes_after_a_day(
    paths: StudyPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    cube = paths.features("vit", "amber")
    with another_process(KILLED, str(cube)) as writer:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert leftovers.find_partials(paths) == [], "it might be alive on another machine"
    now = leftovers.time.time() + 2 * DAY_S
    monkeypatch.setattr(leftovers.time, "time", lambda: now)
    (found,) = leftovers.find_partials(paths)
    assert re.fullmatch(r"\.amber\.zarr\.\d+-[0-9a-f]{8}\.partial", found.path.name)
    assert (found.kind, found.why) == ("partial", "amber.zarr was never finished")
    assert found.bytes > 600 * 8 * 4
    leftovers.discard(paths, found)
    assert list(cube.parent.iterdir()) == []


@pytest.mark.usefixtures("days_later")
def test_a_writer_that_goes_on_writing_is_left_alone(paths: StudyPaths) -> None:
    partial = paths.brain("sub-01").with_name(".sub-01.zarr.partial")
    partial.mkdir(parents=True)
    (found,) = leftovers.find_partials(paths)
    fresh = partial / "zarr.json"
    fresh.touch()
    os.utime(fresh, (leftovers.time.time(),) * 2)
    assert leftovers.find_partials(paths) == []
    with pytest.raises(StudyError, match="found something written by now"):
        leftovers.discard(paths, found)
    assert fresh.exists()


@pytest.mark.usefixtures("days_later")
def test_the_only_copy_of_a_cube_is_put_back(paths: StudyPaths) -> None:
    """A writer that was killed between the two renames of `publish`."""
    cube = paths.features("vit", "amber")
    write_cube_of(paths.root, "amber")
    cube.rename(cube.with_name(".amber.zarr.old"))
    (found,) = leftovers.find_partials(paths)
    assert (found.kind, found.bytes) == ("only copy", 0)
    leftovers.discard(paths, found)
    assert open_cube(cube).attrs["fingerprint"] == fingerprint(SPEC)
    cube.with_name(".amber.zarr.old").mkdir()
    (found,) = leftovers.find_partials(paths)
    assert (found.kind, found.why) == ("old", "another amber.zarr has taken its place")
    leftovers.discard(paths, found)
    assert [path.name for path in cube.parent.iterdir()] == ["amber.zarr"]


def test_a_cube_that_is_being_replaced_is_left_alone_however_old_it_is(paths: StudyPaths) -> None:
    cube = paths.features("vit", "amber")
    cube.mkdir(parents=True)
    os.utime(cube, (0, 0))
    cube.rename(cube.with_name(".amber.zarr.old"))
    assert leftovers.find_partials(paths) == []


@pytest.mark.usefixtures("days_later")
def test_a_cube_that_came_meanwhile_is_not_replaced(paths: StudyPaths) -> None:
    old = paths.features("vit", "amber").with_name(".amber.zarr.old")
    old.mkdir(parents=True)
    (found,) = leftovers.find_partials(paths)
    paths.features("vit", "amber").mkdir()
    with pytest.raises(StudyError, match="found another amber.zarr"):
        leftovers.discard(paths, found)
    assert old.is_dir()


@pytest.mark.usefixtures("days_later")
def test_other_hidden_files_and_the_films_are_not_ours(paths: StudyPaths) -> None:
    for name in ("data/stimuli/amber/.amber01.mkv.partial", "data/.DS_Store", "data/features/vit/.notes.old"):
        path = paths.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine", encoding="utf-8")
    assert leftovers.find_partials(paths) == []
    (paths.data / ".simulate-x1").mkdir()
    (paths.results / ".report.partial").mkdir(parents=True)
    assert [found.path.name for found in leftovers.find_partials(paths)] == [".simulate-x1", ".report.partial"]


@pytest.mark.usefixtures("days_later")
@pytest.mark.parametrize(
    "linked", ["data", "data/features", "data/features/vit", "data/features/vit/.amber.zarr.partial"]
)
def test_links_out_of_the_study_are_not_followed(paths: StudyPaths, tmp_path: Path, linked: str) -> None:
    partial = paths.features("vit", "amber").with_name(".amber.zarr.partial")
    partial.mkdir(parents=True)
    (found,) = leftovers.find_partials(paths)
    elsewhere = tmp_path / "elsewhere"
    (paths.root / linked).rename(elsewhere)
    (paths.root / linked).symlink_to(elsewhere)
    assert leftovers.find_partials(paths) == []
    with pytest.raises(StudyError, match="found a link"):
        leftovers.discard(paths, found)
    assert partial.is_dir()


def test_a_linked_folder_of_journals_is_not_followed(paths: StudyPaths, tmp_path: Path) -> None:
    write_journal(paths, SPEC)
    (paths.root / ".cinecube").rename(tmp_path / "elsewhere")
    (paths.root / ".cinecube").symlink_to(tmp_path / "elsewhere")
    assert leftovers.find_journals(paths, lambda _: Claim("vit amber", {})) == []
    assert leftovers.find_locks(paths) == []


@pytest.mark.usefixtures("days_later")
def test_a_link_inside_a_partial_cube_goes_without_its_target(paths: StudyPaths, tmp_path: Path) -> None:
    partial = paths.features("vit", "amber").with_name(".amber.zarr.partial")
    partial.mkdir(parents=True)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "file").write_text("kept", encoding="utf-8")
    (partial / "link").symlink_to(mine)
    (found,) = leftovers.find_partials(paths)
    leftovers.discard(paths, found)
    assert not partial.exists()
    assert (mine / "file").read_text(encoding="utf-8") == "kept"


@pytest.mark.usefixtures("days_later")
def test_while_dvc_runs_partial_cubes_stay(paths: StudyPaths) -> None:
    partial = paths.scores("vit").with_name(".vit.zarr.partial")
    partial.mkdir(parents=True)
    (paths.scratch / "significance").mkdir(parents=True)
    (paths.root / ".dvc" / "tmp").mkdir(parents=True)
    rwlock = paths.root / ".dvc" / "tmp" / "rwlock"
    alive = {"pid": os.getpid(), "cmd": "dvc repro"}
    rwlock.write_text(json.dumps({"write": {"results": alive}, "read": {}}), encoding="utf-8")
    assert leftovers.find_partials(paths) == leftovers.find_scratch(paths) == []
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    rwlock.write_text(json.dumps({"write": {}, "read": {"data": [{**alive, "pid": ended.pid}]}}), encoding="utf-8")
    assert [one.path for one in leftovers.find_partials(paths)] == [partial]
    assert [one.path.name for one in leftovers.find_scratch(paths)] == ["significance"]
    for torn in ("", '{"write": {'):  # by a DVC that was killed
        rwlock.write_text(torn, encoding="utf-8")
        assert [one.path for one in leftovers.find_partials(paths)] == [partial]
    rwlock.write_text("[]", encoding="utf-8")
    assert leftovers.find_partials(paths) == [], "another DVC's"
    rwlock.write_text("{}", encoding="utf-8")
    lock = "from zc.lockfile import LockFile\nlock = LockFile(sys.argv[1])\nprint('ready', flush=True)\ntime.sleep(60)"
    with another_process(lock, str(rwlock.with_name("lock"))):
        assert leftovers.find_partials(paths) == []


def test_a_log_goes_a_day_after_also_while_a_stage_runs(
    paths: StudyPaths, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    paths.logs.mkdir(parents=True)
    (paths.logs / "cinecube-1.log").write_text("Traceback", encoding="utf-8")
    (tmp_path / "elsewhere.log").touch()
    (paths.logs / "link.log").symlink_to(tmp_path / "elsewhere.log")
    assert leftovers.find_logs(paths) == []
    request.getfixturevalue("days_later")
    (found,) = leftovers.find_logs(paths)
    assert (found.path.name, found.kind, found.bytes) == ("cinecube-1.log", "log", 9)
    with another_process(HOLD, str(paths.journals)):
        leftovers.discard(paths, found)
    assert [path.name for path in paths.logs.iterdir()] == ["link.log"]
    assert (tmp_path / "elsewhere.log").is_file()


@pytest.mark.usefixtures("days_later")
def test_bytes_that_the_cache_of_dvc_shares_are_not_freed(paths: StudyPaths, tmp_path: Path) -> None:
    partial = paths.results / ".report.partial"
    partial.mkdir(parents=True)
    (partial / "index.html").write_bytes(b"x" * 100)
    (partial / "shared").write_bytes(b"x" * 1000)
    os.link(partial / "shared", tmp_path / "cache")
    (found,) = leftovers.find_partials(paths)
    assert 100 <= found.bytes < 1000


@pytest.mark.usefixtures("days_later")
def test_pulls_that_were_killed(tmp_path: Path) -> None:
    (tmp_path / ".pull-abc").mkdir()
    (tmp_path / ".pull-abc" / "object").write_bytes(b"x" * 10)
    (tmp_path / "files").mkdir()
    (found,) = leftovers.find_pulls(tmp_path)
    assert (found.path, found.kind) == (tmp_path / ".pull-abc", "pull")
    assert found.bytes >= 10
    assert leftovers.find_pulls(tmp_path / "gone") == []


def fill(folder: Path) -> ChunkCache:
    cache = ChunkCache(folder, 10**6)
    for oid in ("a" * 32, "b" * 32 + ".dir"):
        cache.read(oid, None, lambda: b"x" * 50_000)
    return cache


def test_a_cache_of_chunks_goes_when_it_was_not_read_for_long(
    paths: StudyPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = fill(paths.chunks)
    start = leftovers.time.time()
    monkeypatch.setattr(unused_caches.time, "time", lambda: start + 40 * DAY_S)
    assert unused_caches.find_own_cache(paths, 50) is None
    found = unused_caches.find_own_cache(paths, 30)
    assert found is not None
    assert found.why == "a cache of chunks, not used for 40 days"
    assert found.bytes > 100_000
    cache.read("a" * 32, None, lambda: pytest.fail("it is kept"))  # diskcache takes the time from the same clock
    assert unused_caches.find_own_cache(paths, 30) is None
    with pytest.raises(StudyError, match="used by now"):
        unused_caches.remove_cache(paths.chunks, 30)
    unused_caches.remove_cache(paths.chunks, 0)
    assert not paths.chunks.exists()


def test_looking_at_a_cache_leaves_it_as_it_is(paths: StudyPaths) -> None:
    fill(paths.chunks)._kept.close()
    before = {path: path.stat().st_mtime_ns for path in paths.chunks.rglob("*")}
    assert unused_caches.find_own_cache(paths, 30) is None
    assert {path: path.stat().st_mtime_ns for path in paths.chunks.rglob("*")} == before


@pytest.mark.parametrize("other", ["nothing", "files", "diskcache", "more", "link", "damaged"])
def test_other_folders_are_no_caches(tmp_path: Path, other: str) -> None:
    import diskcache

    folder = tmp_path / "cache"
    if other in ("files", "damaged"):
        folder.mkdir()
        (folder / ("thesis.txt" if other == "files" else "cache.db")).write_text("mine", encoding="utf-8")
    elif other == "diskcache":
        diskcache.Cache(str(folder), eviction_policy="least-recently-used").set("key of another", b"x")
    elif other == "more":
        fill(folder)
        (folder / "thesis.txt").write_text("mine", encoding="utf-8")
    elif other == "link":
        fill(tmp_path / "real")
        folder.symlink_to(tmp_path / "real")
    before = sorted(tmp_path.rglob("*"))
    for refused in (unused_caches.find_unused, unused_caches.remove_cache):
        with pytest.raises(StudyError, match="expected a cache of chunks that cinecube wrote") as error:
            refused(folder, 0)
        assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_cannot_be_removed_is_one_line(paths: StudyPaths) -> None:
    gone = Leftover(paths.results / ".report.partial", "partial", "", 0)
    with pytest.raises(StudyError, match="No such file"):
        leftovers.discard(paths, gone)
