"""Bringing feature cubes of another study into this one, pinned by hash."""

from __future__ import annotations

import json
import logging
import os
import posixpath
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xarray as xr
from yaml import YAMLError

from cinecube.store.base.atomic import remove, write_text
from cinecube.store.base.bounded import parse_yaml, read_text
from cinecube.store.base.errors import StudyError, environment_error, first_line
from cinecube.store.base.labels import check_name, one_of, suggestion
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer
from cinecube.store.cube.heads import read_head
from cinecube.store.dvc.dvc_index import DvcIndex, Listing, open_index
from cinecube.store.dvc.dvc_repo import is_bare, split_address
from cinecube.store.dvc.remotes import shown_address
from cinecube.store.open.revision import RevisionCubes, cubes_of
from cinecube.store.params.asked import unlike
from cinecube.store.params.document import PARAMS_FILE, Imported, Study, load_study
from cinecube.store.params.editing import edit_params, list_imported, undo_import

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """Cubes to import.

    Attributes
    ----------
    repo : str
        A folder with DVC in it, a bare Git repository, or the URL of a Git repository.
    model : str
    films : tuple of str, optional
        All films of this study without it.
    rev : str, optional
        A branch, tag or commit of it.
    remote : str, optional
        A remote of that repository, instead of its default one.
    """

    repo: str
    model: str
    films: tuple[str, ...] | None = None
    rev: str | None = None
    remote: str | None = None

    @property
    def address(self) -> str:
        """The repository as DVC and params.yaml keep it; a folder's by its whole path."""
        return os.path.abspath(self.repo) if os.path.isdir(self.repo) else self.repo


def import_cubes(
    root: Path, wanted: Wanted, download: bool = True, tell: Callable[[str, int, int], None] | None = None
) -> list[str]:
    """Import a model's feature cubes by `dvc import`, and list it under `imported`; all of it or nothing.

    A model that is listed already gets the films that it lacks, from the same repository; at its revision and remote,
    unless others are asked for. Films that it has stay as they are.

    Parameters
    ----------
    root : Path
        The study's folder.
    wanted : Wanted
    download : bool
        Whether bytes are fetched now; otherwise `cinecube pull` brings single layers, and `dvc pull` all.
    tell : callable, optional
        Told `(film, films done, films in all)`.

    Returns
    -------
    list of str
        Paths of the `.dvc` files that were made, from the study's folder.

    Raises
    ------
    StudyError
        If the repository has no such cubes, they are not what `models` asks for or lack a segment, something is in
        their place, the model came from elsewhere or films of it have changed there, another process imports this
        model, or DVC fails.
    """
    paths = StudyPaths(root)
    load_study(root)  # a folder that is no study gets no lock
    with one_writer(paths, _folder(paths, check_name(wanted.model, "model"))):
        _undo_stopped(paths, wanted.model)
        return _import_cubes(root, wanted, download, tell)


def _folder(paths: StudyPaths, model: str) -> Path:
    return paths.data / "features" / model


def _import_cubes(
    root: Path, wanted: Wanted, download: bool, tell: Callable[[str, int, int], None] | None
) -> list[str]:
    study, paths = load_study(root), StudyPaths(root)
    films = [film for film in wanted.films or study.films if study.film(film)]
    _refuse_itself(root, split_address(wanted.repo)[0])
    listed = study.import_of(wanted.model)
    here: list[str] = []
    if listed is not None:
        _refuse_elsewhere(listed, wanted)
        here = [film for film in study.films if _note_of_dvc(paths.features(wanted.model, film)).is_file()]
        wanted = _as_before(listed, wanted, [paths.features(wanted.model, film) for film in here])
    # `dvc import` takes what is committed, in a folder too.
    rev = wanted.rev or ("HEAD" if os.path.isdir(wanted.repo) and not is_bare(wanted.repo) else None)
    index = open_index(wanted.repo, rev, remote=wanted.remote).study()
    _refuse_itself(root, index.url)
    if index.rev != rev:
        wanted = replace(wanted, rev=index.rev)  # the only branch there: DVC follows none by itself
    films = [film for film in films if film not in here]
    _refuse_taken(study, paths, wanted.model, films)
    sizes = {cube.path: cube.n_bytes for cube in cubes_of(index)}
    _refuse_changed(paths, index, wanted, here, sizes)
    if listed is not None and not films:
        return []
    _check(study, paths, index, wanted.model, films, sizes)
    made = []
    entry = {"model": wanted.model, "source": shown_address(wanted.address), "rev": wanted.rev}
    cubes = [paths.features(wanted.model, film) for film in films]
    with one_writer(paths, *cubes), _undone_unless_finished(paths, films, entry, is_listed=listed is not None):
        # Last, so that a killed import leaves the study as it was; but DVC refuses an import in the place of an output.
        comes_first = wanted.model in study.compute.models
        if comes_first:
            edit_params(root, lambda params: list_imported(params, entry))
        for number, film in enumerate(films):
            if tell:
                tell(film, number, len(films))
            path = paths.relative(paths.features(wanted.model, film))
            pinned = None if download else (index.folder(path), sizes[path])
            source = _Source(*_place_for_dvc(wanted, index, path), index.commit)
            _dvc_import(root, wanted, source, path, pinned)
            made.append(f"{path}.dvc")
        if listed is None and not comes_first:
            edit_params(root, lambda params: list_imported(params, entry))
    return made


