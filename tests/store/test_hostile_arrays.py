"""Arrays and tables made to do harm, given to `add`: nothing runs, nothing grows, one line."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from tests.hostile import run_all

ROWS = "segment,onset_s\n" + "".join(f"amber0{s},{i * 1.49}\n" for s in (1, 2, 3) for i in range(20))


class Canary:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, ("ran",))


def header(path: Path, shape: str, dtype: str = "<f8", body: bytes = b"") -> None:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text = text.ljust(118) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body)


def zipped(path: Path, n_bytes: int) -> None:
    """An array of zeros that unpacks to so many bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("amber01.npy", "w") as file:
        made = path.with_suffix(".header")
        header(made, f"({n_bytes // 8}, 1)")
        file.write(made.read_bytes())
        made.unlink()
        for _ in range(n_bytes // 2**24):
            file.write(bytes(2**24))


def declared(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", shape=(10**6, 10**6), dtype="f8", chunks=(1000, 1000))


def packed(path: Path) -> None:
    with h5py.File(path, "w") as file:
        data = file.create_dataset("x", shape=(2**27,), dtype="f8", chunks=(2**22,), compression="gzip")
        data.id.write_direct_chunk((0,), __import__("zlib").compress(bytes(2**25)))


def linked(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = h5py.ExternalLink("/etc/passwd", "x")
        file["y"] = h5py.SoftLink("/y")


def looped(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["g/g"] = file.create_group("g")


def sparse(path: Path) -> None:
    header(path, "(8589934592, 1)")
    with path.open("r+b") as file:
        file.truncate(2**36 + 128)


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        here = os.getcwd()
        os.chdir(path.parent)  # names of sockets are short
        try:
            opened.bind(path.name)
        finally:
            os.chdir(here)


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe.npy": (os.mkfifo, "a pipe"),
    "pipe.npz": (os.mkfifo, "a pipe"),
    "pipe.csv": (os.mkfifo, "a pipe"),
    "pipe.h5": (os.mkfifo, "a pipe"),
    "socket.npy": (bound, "a socket"),
    "device.npy": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "random.csv": (lambda path: path.symlink_to("/dev/urandom"), "a device"),
    "folder": (lambda path: (path.mkdir(), os.mkfifo(path / "amber01.npy")), "a pipe"),
    "loop.npy": (lambda path: path.symlink_to(path), "loop.npy"),
    "dangling.npy": (lambda path: path.symlink_to("/nowhere"), "found nothing"),
    "long.npy": (lambda path: header(path, "(1000000, 1000000)"), "which is 8000000000000 bytes"),
    "endless.npy": (lambda path: header(path, f"({10**30}, 1)"), "bytes"),
    "negative.npy": (lambda path: header(path, "(-1, 1)"), "negative.npy"),
    "program.npy": (lambda path: header(path, "__import__('os').mkdir('ran')"), "unreadable"),
    "objects.npy": (lambda path: header(path, "(1,)", "|O", pickle.dumps([Canary()])), "unreadable"),
    "pickle.npy": (lambda path: path.write_bytes(pickle.dumps(Canary())), "unreadable"),
    "objects.npz": (lambda path: np.savez(path, x=np.array([[1, None]], object)), "unreadable"),
    "bomb.npz": (lambda path: zipped(path, 2**30), "unpack to"),
    "sparse.npy": (sparse, "were ever written"),
    "declared.h5": (declared, "bytes, in 0"),
    "packed.h5": (packed, "bytes, in "),
    "linked.h5": (linked, "no data set"),
    "looped.h5": (looped, "no data set"),
    "garbage.h5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 99), "unreadable"),
    "wide.csv": (lambda path: path.write_text(",".join("a" * 10**6) + "\n"), "columns"),
    "line.csv": (lambda path: path.write_text("a" * 2**25), "a line of more than"),
    "quote.csv": (lambda path: path.write_text('a,b\n"' + "x,y\n" * 10**6), "quote.csv"),
    "nul.csv": (lambda path: path.write_bytes(b"a,b\n1,\0\n"), "NUL"),
    "number.csv": (lambda path: path.write_text("a,b\n" + "9" * 10**5 + ",1\n"), "number.csv"),
    "empty.csv": (lambda path: path.write_text(""), "unreadable"),
    "\x1b]0;owned\x07.csv": (lambda path: path.write_text(""), "\\x1b]0;owned\\x07.csv"),
}


def test_arrays(tmp_path: Path) -> None:
    """Each is one line that says what is wrong, and the study stays as it was."""
    study = tmp_path / "study"
    study.mkdir()
    shutil.copy(Path(__file__).parents[2] / "params.yaml", study)
    (study / "rows.csv").write_text(ROWS)
    np.save(study / "good.npy", np.arange(60.0)[:, None])
    for name, (make, _) in HOSTILE.items():
        make(study / name)
    before = sorted(study.rglob("*"))
    good = ["add", "good.npy", "--model", "good", "--rows", "rows.csv", "--film", "amber"]
    commands = [["add", name, "--model", "x", "--rows", "rows.csv", "--film", "amber"] for name in HOSTILE]
    commands += [["add", "good.npy", "--model", "x", "--rows", name] for name in ("pipe.csv", "random.csv", "wide.csv")]
    ended = run_all([["ls", "."], *commands], study)[1:]
    for words, one in zip(commands, ended, strict=True):
        assert HOSTILE.get(words[1], ("", ""))[1] in one.line, words
    assert sorted(study.rglob("*")) == before
    assert run_all([good], study)[0].out.startswith("amber.zarr: 60 rows")
