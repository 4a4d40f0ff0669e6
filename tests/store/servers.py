"""Real servers on this machine that hold remotes of DVC: S3, SSH (two) and HTTP, behind a wire that can break."""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

BUCKET = "features"
USER, PASSWORD = "reader", "open-sesame"


class Wire:
    """A port in front of a server: counts what the server sends, and breaks or falls silent when told to.

    Parameters
    ----------
    port : int
        The server's own.
    """

    def __init__(self, port: int) -> None:
        self.upstream = port
        self.sent = self.connections = 0
        self.silent = False
        self._breaks, self._whole_bytes = 0, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        """Count from now on, and pass everything."""
        self.sent = self.connections = self._breaks = 0
        self.silent = False

    def break_after(self, whole_bytes: int, times: int = 1_000_000) -> None:
        """Cut connections, each after so many bytes from now, so many times."""
        self.sent = self.connections = 0
        self._whole_bytes, self._breaks = whole_bytes, times

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            server = socket.create_connection(("127.0.0.1", self.upstream))
            for end in (client, server):  # or every short message waits 40 ms for the answer to the one before
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._pass, args=(client, server), daemon=True).start()

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        with client, server:
            down = threading.Thread(target=self._down, args=(client, server), daemon=True)
            down.start()
            with suppress(OSError):
                while data := client.recv(65536):
                    server.sendall(data)
            _shut(server)
            down.join()

    def _down(self, client: socket.socket, server: socket.socket) -> None:
        passed = 0
        with suppress(OSError):
            while data := server.recv(16384):
                passed = passed + len(data) if self._breaks else 0
                while self.silent:
                    time.sleep(0.02)
                if self._breaks and passed > self._whole_bytes:
                    self._breaks -= 1
                    break
                self.sent += len(data)
                client.sendall(data)
        _shut(client)
        _shut(server)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


@dataclass
class Site:
    """A remote of DVC on a server.

    Parameters
    ----------
    name : str
        Of the remote.
    config : dict
        Its configuration, credentials included.
    wrong : dict
        What to change for credentials that the server refuses.
    wire : Wire
    shorten : callable
        Cuts the stored object of a hash to half; what it returns restores it.
    """

    name: str
    config: dict[str, Any]
    wrong: dict[str, Any]
    wire: Wire
    shorten: Callable[[str], Callable[[], object]]


@contextmanager
def s3_site(folder: Path) -> Iterator[Site]:
    """S3 as moto serves it, checking signatures."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    root = {"aws_access_key_id": "root", "aws_secret_access_key": "root", "region_name": "us-east-1"}
    clients = {name: boto3.client(name, endpoint_url=f"http://127.0.0.1:{port}", **root) for name in ("s3", "iam")}
    clients["s3"].create_bucket(Bucket=BUCKET)
    clients["iam"].create_user(UserName=USER)
    key = clients["iam"].create_access_key(UserName=USER)["AccessKey"]
    everything = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}'
    clients["iam"].put_user_policy(UserName=USER, PolicyName="all", PolicyDocument=everything)
    own = {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}
    s3 = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1", **own)

    import requests

    requests.post(f"http://127.0.0.1:{port}/moto-api/reset-auth", data=b"0", timeout=10)

    def shorten(oid: str) -> Callable[[], object]:
        name = f"remote/files/md5/{oid[:2]}/{oid[2:]}"
        whole = s3.get_object(Bucket=BUCKET, Key=name)["Body"].read()
        s3.put_object(Bucket=BUCKET, Key=name, Body=whole[: len(whole) // 2])
        return lambda: s3.put_object(Bucket=BUCKET, Key=name, Body=whole)

    wire = Wire(port)
    config = {
        "url": f"s3://{BUCKET}/remote",
        "endpointurl": f"http://127.0.0.1:{wire.port}",
        "region": "us-east-1",
        "access_key_id": key["AccessKeyId"],
        "secret_access_key": key["SecretAccessKey"],
    }
    yield Site("s3", config, {"secret_access_key": "wrong"}, wire, shorten)
    wire.close()
    server.stop()


def _keys(folder: Path) -> None:
    """A host's key, a user's that it knows, and one that it does not."""
    import asyncssh

    for name in ("host", "user", "stranger"):
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(folder / name)
        key.write_public_key(folder / f"{name}.pub")
        (folder / name).chmod(0o600)


def _ssh_site(name: str, folder: Path, port: int, user: str) -> Site:
    wire = Wire(port)
    config = {
        "url": f"ssh://{user}@127.0.0.1:{wire.port}{folder / 'remote'}",
        "keyfile": str(folder / "user"),
    }
    shorten = _file_shortener(folder / "remote")
    return Site(name, config, {"keyfile": str(folder / "stranger")}, wire, shorten)


@contextmanager
def ssh_site(folder: Path) -> Iterator[Site]:
    """SSH as asyncssh serves it."""
    import asyncssh

    _keys(folder)
    loop, ready, port = asyncio.new_event_loop(), threading.Event(), 0

    async def listen() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[str(folder / "host")],
            authorized_client_keys=str(folder / "user.pub"),
            sftp_factory=True,
            allow_scp=False,
        )

    def serve() -> None:
        nonlocal port
        asyncio.set_event_loop(loop)
        port = loop.run_until_complete(listen()).get_port()
        ready.set()
        loop.run_forever()

    threading.Thread(target=serve, daemon=True).start()
    ready.wait(30)
    site = _ssh_site("ssh", folder, port, USER)
    yield site
    site.wire.close()
    loop.call_soon_threadsafe(loop.stop)


def sshd() -> str | None:
    """OpenSSH's server, where it is installed."""
    return shutil.which("sshd") or shutil.which("/usr/sbin/sshd")