def _refuse_itself(root: Path, repo: str) -> None:
    """Refuse the study that imports, under whatever name."""
    place = repo.removeprefix("file://")
    if os.path.isdir(place) and any(os.path.samefile(place, own) for own in (root, root / ".git") if own.exists()):
        raise StudyError(
            where=shown_address(repo),
            found="this study itself",
            expected="another study, whose cubes this one lacks",
            do="name that one: this study's own cubes are here already",
        )


def _refuse_elsewhere(listed: Imported, wanted: Wanted) -> None:
    """Refuse further films of a model from another repository than its own: a model is of one study."""
    own, asked = listed.source, shown_address(wanted.address)
    if own != asked and not (os.path.isdir(own) and os.path.isdir(asked) and os.path.samefile(own, asked)):
        raise StudyError(
            where=f"{PARAMS_FILE}: imported",
            found=f"{listed.model} already, from {own}",
            expected="a model that is not imported yet, or further films of one from where it came",
            do=f"name {own}, or remove {listed.model} from `imported` and its cubes from data/features",
        )


def _note_of_dvc(cube: Path) -> Path:
    """The file in which DVC keeps where an imported cube comes from."""
    return cube.with_name(f"{cube.name}.dvc")


def _as_before(listed: Imported, wanted: Wanted, cubes: Sequence[Path]) -> Wanted:
    """The revision and remote of the cubes that are here, where no others are asked for."""
    known = _recorded(cubes[0])["deps"][0]["repo"] if cubes else {"rev": listed.rev}
    return replace(wanted, rev=wanted.rev or known.get("rev"), remote=wanted.remote or known.get("remote"))


def _recorded(cube: Path) -> dict[str, Any]:
    """DVC's record of an import: `deps` with its repository, `outs` with its hash.

    Raises
    ------
    StudyError
        If it keeps no import there.
    """
    note = _note_of_dvc(cube)
    try:
        found = parse_yaml(read_text(note))
        return {"deps": [{"repo": dict(found["deps"][0]["repo"])}], "outs": [dict(found["outs"][0])]}
    except (ValueError, YAMLError, LookupError, TypeError) as error:
        raise StudyError(
            where=str(note),
            found="no import of DVC's",
            expected="one, as other films of the model are imported",
            do="remove the model from `imported`, or the film's cube and that file, and import it again",
        ) from error


def _refuse_changed(
    paths: StudyPaths, index: DvcIndex, wanted: Wanted, here: Sequence[str], known: Collection[str]
) -> None:
    """Refuse a revision that has other cubes of the films that are here: all films of a model are made alike."""
    cubes = RevisionCubes(index)
    for film in here:
        path = paths.features(wanted.model, film)
        place = paths.relative(path)
        if place not in known:
            continue
        if path.exists():
            with cubes.open(Path(place)) as cube:
                is_same = cube.attrs.get("fingerprint") == read_head(path, where=place).attrs.get("fingerprint")
        else:
            own = _recorded(path)["outs"][0].get("md5")
            tree = _tree(index.folder(place))
            is_same = own is None or tree is None or own == tree.hash_info.value
        if not is_same:
            rev = f" --rev {wanted.rev}" if wanted.rev else ""
            raise StudyError(
                where=place,
                found=f"another cube than {index.where} has",
                expected="the same: all films of a model are made alike",
                do=f"bring what is here up to date first: `dvc update data/features/{wanted.model}/*.dvc{rev}`",
            )


