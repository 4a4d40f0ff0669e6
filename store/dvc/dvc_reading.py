"""A repository's files as DVC reads them, in JSON values; called in a process with limits, see `confined`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from dvc.config import Config
from dvc.exceptions import DvcException
from dvc.repo import Repo

from cinecube.store.base.errors import StudyError, environment_error
from cinecube.store.base.paths import METRICS_FILE, PARAMS_FILE
from cinecube.store.dvc.dvc_repo import opened_repo, uncollected
from cinecube.store.dvc.remotes import shown_address
from cinecube.store.dvc.untrusted import check_oid, check_path, refuse_programs, unreadable

# DVC's own time grows with the square of a pipeline's stages: 200 take a minute.
_MAX_OUTPUTS = 20_000
_MAX_TEXT_BYTES = 2**20
_MAX_FOLDERS = 1000


def read_repository(url: str, rev: str | None, clone: str | None, folder: str) -> dict[str, Any]:
    """Outputs, configuration and parameters of a repository at a revision.

    Parameters
    ----------
    url : str
        As it was asked for.
    rev : str, optional
    clone : str, optional
        The clone, if `url` is no folder.
    folder : str
        The folder of the repository that was asked for; empty if none was.

    Returns
    -------
    dict
        JSON values.

    Raises
    ------
    StudyError
        If DVC cannot read it, or its configuration names programs.
    """
    try:
        with uncollected(), opened_repo(clone or url, rev, folder, is_clone=clone is not None) as opened:
            repo, prefix = opened.repo, opened.prefix
            _refuse_programs(repo, shown_address(url), opened.work)
            outputs = [_described(out, repo) for out in repo.index.outs if out.use_cache]
            if len(outputs) > _MAX_OUTPUTS:
                raise ValueError(f"{len(outputs)} outputs, more than {_MAX_OUTPUTS}")
            return {
                "outputs": sorted(outputs, key=lambda output: str(output["path"])),
                "config": json.loads(json.dumps(repo.config, default=str)),
                "cache": opened.cache,
                "prefix": prefix,
                "top": opened.top,
                "tip": opened.rev,
                "commit": getattr(repo.fs, "rev", None),
                "params": _text(repo, prefix, PARAMS_FILE),
                "metrics": _metrics(repo, prefix),
                "studies": _studies(repo, prefix, outputs),
            }
    except StudyError as error:
        where = error.where.replace("the repository", shown_address(url), 1)
        raise StudyError(where=where, found=error.found, expected=error.expected, do=error.do) from error
    except (DvcException, OSError, ValueError) as error:
        if _is_of_memory(error):
            raise MemoryError from error  # of this process, which has little
        raise environment_error(error, shown_address(url)) or unreadable(error, url, rev) from error


def _is_of_memory(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, MemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


def _refuse_programs(repo: Repo, where: str, work: str | None) -> None:
    """Refuse what the committed configuration must not choose; files that its author did not write may be chosen."""
    # The options of a working tree count at its revisions too, see `opened_repo`.
    configs = [repo.config] if work is None else [repo.config, Config(os.path.join(work, ".dvc"))]
    tree = os.path.realpath(repo.scm.root_dir)
    remotes = [found for config in configs for found in config.load_one("repo").get("remote", {}).items()]
    for name, options in remotes:
        inside = {key: value for key, value in options.items() if _lies_in(str(value), tree, work)}
        named = f"{where}: .dvc/config, remote {name!r}"
        refuse_programs(options, named, files=False)
        refuse_programs(inside, named)


def _lies_in(value: str, tree: str, work: str | None) -> bool:
    """True if a path is one of the files in a Git working tree, which its author wrote."""
    if work is None:
        return False  # nothing of a bare repository, or of a clone under a name of chance, is a file here
    paths = (os.path.realpath(os.path.join(folder, value)) for folder in (os.path.join(work, ".dvc"), work, tree, ""))
    return any(path.startswith(tree + os.sep) and os.path.isfile(path) for path in paths)


def _described(out: Any, repo: Repo) -> dict[str, Any]:
    path, defined_in = (
        repo.fs.relpath(place, repo.root_dir).replace(os.sep, "/") for place in (out.fs_path, out.stage.path)
    )
    item = None
    if out.hash_info:
        item = {"oid": check_oid(str(out.hash_info.value), path), "legacy": out.hash_info.name != "md5"}
    return {
        "path": check_path(path),
        "item": item,
        "remote": out.remote,
        "source": _source(out.stage.deps[0]) if out.stage.is_repo_import else None,
        "n_bytes": out.meta.size if item else None,
        # DVC marks so what it can have from an address again, too.
        "kept": not out.can_push and not out.stage.is_import,
        "defined_in": defined_in,
    }


def _source(dep: Any) -> dict[str, Any]:
    repo, remote = dep.def_repo, dep.def_repo.get("remote")
    return {
        "url": repo["url"],
        "rev": repo.get("rev_lock") or repo.get("rev"),
        "path": dep.def_path,
        "remote": remote if isinstance(remote, str) else None,
        "remote_config": dict(remote) if isinstance(remote, dict) else None,
    }


def _studies(repo: Repo, prefix: str, outputs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Folders below the one asked for that hold outputs and a study's parameters, with these."""
    start = "" if prefix in ("", ".") else f"{prefix}/"
    paths = [str(output["path"]) for output in outputs if str(output["path"]).startswith(start)]
    above = {parent for path in paths for parent in PurePosixPath(path[len(start) :]).parents}
    below = sorted(folder.as_posix() for folder in above if folder.name)[:_MAX_FOLDERS]
    found = {folder: _text(repo, repo.fs.join(prefix, folder) if start else folder, PARAMS_FILE) for folder in below}
    return {folder: text for folder, text in found.items() if text is not None}


def _metrics(repo: Repo, prefix: str) -> str | None:
    """Text of the metrics; none of what is no such text, which only a comparison would miss."""
    try:
        return _text(repo, prefix, METRICS_FILE)
    except ValueError:
        return None


def _text(repo: Repo, prefix: str, name: str) -> str | None:
    path = repo.fs.join(repo.root_dir, prefix, *name.split("/"))
    if not repo.fs.isfile(path):
        return None
    with repo.fs.open(path, "rb") as file:
        text: bytes = file.read(_MAX_TEXT_BYTES + 1)
    if len(text) > _MAX_TEXT_BYTES:
        raise ValueError(f"{name} has more than {_MAX_TEXT_BYTES} bytes")
    return text.decode("utf-8")