@contextmanager
def sshd_site(folder: Path) -> Iterator[Site]:
    """SSH as OpenSSH serves it, to the user who runs the tests."""
    _keys(folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    lines = [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {folder / 'host'}",
        f"AuthorizedKeysFile {folder / 'user.pub'}",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "StrictModes no",
        "PidFile none",
        "Subsystem sftp internal-sftp",
    ]
    (folder / "config").write_text("\n".join(lines) + "\n")
    log = (folder / "log").open("wb")
    command = [str(sshd()), "-D", "-e", "-f", str(folder / "config")]
    with log, subprocess.Popen(command, stderr=log) as server:
        try:
            _wait_for(port, server, folder / "log")
            site = _ssh_site("sshd", folder, port, getpass.getuser())
            yield site
            site.wire.close()
        finally:
            server.terminate()


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(200):
        if server.poll() is not None:
            raise RuntimeError(f"sshd stopped: {log.read_text()}")
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise RuntimeError(f"sshd does not answer: {log.read_text()}")


@contextmanager
def http_site(folder: Path) -> Iterator[Site]:
    """HTTP with ranges, uploads and passwords, as aiohttp serves it."""
    from aiohttp import BasicAuth, web

    root = folder / "remote"
    known = BasicAuth(USER, PASSWORD).encode()

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != known:
            raise web.HTTPUnauthorized
        file = root / request.path.lstrip("/")
        if request.method == "POST":
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(await request.read())
            return web.Response()
        if not file.is_file():
            raise web.HTTPNotFound
        return web.FileResponse(file)

    loop, ready, port = asyncio.new_event_loop(), threading.Event(), 0

    async def listen() -> int:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return int(runner.addresses[0][1])

    def serve() -> None:
        nonlocal port
        asyncio.set_event_loop(loop)
        port = loop.run_until_complete(listen())
        ready.set()
        loop.run_forever()

    threading.Thread(target=serve, daemon=True).start()
    ready.wait(30)
    wire = Wire(port)
    config = {"url": f"http://127.0.0.1:{wire.port}", "auth": "basic", "user": USER, "password": PASSWORD}
    yield Site("http", config, {"password": "wrong"}, wire, _file_shortener(root))
    wire.close()
    loop.call_soon_threadsafe(loop.stop)


def _file_shortener(root: Path) -> Callable[[str], Callable[[], object]]:
    def shorten(oid: str) -> Callable[[], object]:
        file = root / "files" / "md5" / oid[:2] / oid[2:]
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        return lambda: file.write_bytes(whole)

    return shorten


SITES = {"s3": s3_site, "ssh": ssh_site, "sshd": sshd_site, "http": http_site}
_PACKAGES = {"s3": ("dvc_s3", "moto", "flask_cors"), "ssh": ("dvc_ssh",), "sshd": ("dvc_ssh",), "http": ()}


def lacking(name: str) -> str:
    """What a server needs that is not installed; nothing if it can be run."""
    packages = [package for package in _PACKAGES[name] if not find_spec(package)]
    if name == "sshd" and not sshd():
        packages.append("sshd (Debian: openssh-server)")
    elif name == "sshd" and os.getuid() == 0 and not Path("/run/sshd").is_dir():  # made by an init system
        packages.append("/run/sshd, where root's sshd goes for safety")
    return ", ".join(packages)