def _refuse_taken(study: Study, paths: StudyPaths, model: str, films: Sequence[str]) -> None:
    for film in films:
        path = paths.features(model, film)
        for taken in (path, _note_of_dvc(path)):
            if not taken.exists():
                continue
            where = paths.relative(taken)
            if taken == path and model in study.compute.models and film in study.compute.films:
                raise StudyError(
                    where=where,
                    found=f"the cube that the stage features@{model}-{film} of this study makes",
                    expected="a model that is not computed here",
                    do=f"keep it, or take {model} out of compute.models first",
                )
            raise StudyError(
                where=where,
                found="something in its place",
                expected="nothing: a cube is never overwritten",
                do=f"keep it, or remove it with `rm -r {where}`",
            )


def _check(
    study: Study, paths: StudyPaths, index: DvcIndex, model: str, films: Sequence[str], known: Collection[str]
) -> None:
    """Refuse what DVC would import and this study could not use; reads labels from the remote."""
    wanted = {film: paths.relative(paths.features(model, film)) for film in films}
    lacking = [film for film, path in wanted.items() if path not in known]
    if lacking:
        raise _no_such_cubes(index, known, model, lacking)
    cubes, asked = RevisionCubes(index), study.models.get(model)
    for film, path in wanted.items():
        with cubes.open(Path(path)) as cube:
            _refuse_unusable(cube, study.film(film), f"{index.where}: {path}")
            lines = unlike(asked, json.loads(cube.attrs.get("spec", "{}")), paths.root) if asked else []
        if lines:
            raise StudyError(
                where=f"{index.where}: {path}",
                found=f"other parameters than models.{model} asks for ({'; '.join(lines)})",
                expected="the same",
                do=f"change models.{model}, or remove it to take the cubes as they are",
            )


def _refuse_unusable(cube: xr.Dataset, segments: Sequence[str], where: str) -> None:
    if "features" not in cube:
        raise StudyError(where=where, found="another kind of cube", expected="features", do="name another model")
    present = {str(segment) for segment in cube["segment"].values}
    lacking = [segment for segment in segments if segment not in present]
    if lacking:
        raise StudyError(
            where=where,
            found=f"no rows of segment {lacking[0]}",
            expected="every segment that `films` of params.yaml names",
            do="take it out of `films`, or import another revision",
        )


def _no_such_cubes(index: DvcIndex, known: Collection[str], model: str, lacking: Sequence[str]) -> StudyError:
    places = [path.split("/") for path in known if path.startswith("data/features/") and path.count("/") == 3]
    films = sorted(Path(film).stem for _, _, name, film in places if name == model)
    models = sorted({name for _, _, name, _ in places})
    owner = max((name for name in models if model.startswith(f"{name}.")), key=len, default=None)
    if films:
        return StudyError(
            where=index.where,
            found=f"no cube of {model} {lacking[0]}",
            expected=one_of(films, lacking[0]),
            do=suggestion(lacking[0], films) or "import films that it has by `films=`",
        )
    return StudyError(
        where=index.where,
        found=f"no feature cubes of {model}",
        expected=one_of(models, model) if models else "one of its models, but it has none",
        do=f"streams come together: ask for {owner}"
        if owner
        else suggestion(model, models) or "see `cinecube ls` of it",
    )


@contextmanager
def _undone_unless_finished(
    paths: StudyPaths, films: Sequence[str], entry: dict[str, Any], is_listed: bool
) -> Iterator[None]:
    """Put everything back as it was if something fails; a note says how, should this process be killed.

    Where the model was listed before, it stays so.
    """
    note = paths.imports / f"{entry['model']}.json"
    before = (paths.root / PARAMS_FILE).read_text(encoding="utf-8")
    done = {"entry": entry, "films": list(films), "before": before, "is_listed": is_listed}
    write_text(note, json.dumps(done, indent=1) + "\n")
    try:
        yield
    except BaseException:
        _undo(paths, note)
        raise
    note.unlink()


def undo_stopped_import(root: Path, model: str) -> None:
    """Undo an import of a model that was killed, if there was one.

    Parameters
    ----------
    root : Path
        The study's folder.
    model : str

    Raises
    ------
    StudyError
        If `params.yaml` cannot be edited, the note of what was done cannot be read, or another process imports it.
    """
    paths = StudyPaths(root)
    with one_writer(paths, _folder(paths, model)):
        _undo_stopped(paths, model)


def _undo_stopped(paths: StudyPaths, model: str) -> None:
    note = paths.imports / f"{model}.json"
    if note.is_file():
        _undo(paths, note)
        _log.info("%s: an import that was stopped is undone", paths.relative(_folder(paths, model)))


