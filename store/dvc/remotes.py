"""Reading objects of DVC by byte range, from its local cache or from a remote, with bounded retries."""

from __future__ import annotations

import io
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from cinecube.store.base.errors import StudyError, environment_error, first_line

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest

    from cinecube.store.dvc.chunk_cache import ChunkCache

T = TypeVar("T")

# Three attempts: a dropped connection comes back within a second or stays away.
WAITS_S = (0.2, 0.8)
# How long a silent server is waited for, where the remote's own configuration does not say: DVC waits a minute for HTTP
# and S3, times the retries of each library, and half an hour for SSH.
PATIENCE_S = 30
# To hash more than that takes longer than to read it from this disk.
_LARGE_BYTES = 2**20
_PATIENCE_OPTIONS = {
    "http": ("connect_timeout", "read_timeout"),
    "https": ("connect_timeout", "read_timeout"),
    "s3": ("connect_timeout", "read_timeout"),
    "ssh": ("timeout",),
}


class ShortReadError(OSError):
    """A remote sent another number of bytes than the range holds."""


class DamagedError(OSError):
    """Other bytes than the hash names."""


class OverlongError(OSError):
    """An object has more bytes than anything real of its kind."""


@dataclass(frozen=True)
class DvcObject:
    """The content of one file: its MD5 hash, and whether DVC 2 wrote it, whose objects lie in another folder.

    The content of a folder is a list of files, and its hash ends in `.dir`.
    """

    oid: str
    legacy: bool = False


def md5_of(file: Any, item: DvcObject) -> str:
    """The hash of an open file as DVC takes that of an object.

    Parameters
    ----------
    file : file object
        Open for reading bytes.
    item : DvcObject
        A legacy one has the hash of its text with Unix ends of lines.

    Returns
    -------
    str
        Hexadecimal, without `.dir`.
    """
    from dvc_data.hashfile.hash import fobj_md5

    return str(fobj_md5(file, name="md5-dos2unix" if item.legacy else "md5"))


def is_whole(item: DvcObject, data: bytes) -> bool:
    """True if bytes are those of an object.

    Parameters
    ----------
    item : DvcObject
    data : bytes

    Returns
    -------
    bool
    """
    return md5_of(io.BytesIO(data), item) == item.oid.removesuffix(".dir")


