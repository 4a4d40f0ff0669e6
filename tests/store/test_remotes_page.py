"""The blocks of docs/howto/remotes.md that need servers, run against real ones on this machine."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests import warm
from tests.conftest import REPOSITORY, dvc_environment

from .conftest import Published, git
from .servers import BUCKET, PASSWORD, USER, http_site, lacking, sshd_site

PAGE = (REPOSITORY / "docs/howto/remotes.md").read_text(encoding="utf-8")
BLOCKS = re.findall(
    r"^% not run: tests/store/test_remotes_page\.py runs it\n```bash\n(.+?)```", PAGE, re.MULTILINE | re.DOTALL
)


def _block(words: str, changes: Mapping[str, str]) -> str:
    """The page's block with these words, for servers that are here; what it installs is."""
    (block,) = (block for block in BLOCKS if words in block)
    lines = [line for line in block.splitlines() if not line.startswith("pip install")]
    for shown, here in changes.items():
        assert any(shown in line for line in lines), shown
        lines = [line.replace(shown, here) for line in lines]
    return "\n".join(lines)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Runs lines of bash in a clone with one file that DVC has, by somebody at home in `tmp_path`."""
    (tmp_path / "study").mkdir()
    environ = dvc_environment()
    environ |= {"HOME": str(tmp_path), "PATH": f"{warm.command('dvc').parent}{os.pathsep}{environ['PATH']}"}

    def run(script: str, folder: str = "study", **more: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path / folder,
            env=environ | more,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("git init -q && dvc init -q && echo cube > cube && dvc add -q cube")
    return run


def _reads(run: Callable[..., str], tmp_path: Path, **more: str) -> None:
    """A clone pulls the file by what is committed."""
    git(tmp_path / "study", "add", "-A")
    git(tmp_path / "study", "commit", "-qm", "Study")
    git(tmp_path, "clone", "-q", "study", "clone")
    for local in (tmp_path / "study" / ".dvc").glob("config.local"):
        (tmp_path / "clone" / ".dvc" / local.name).write_bytes(local.read_bytes())
    run("dvc pull -q", "clone", **more)
    assert (tmp_path / "clone" / "cube").read_text() == "cube\n"


def _ssh_home(tmp_path: Path, config: Mapping[str, Any]) -> Path:
    """A home whose SSH knows data.example.org as the server here; returns a folder there to push to."""
    user, host, port = re.match(r"ssh://(.+)@(.+):(\d+)/", config["url"]).groups()  # type: ignore[union-attr]
    keys, ssh = Path(config["keyfile"]).parent, tmp_path / ".ssh"
    ssh.mkdir(mode=0o700)
    lines = [
        "Host data.example.org",
        f"HostName {host}",
        f"Port {port}",
        f"User {user}",
        f"IdentityFile {keys / 'user'}",
    ]
    (ssh / "config").write_text("\n  ".join(lines) + "\n")
    key = (keys / "host.pub").read_text().split()[:2]
    names = f"data.example.org,[{host}]:{port}"
    (ssh / "known_hosts").write_text(f"{names} {' '.join(key)}\n")
    return tmp_path / "srv"


def test_no_block_is_left_out():
    assert len(BLOCKS) == 3


@pytest.mark.skipif(bool(lacking("s3")), reason=f"needs {lacking('s3')}")
def test_s3(run: Callable[..., str], tmp_path: Path, published: Published):
    site = published.sites["s3"]  # moto's accounts are of the process, so there is one
    script = _block(
        "s3://", {"s3://lab/": f"s3://{BUCKET}/", "https://s3.example.org": str(site.config["endpointurl"])}
    )
    keys = {f"AWS_{name.upper()}": site.config[name] for name in ("access_key_id", "secret_access_key")}
    aws = {**keys, "AWS_DEFAULT_REGION": "us-east-1"}
    assert "1 file pushed" in run(script, **aws)
    _reads(run, tmp_path, **aws)


@pytest.mark.skipif(bool(lacking("sshd")), reason=f"needs {lacking('sshd')}")
def test_ssh(run: Callable[..., str], tmp_path: Path):
    with sshd_site(tmp_path) as site:
        srv = _ssh_home(tmp_path, site.config)
        assert "1 file pushed" in run(_block("-d store ssh://", {"/srv/movie10": f"{srv}/movie10"}))
        assert list((srv / "movie10").rglob("*"))
        _reads(run, tmp_path)


@pytest.mark.skipif(bool(lacking("sshd")), reason=f"needs {lacking('sshd')}")
def test_http(run: Callable[..., str], tmp_path: Path):
    (tmp_path / "web").mkdir()
    with sshd_site(tmp_path) as site, http_site(tmp_path / "web") as web:
        _ssh_home(tmp_path, site.config)
        served = {"/srv/www/movie10": f"{tmp_path}/web/remote", "https://data.example.org/movie10": web.config["url"]}
        assert "1 file pushed" in run(_block("upload ssh://", served))
        password = {"auth": "basic", "user": USER, "password": PASSWORD}
        run("\n".join(f"dvc remote modify --local store {key} {value}" for key, value in password.items()))
        _reads(run, tmp_path)
