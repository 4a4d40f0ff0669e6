"""Zarr groups read at a revision from DVC remotes, on real repositories and a loopback server."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from cinecube.store.base.errors import StudyError
from cinecube.store.dvc import remotes
from cinecube.store.dvc.dvc_index import DvcIndex, open_index
from cinecube.store.dvc.dvc_zarr import DvcZarrStore, dvc_zarr_store

CUBE = "data/features/vit/life.zarr"
ROWS, DIMS, LAYERS = 1024, 32, 3
LAYER_BYTES = ROWS * DIMS * 4
ENVIRONMENT = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    done = subprocess.run(
        ["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True, env={**os.environ, **ENVIRONMENT}
    )
    return done.stdout.strip()


def values(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((ROWS, DIMS, LAYERS)).astype(np.float32)


def write(path: Path, seed: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    cube = xr.Dataset(
        {"features": (("time", "dim", "layer"), values(seed))}, coords={"onset_s": ("time", np.arange(ROWS) * 1.5)}
    )
    encoding = {"features": {"chunks": (256, DIMS, 1), "shards": (ROWS, DIMS, 1), "compressors": None}}
    cube.to_zarr(path, zarr_format=3, encoding=encoding, consolidated=True)


@dataclass
class Study:
    """A repository with two revisions of a cube, v1 and v2, and the folder its remote is."""

    root: Path
    remote: Path
    bare: Path


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    from dvc.repo import Repo

    base = tmp_path_factory.mktemp("dvc")
    root, remote, bare = base / "study", base / "remote", base / "study.git"
    root.mkdir()
    git(root, "init", "-q")
    with Repo.init(str(root)) as repo:
        with repo.config.edit() as config:
            config["remote"]["there"] = {"url": str(remote)}
            config["core"].update(remote="there", autostage=False)
        for seed in (1, 2):
            write(root / CUBE, seed)
            repo.add(str(root / "data/features"))
            repo.push()
            git(root, "add", "-A", ".")
            git(root, "commit", "-qm", f"cube {seed}")
            git(root, "tag", f"v{seed}")
    git(base, "clone", "-q", "--bare", str(root), str(bare))
    return Study(root, remote, bare)


@pytest.fixture
def fresh(study: Study, tmp_path: Path) -> Path:
    """A clone that holds no data, and so reads the remote."""
    git(tmp_path, "clone", "-q", str(study.bare), "clone")
    return tmp_path / "clone"


def tree(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.lstat().st_mtime_ns for path in root.rglob("*")}


def read(store: DvcZarrStore, **where: Any) -> np.ndarray:
    result: np.ndarray = xr.open_zarr(store, chunks=None)["features"].isel(**where).values
    return result


@dataclass
class Server:
    """An HTTP server of a folder, which counts what it sends and can be told to misbehave.

    Parameters
    ----------
    ruin : callable
        Given path and body, the body to send in its place; none breaks the connection after half of it.
    """

    folder: Path
    ranges: bool = True
    refuse: int = 0
    ruin: Callable[[str, bytes], bytes | None] = lambda path, body: body
    sent: list[tuple[str, int]] = field(default_factory=list)
    url: str = ""

    def moved(self) -> int:
        return sum(size for _, size in self.sent)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        file = self.folder / request.path.lstrip("/")
        if self.refuse or not file.is_file():
            request.send_error(self.refuse or 404)
            return
        body, wanted = file.read_bytes(), request.headers.get("Range")
        whole = len(body)
        if wanted and self.ranges:
            start, stop = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted).groups()  # type: ignore[union-attr]
            body = body[int(start) : int(stop) + 1 if stop else None] if start else body[-int(stop) :]
        honest = len(body)
        ruined = self.ruin(request.path, body)
        request.send_response(206 if len(body) < whole else 200)
        request.send_header("Content-Length", str(honest if ruined is None else len(ruined)))
        request.end_headers()
        if request.command == "HEAD":
            return
        data = body[: honest // 2] if ruined is None else ruined
        self.sent.append((request.path, len(data)))
        request.wfile.write(data)
        request.close_connection = ruined is None


@pytest.fixture
def server(study: Study) -> Iterator[Server]:
    state = Server(study.remote)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        do_HEAD = do_GET

        def log_message(self, *words: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        http.shutdown()
        thread.join()


@pytest.fixture
def over_http(study: Study, server: Server, monkeypatch: pytest.MonkeyPatch) -> DvcZarrStore:
    monkeypatch.setattr(remotes, "WAITS_S", (0.01, 0.01))
    return dvc_zarr_store(study.bare, CUBE, "v2", remote_config={"url": server.url})


def shard(store: DvcZarrStore, layer: int) -> str:
    oid = store.listing.files[f"features/c/0/0/{layer}"].oid
    return f"files/md5/{oid[:2]}/{oid[2:]}"


@pytest.mark.parametrize("rev", ["v1", "v2", None])
def test_reads_what_was_written_at_any_revision(study: Study, rev: str | None) -> None:
    seed = 1 if rev == "v1" else 2
    for url in (study.root, study.bare, f"file://{study.bare}"):
        np.testing.assert_array_equal(read(dvc_zarr_store(url, CUBE, rev)), values(seed))


def test_the_working_tree_is_untouched(fresh: Path) -> None:
    before = tree(fresh)
    for rev in (None, "v1"):
        store = dvc_zarr_store(fresh, CUBE, rev)
        np.testing.assert_array_equal(read(store, layer=1), values(1 if rev else 2)[..., 1])
    assert tree(fresh) == before
    assert not (fresh / "data/features").exists()


def test_a_commit_and_a_path_from_a_folder_inside(fresh: Path) -> None:
    old = git(fresh, "rev-parse", "v1")
    store = dvc_zarr_store(fresh / "data", CUBE.removeprefix("data/"), old)
    np.testing.assert_array_equal(read(store, layer=0), values(1)[..., 0])


def test_the_cache_comes_first(study: Study, server: Server) -> None:
    store = dvc_zarr_store(study.root, CUBE, "v1", remote_config={"url": server.url})
    np.testing.assert_array_equal(read(store), values(1))
    assert server.sent == []


def test_one_layer_moves_its_bytes(over_http: DvcZarrStore, server: Server) -> None:
    array = xr.open_zarr(over_http, chunks=None)["features"]
    assert server.moved() < 20_000
    server.sent.clear()
    np.testing.assert_array_equal(array.isel(layer=2).values, values(2)[..., 2])
    assert LAYER_BYTES <= server.moved() <= 1.05 * LAYER_BYTES


def test_rows_move_their_chunks_only(over_http: DvcZarrStore, server: Server) -> None:
    array = xr.open_zarr(over_http, chunks=None)["features"]
    server.sent.clear()
    np.testing.assert_array_equal(array.isel(layer=0, time=slice(256, 512)).values, values(2)[256:512, :, 0])
    assert server.moved() <= LAYER_BYTES / 4 + 200


def test_a_server_without_ranges_is_read_all_the_same(over_http: DvcZarrStore, server: Server) -> None:
    server.ranges = False
    found = read(over_http, layer=1, time=slice(300, 310))
    np.testing.assert_array_equal(found, values(2)[300:310, :, 1])


def test_a_listed_file_without_bytes_is_an_error(study: Study, fresh: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    shutil.copytree(study.remote, part)
    store = dvc_zarr_store(fresh, CUBE, "v1", remote_config={"url": str(part)})
    (part / shard(store, 1)).unlink()
    np.testing.assert_array_equal(read(store, layer=0), values(1)[..., 0])
    with pytest.raises(StudyError, match=r"features/c/0/0/1: found no object .* remote 'there'") as caught:
        read(store, layer=1)
    assert str(part) in str(caught.value)


def test_a_missing_list_of_files_is_an_error(fresh: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"list of files.*remote 'there'"):
        dvc_zarr_store(fresh, CUBE, remote_config={"url": str(tmp_path / "empty")})


def test_a_key_that_is_not_listed_is_absent(study: Study) -> None:
    store = dvc_zarr_store(study.root, CUBE)
    assert zarr.open_group(store, mode="r").get("nothing") is None
    assert "zarr.json" in dict.fromkeys(store.listing.files)


def test_a_server_that_dies_mid_read(over_http: DvcZarrStore, server: Server) -> None:
    array = xr.open_zarr(over_http, chunks=None)["features"]
    server.sent.clear()
    server.ruin = lambda path, body: None
    with pytest.raises(StudyError, match=r"features/c/0/0/0: found remote 'there' \(http://127.*\) failing"):
        _ = array.isel(layer=0).values
    assert len(server.sent) == 3


def test_a_server_that_comes_back(over_http: DvcZarrStore, server: Server) -> None:
    array = xr.open_zarr(over_http, chunks=None)["features"]
    times = iter(range(100))
    server.ruin = lambda path, body: None if next(times) < 2 else body
    np.testing.assert_array_equal(array.isel(layer=0).values, values(2)[..., 0])


@pytest.mark.parametrize("rows", [slice(None), slice(0, 10)], ids=["whole", "range"])
def test_a_truncated_answer(over_http: DvcZarrStore, server: Server, rows: slice) -> None:
    array = xr.open_zarr(over_http, chunks=None)["features"]
    server.ruin = lambda path, body: body[: len(body) // 2]
    with pytest.raises(StudyError, match=r"c/0/0/0: found remote 'there' .* failing \(\d+ bytes"):
        _ = array.isel(layer=0, time=rows).values


def test_a_changed_byte_of_a_whole_object(over_http: DvcZarrStore, server: Server) -> None:
    array = xr.open_zarr(over_http, chunks=None)["features"]
    server.ruin = lambda path, body: bytes([body[0] ^ 1]) + body[1:]
    with pytest.raises(StudyError, match="hash to"):
        _ = array.isel(layer=0).values


def test_an_object_missing_at_the_server(over_http: DvcZarrStore, server: Server, tmp_path: Path) -> None:
    array = xr.open_zarr(over_http, chunks=None)["features"]
    server.folder = tmp_path
    with pytest.raises(StudyError, match=r"c/0/0/2: found no object [0-9a-f]{32} in remote 'there' \(http://127"):
        _ = array.isel(layer=2).values


@pytest.mark.parametrize("code", [401, 403, 500])
def test_a_server_that_refuses(over_http: DvcZarrStore, server: Server, code: int) -> None:
    array = xr.open_zarr(over_http, chunks=None)["features"]
    server.refuse = code
    with pytest.raises(StudyError, match=rf"remote 'there' .* failing \({code}"):
        _ = array.isel(layer=0).values


def test_a_server_that_is_gone(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remotes, "WAITS_S", (0.01, 0.01))
    with pytest.raises(StudyError, match=r"remote 'there' \(http://127.0.0.1:9\) failing") as caught:
        dvc_zarr_store(study.bare, CUBE, remote_config={"url": "http://me:secret@127.0.0.1:9"})
    assert "secret" not in str(caught.value)


def test_a_store_travels_to_a_worker(over_http: DvcZarrStore) -> None:
    assert read(over_http).shape == (ROWS, DIMS, LAYERS)
    copy = pickle.loads(pickle.dumps(over_http))  # noqa: S301 - our own object, as Dask sends it
    assert copy == over_http
    np.testing.assert_array_equal(read(copy, layer=1), values(2)[..., 1])


def test_dask_reads_it(over_http: DvcZarrStore) -> None:
    doubled = xr.open_zarr(over_http)["features"] * 2
    np.testing.assert_array_equal(doubled.compute(scheduler="threads").values, values(2) * 2)


def test_a_revision_cannot_be_written_to(study: Study) -> None:
    store = dvc_zarr_store(study.root, CUBE)
    with pytest.raises(ValueError, match="read-only"):
        zarr.open_group(store, mode="r+").create_array("more", shape=(1,), dtype="f4")


@pytest.fixture(scope="module")
def index(study: Study) -> DvcIndex:
    return open_index(study.root, "v1")


def test_one_index_serves_many_stores(index: DvcIndex) -> None:
    assert [output.path for output in index.outputs] == ["data/features"]
    np.testing.assert_array_equal(read(DvcZarrStore(index.folder(CUBE)), layer=1), values(1)[..., 1])
    assert "life.zarr/zarr.json" in index.folder("data/features/vit").files