@dataclass(frozen=True)
class Location:
    """One folder of objects, on this machine or elsewhere.

    Parameters
    ----------
    name : str
        What messages call it.
    filesystem : class
        The filesystem class of DVC, made on first use so that a location travels to Dask workers as plain data.
    options : dict
        What the class is made with; may hold a password, so it is never shown_address.
    root : str
    trusted : bool
        Whole objects of more than a megabyte are not hashed again: DVC hashed them when it filled its cache, and chunks
        have checksums of their own.
    """

    name: str
    filesystem: type
    options: dict[str, Any]
    root: str
    trusted: bool = False

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_fs", "_lock")}  # sockets stay

    @property
    def _connected(self) -> Any:
        with self.__dict__.setdefault("_lock", threading.Lock()):  # one connection for all threads
            fs = self.__dict__.get("_fs")
            if fs is None or _is_lost(fs):
                fs = self.__dict__["_fs"] = _connect(self.filesystem, self.options)
            return fs

    def path(self, item: DvcObject) -> str:
        """Path of an object at this location."""
        layout = () if item.legacy else ("files", "md5")
        joined: str = self._connected.join(self.root, *layout, item.oid[:2], item.oid[2:])
        return joined

    def size(self, item: DvcObject) -> int:
        """Bytes of an object."""
        return int(self._connected.fs.info(self.path(item))["size"])

    def read(self, item: DvcObject, request: ByteRequest | None, limit: int | None = None) -> bytes:
        """Bytes of an object, in one attempt; of a whole one at most `limit`.

        Parameters
        ----------
        item : DvcObject
        request : ByteRequest, optional
            The part to read; the whole object without it.
        limit : int, optional
            The most bytes that a whole object may have.

        Returns
        -------
        bytes

        Raises
        ------
        FileNotFoundError
            If it is not at this location.
        ShortReadError, DamagedError
            If the answer is not what was asked for.
        OverlongError
            If it has more than `limit` bytes.
        """
        if request is None:
            return self._whole(item, limit)
        from zarr.abc.store import OffsetByteRequest, RangeByteRequest

        if isinstance(request, OffsetByteRequest):
            request = RangeByteRequest(request.offset, self.size(item))
        if isinstance(request, RangeByteRequest):
            if request.end <= request.start:
                return b""
            data = self._bytes(item, request.start, request.end)
            if len(data) >= request.end:
                data = data[request.start : request.end]  # a server that knows no ranges sends the whole
            return _exactly(data, request.end - request.start)
        if request.suffix == 0:
            return b""
        data = self._bytes(item, -request.suffix, None)[-request.suffix :]
        return data if len(data) == request.suffix else _exactly(data, min(request.suffix, self.size(item)))

    def _whole(self, item: DvcObject, limit: int | None) -> bytes:
        if limit is not None and str(getattr(self._connected, "protocol", "")) in ("local", "ssh"):
            _refuse_overlong(self.size(item), limit)
            limit = None
        # Elsewhere to ask for the size would be one more way to the server.
        data = self._bytes(item, None, None) if limit is None else self._bytes(item, 0, limit + 1)
        if limit is not None:
            _refuse_overlong(len(data), limit)
        if not (self.trusted and len(data) > _LARGE_BYTES) and not is_whole(item, data):
            raise DamagedError(f"{len(data)} bytes that do not hash to {item.oid}")
        return data

    def _bytes(self, item: DvcObject, start: int | None, end: int | None) -> bytes:
        path, fs = self.path(item), self._connected
        if getattr(fs, "protocol", "") != "ssh":
            return bytes(fs.fs.cat_file(path, start=start, end=end))
        # The SFTP filesystem has no cat_file; its files seek, and read no more than asked.
        with fs.fs.open(path, "rb") as file:
            if start is not None:
                file.seek(max(start, -self.size(item)), 2) if start < 0 else file.seek(start)
            return bytes(file.read(-1 if end is None else end - (start or 0)))


def _refuse_overlong(n_bytes: int, limit: int) -> None:
    if n_bytes > limit:
        raise OverlongError(f"more than {limit} bytes")


def _connect(filesystem: type, options: Mapping[str, Any]) -> Any:
    """DVC's filesystem, told to try once and not to wait for ever: attempts are counted here."""
    protocol = str(getattr(filesystem, "protocol", ""))
    fs = filesystem(**dict.fromkeys(_PATIENCE_OPTIONS.get(protocol, ()), PATIENCE_S) | dict(options))
    if protocol in ("http", "https"):
        fs.SESSION_RETRIES = 1
    elif protocol == "s3":
        fs.fs_args.setdefault("config_kwargs", {})["retries"] = {"total_max_attempts": 1}
        fs.fs.retries = 1
    elif protocol == "ssh":  # its timeout is for connecting only
        interval_s = options.get("timeout", PATIENCE_S) / 3
        fs.fs.loop.call_soon_threadsafe(fs.fs.client.set_keepalive, interval_s, 3)
    return fs


def _is_lost(fs: Any) -> bool:
    """True if the connection is gone for good: S3 and HTTP make new ones by themselves."""
    return str(getattr(fs, "protocol", "")) == "ssh" and bool(fs.fs.client.is_closed())