def _undo(paths: StudyPaths, note: Path) -> None:
    """Remove what an import has made, where nothing stood before it, and its line in `params.yaml`."""
    try:
        done = json.loads(note.read_text(encoding="utf-8"))
        entry, films, before = dict(done["entry"]), list(done["films"]), str(done["before"])
        model = str(entry["model"])
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(
            where=paths.relative(note),
            found="a damaged note of an import that was stopped",
            expected="what it has done",
            do="correct `imported` of params.yaml and data/features yourself, and remove the note",
        ) from error
    for film in films:
        path = paths.features(model, film)
        remove(path)
        remove(_note_of_dvc(path))
    if not done.get("is_listed"):
        undo_import(paths.root, before, entry)
    note.unlink()


@dataclass(frozen=True)
class _Source:
    """Source of a cube for DVC: a repository, a path in it, a commit."""

    address: str
    path: str
    commit: str | None


def _place_for_dvc(wanted: Wanted, index: DvcIndex, path: str) -> tuple[str, str]:
    """The address of a repository as DVC takes it, and the path of a cube in it."""
    repo, _ = split_address(wanted.address)
    if not index.top:
        return repo, posixpath.normpath(posixpath.join(index.prefix, path))
    if os.path.isdir(repo) and not is_bare(repo):  # DVC looks for its folder at the top of a Git repository, and below
        repo = os.path.realpath(repo).removesuffix(f"/{index.folder_in_git}")
    return repo, posixpath.join(index.folder_in_git, path)


def _dvc_import(
    root: Path, wanted: Wanted, source: _Source, out: str, pinned: tuple[Listing, int | None] | None
) -> None:
    """Run `dvc import` of the commit that was checked; with the list of its files and their size nothing is fetched."""
    from dvc.logger import set_loggers_level
    from dvc.repo import Repo

    (root / out).parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"rev": source.commit, "remote": wanted.remote, "no_download": pinned is not None}
    try:
        # DVC takes paths from the current folder; its advice is on Git, and is given once for all films.
        with set_loggers_level(logging.WARNING), chdir(root), Repo(".") as repo:
            _drop_torn_rwlock(repo)
            stage = repo.imp(source.address, source.path, out=out, **options)
            _follow(stage, wanted.rev)
            if pinned is not None:
                _pin(stage, *pinned)
    except Exception as error:  # every filesystem has its own classes for a lost connection
        raise environment_error(error, f"dvc import {source.path}") or StudyError(
            where=f"dvc import {shown_address(wanted.repo)} {source.path}",
            found=shown_address(first_line(error)),
            expected="the cube",
            do="try again, or check the repository's remote",
        ) from error


def _follow(stage: Any, rev: str | None) -> None:
    """Let `dvc update` follow the revision that was asked for, not the commit that it was at."""
    (dep,) = stage.deps
    dep.def_repo.pop("rev", None)
    if rev is not None:
        dep.def_repo["rev"] = rev
    stage.md5 = stage.compute_md5()
    stage.dump()


def _drop_torn_rwlock(repo: Any) -> None:
    """Remove what a killed DVC leaves half written, and no DVC reads then: which process uses which path."""
    from dvc.lock import make_lock
    from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK

    folder = Path(repo.tmp_dir)
    hardlinks = repo.config["core"].get("hardlink_lock", False)
    with make_lock(str(folder / RWLOCK_LOCK), tmp_dir=str(folder), hardlink_lock=hardlinks):
        try:
            json.loads((folder / RWLOCK_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        except ValueError:
            (folder / RWLOCK_FILE).unlink()


def _pin(stage: Any, listing: Listing, n_bytes: int | None) -> None:
    """Record the hash of what was not fetched, as an import that fetches does.

    Without it DVC takes the import for new at the next `dvc repro`, and puts the folder into the one that `dvc pull`
    has fetched meanwhile.
    """
    from dvc_data.hashfile.meta import Meta

    tree = _tree(listing)
    if tree is None:
        return
    (out,) = stage.outs
    out.hash_info, out.meta = tree.hash_info, Meta(isdir=True, size=n_bytes, nfiles=len(listing.files))
    stage.md5 = stage.compute_md5()
    stage.dump()


def _tree(listing: Listing) -> Any:
    """The folder as DVC hashes it; None of one that DVC 2 hashed, by other bytes."""
    from dvc_data.hashfile.tree import Tree

    if any(item.legacy for item in listing.files.values()):
        return None
    tree = Tree.from_list([{"md5": item.oid, "relpath": key} for key, item in listing.files.items()], hash_name="md5")
    tree.digest()
    return tree
