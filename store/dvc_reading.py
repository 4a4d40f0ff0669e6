"""What DVC makes of a repository's files, as JSON values; called in a process with limits, see `confined`."""

from __future__ import annotations

import json
import os
from typing import Any

from dvc.config import Config
from dvc.exceptions import DvcException
from dvc.repo import Repo

from cinecube.store.dvc_index import check_oid, check_path, refuse_programs, unreadable
from cinecube.store.dvc_repo import opened_repo, uncollected
from cinecube.store.errors import environment_error
from cinecube.store.paths import PARAMS_FILE
from cinecube.store.remotes import shown

# DVC's own time grows with the square of a pipeline's stages: 200 take a minute.
_MAX_OUTPUTS = 20_000
_MAX_PARAMS_BYTES = 2**20
# The tip of what a clone was made of, whatever branch it stands on.
_TIP = "refs/remotes/origin/HEAD"


def read_repository(url: str, rev: str | None, folder: str | None) -> dict[str, Any]:
    """Outputs, configuration and parameters of a repository at a revision.

    Parameters
    ----------
    url : str
        As it was asked for.
    rev : str, optional
    folder : str, optional
        The clone, if `url` is no folder.

    Raises
    ------
    StudyError
        If DVC cannot read it, or its configuration names programs.
    """
    try:
        with uncollected(), opened_repo(folder or url, (rev or _TIP) if folder else rev) as (repo, cache, prefix):
            is_bare = folder is not None or os.path.isfile(os.path.join(url, "HEAD"))
            _refuse_programs(repo, shown(url), None if is_bare else os.path.realpath(url).removesuffix(f"/{prefix}"))
            outputs = [_described(out, repo) for out in repo.index.outs if out.use_cache]
            if len(outputs) > _MAX_OUTPUTS:
                raise ValueError(f"{len(outputs)} outputs, more than {_MAX_OUTPUTS}")
            return {
                "outputs": sorted(outputs, key=lambda output: str(output["path"])),
                "config": json.loads(json.dumps(repo.config, default=str)),
                "cache": cache,
                "prefix": prefix,
                "commit": getattr(repo.fs, "rev", None),
                "params": _params(repo, prefix),
            }
    except (DvcException, OSError, ValueError) as error:
        if _is_of_memory(error):
            raise MemoryError from error  # of this process, which has little
        raise environment_error(error, shown(url)) or unreadable(error, url, rev) from error


def _is_of_memory(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, MemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


def _refuse_programs(repo: Repo, where: str, root: str | None) -> None:
    """Refuse what the committed configuration must not choose; files that its author did not write may be chosen."""
    # The options of a working tree count at its revisions too, see `opened_repo`.
    configs = [repo.config] if root is None else [repo.config, Config(os.path.join(root, ".dvc"))]
    remotes = [found for config in configs for found in config.load_one("repo").get("remote", {}).items()]
    for name, options in remotes:
        inside = {key: value for key, value in options.items() if _lies_in(str(value), root)}
        named = f"{where}: .dvc/config, remote {name!r}"
        refuse_programs(options, named, files=False)
        refuse_programs(inside, named)


def _lies_in(value: str, root: str | None) -> bool:
    """Whether a path is one of the repository's own files, which its author wrote."""
    if root is None:
        return False  # nothing of a bare repository, or of a clone under a name of chance, is a file here
    paths = (os.path.realpath(os.path.join(root, folder, value)) for folder in (".dvc", ""))
    return any(path.startswith(root + os.sep) and os.path.isfile(path) for path in paths)


def _described(out: Any, repo: Repo) -> dict[str, Any]:
    path, defined_in = (
        repo.fs.relpath(place, repo.root_dir).replace(os.sep, "/") for place in (out.fs_path, out.stage.path)
    )
    value = str(out.hash_info.value) if out.hash_info else None
    return {
        "path": check_path(path),
        "oid": None if value is None else check_oid(value, path),
        "legacy": bool(out.hash_info) and out.hash_info.name != "md5",
        "remote": out.remote,
        "source": _source(out.stage.deps[0]) if out.stage.is_repo_import else None,
        "size": out.meta.size,
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


def _params(repo: Repo, prefix: str) -> str | None:
    path = repo.fs.join(repo.root_dir, prefix, PARAMS_FILE)
    if not repo.fs.isfile(path):
        return None
    with repo.fs.open(path, "rb") as file:
        text: bytes = file.read(_MAX_PARAMS_BYTES + 1)
    if len(text) > _MAX_PARAMS_BYTES:
        raise ValueError(f"{PARAMS_FILE} has more than {_MAX_PARAMS_BYTES} bytes")
    return text.decode("utf-8")