def _exactly(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise ShortReadError(f"{len(data)} bytes where {size} were asked for")
    return data


class Objects:
    """The locations that may hold the objects of one output, asked in order.

    Parameters
    ----------
    locations : sequence of Location
        The local cache first.
    more : callable, optional
        Gives further locations; called once, when an object is in none of the first (the repository that an import
        comes from need not be reachable while the cache holds everything).
    chunks : ChunkCache, optional
        Keeps what remotes send.
    kept : bool
        Whether the owner of the output keeps it back, so that remotes need not have it.
    """

    def __init__(
        self,
        locations: Sequence[Location],
        more: Callable[[], Sequence[Location]] | None = None,
        chunks: ChunkCache | None = None,
        *,
        kept: bool = False,
    ) -> None:
        self._locations = list(locations)
        self._more = more
        self._chunks = chunks
        self._kept = kept
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def read(self, item: DvcObject, request: ByteRequest | None, where: str, limit: int | None = None) -> bytes:
        """Bytes of an object, from the first location that has it; of a whole one at most `limit`.

        Parameters
        ----------
        item : DvcObject
        request : ByteRequest, optional
            The part to read; the whole object without it.
        where : str
            What messages call the file.
        limit : int, optional
            The most bytes that a whole object may have.

        Returns
        -------
        bytes

        Raises
        ------
        StudyError
            If no location has it, one fails three times, or it is longer; names the file `where` and the location.
        """

        def ask(location: Location) -> bytes:
            if self._chunks is None or location.trusted:
                return location.read(item, request, limit)
            return self._chunks.read(item.oid, request, lambda: location.read(item, request, limit))

        return self._first(ask, item, where)

    def read_whole(self, item: DvcObject, where: str, limit: int | None = None) -> bytes:
        """Bytes of an object, at most `limit`, from the first location that has them whole; caches are not believed.

        Parameters
        ----------
        item : DvcObject
        where : str
            What messages call the file.
        limit : int, optional
            The most bytes that it may have.

        Returns
        -------
        bytes
            Those that hash to its name.

        Raises
        ------
        StudyError
            If no location has.
        """
        failed: StudyError | None = None
        for location in self._in_turn():
            try:
                data = _patiently(lambda at: at.read(item, None, limit), location, item, where)
            except FileNotFoundError:
                continue
            except StudyError as error:
                failed = error
                continue
            if is_whole(item, data):
                return data
            failed = _damaged(item, location, where)
        raise failed or self._absent(item, where)

    def keeping(self, chunks: ChunkCache) -> Objects:
        """The same, with what remotes send kept."""
        return Objects(self._locations, self._more, chunks, kept=self._kept)

    def size(self, item: DvcObject, where: str) -> int:
        """Bytes of an object; raises as `read` does.

        Parameters
        ----------
        item : DvcObject
        where : str
            What messages call the file.

        Returns
        -------
        int
        """
        return self._first(lambda location: location.size(item), item, where)

    def _first(self, ask: Callable[[Location], T], item: DvcObject, where: str) -> T:
        for location in self._in_turn():
            with suppress(FileNotFoundError):
                return _patiently(ask, location, item, where)
        raise self._absent(item, where)

    def _absent(self, item: DvcObject, where: str) -> StudyError:
        return kept_back(where) if self._kept else _nowhere(item, self.locations(), where)

    def _in_turn(self) -> Iterator[Location]:
        """Every location; where an import comes from is asked only once the others have been."""
        known = self.locations(extended=False)
        yield from known
        yield from self.locations()[len(known) :]

    def locations(self, *, extended: bool = True) -> list[Location]:
        """Places in which objects are searched; `extended` adds those of an import's source."""
        with self._lock:
            if extended and self._more is not None:
                self._locations += self._more()
                self._more = None
            return list(self._locations)


def kept_back(where: str) -> StudyError:
    """The error of an output that was not published, and is not here."""
    return StudyError(
        where=where,
        found="an output that was not published: its owner keeps it back (`push: false`)",
        expected="its bytes, here or in a remote",
        do="ask the owner of the study for it",
    )


def _nowhere(item: DvcObject, asked: Sequence[Location], where: str) -> StudyError:
    remotes = [location for location in asked if not location.trusted]
    if not remotes:
        here = f"in {asked[0].name}, and no remote" if asked else "anywhere: no remote"
        return StudyError(
            where=where,
            found=f"no object {item.oid} {here} in what is committed",
            expected="a default remote in .dvc/config that others can reach",
            do="ask its owner to run `dvc remote add -d NAME ADDRESS` there, without --local, commit .dvc/config, and "
            "run `dvc push`",
        )
    return StudyError(
        where=where,
        found=f"no object {item.oid} in {' or '.join(location.name for location in asked)}",
        expected="the bytes that its revision lists",
        do="ask the owner of the study to run `dvc push` there",
    )


def _damaged(item: DvcObject, location: Location, where: str) -> StudyError:
    return StudyError(
        where=where,
        found=f"no whole object {item.oid} in {location.name}, but other bytes under its name",
        expected="the bytes that its revision lists",
        do="run `cinecube pull` or `cinecube verify --repair`, or remove it there and run `dvc fetch`",
    )


def _patiently(ask: Callable[[Location], T], location: Location, item: DvcObject, where: str) -> T:
    for wait_s in (*WAITS_S, None):
        try:
            return ask(location)
        except FileNotFoundError:
            raise
        except Exception as error:  # every filesystem has its own classes for a lost connection or a wrong password
            if location.trusted and isinstance(error, DamagedError):
                raise _damaged(item, location, where) from error
            if wait_s is None or _refused(error) or isinstance(error, ImportError | OverlongError):
                raise _failure(error, location, where) from error
            time.sleep(wait_s)
    raise AssertionError("unreachable")


def _refused(error: Exception) -> bool:
    """True if a server refused access, or would without credentials."""
    return isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403) or _no_credentials(error)


def _no_credentials(error: Exception) -> bool:
    return type(error).__name__ == "NoCredentialsError"  # of botocore, which need not be installed


def _failure(error: Exception, location: Location, where: str) -> StudyError:
    refused = _refused(error)
    # Leave to read may be a matter of the server's passwords; all else that the system refuses is this machine's.
    if (own := environment_error(error, where)) and not refused:
        return own
    reason = first_line(error)
    return StudyError(
        where=where,
        found=f"{location.name} failing ({shown_address(reason)})",
        expected="a whole answer" if not refused else "leave to read",
        do="try again, or check the remote's server" if not refused else "check the remote's credentials",
    )


def cache_location(root: str) -> Location:
    """The local cache of DVC."""
    from dvc.fs import LocalFileSystem

    return Location(f"the cache {root}", LocalFileSystem, {}, root, trusted=True)


def remote_location(config: Mapping[str, Any], name: str, where: str) -> Location:
    """A remote of a repository's configuration.

    Parameters
    ----------
    config : Mapping
        The repository's configuration.
    name : str
        The remote's.
    where : str
        What messages call what is read.

    Returns
    -------
    Location

    Raises
    ------
    StudyError
        If it is not configured, or keeps files by cloud version and not by hash.
    """
    from dvc.exceptions import DvcException
    from dvc.fs import get_cloud_fs
    from dvc_objects.fs.errors import RemoteMissingDepsError

    try:
        filesystem, options, root = get_cloud_fs(json.loads(json.dumps(config)), name=name)
    except (DvcException, KeyError, ImportError, RemoteMissingDepsError) as error:
        if package := _lacking_package(error):
            raise StudyError(
                where=where,
                found=f"remote '{name}' ({shown_address(_address(config, name))}), and no package {package}",
                expected="it, which reads such remotes",
                do=f"pip install {package}",
            ) from error
        first = str(error).splitlines()[0]
        raise StudyError(
            where=where, found=f"remote '{name}' ({first})", expected="its configuration", do="correct .dvc/config"
        ) from error
    if options.get("worktree") or options.get("version_aware"):
        found = f"remote '{name}', which keeps files by cloud version"
        raise StudyError(where=where, found=found, expected="a remote that keeps objects by hash", do="use another one")
    return Location(f"remote '{name}' ({shown_address(_address(config, name))})", filesystem, options, root)


def _address(config: Mapping[str, Any], name: str) -> str:
    return str(config["remote"][name.lower()]["url"])


def _lacking_package(error: BaseException) -> str:
    """The package that DVC lacks for a kind of remote; empty if it is not that."""
    for cause in (error, error.__cause__, error.__context__):
        if found := re.search(r"requires '?(dvc-[\w-]+|dvc\[[\w-]+\])'? to be installed", str(cause or "")):
            return found[1]
        if isinstance(cause, ImportError) and (cause.name or "").startswith("dvc_"):
            return str(cause.name).partition(".")[0].replace("_", "-")
    return ""


def shown_address(text: str) -> str:
    """A URL, or a message with URLs in it, without the users and passwords."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)
