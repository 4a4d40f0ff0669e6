"""Looking at cubes: `ls`, `show`, `why`, `verify`, `export`."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cinecube.cli import completing
from cinecube.cli.common import (
    echo,
    echo_json,
    json_option,
    painted,
    refuse_no_folder,
    remark,
    state_painted,
    study_at,
    study_option,
)
from cinecube.cli.folding import Table, echo_folded
from cinecube.cli.progress import progress_bar
from cinecube.wording import size_text

if TYPE_CHECKING:
    import xarray as xr

    from cinecube.store.verify.repair import Verified

# Whether it exists is for the store to say, in its own words.
_path = click.Path(path_type=Path)


@click.command()
@click.argument("repo", required=False)
@click.option("--rev", help="A branch, tag or commit of REPO, a Git repository with DVC in it.")
@json_option
@study_option
def ls(repo: str | None, rev: str | None, as_json: bool, root: Path) -> None:
    """List the cubes of a study, folder or Git repository.

    REPO is a folder (the study's by default), a bare repository or a Git URL; `REPO#FOLDER` names a folder of it, where
    it holds several studies. Reads labels and sizes only, of a repository from its DVC remote. Prints, model by model,
    film or kind, layers, dims, rows, size and place of every cube, and which layers `cinecube pull` brought of cubes
    that are not in the folder. Exit 1 where there is none.

    \b
    Example:
      cinecube ls https://example.org/movie10.git --rev v1.2 --json
      cinecube ls git@example.org:lab/everything.git#movie10
    """
    from cinecube.store.base.errors import StudyError
    from cinecube.store.base.paths import is_of_study
    from cinecube.store.dvc.dvc_index import open_index
    from cinecube.store.dvc.dvc_repo import is_repository, split_address
    from cinecube.store.open.listing import OF_ALL, list_folder, list_pulled, list_revision, merged

    skipped: list[StudyError] = []
    place, inside = split_address(repo or "")
    folder = root / place
    repo = repo if inside else place or None
    if rev is not None or (repo is not None and is_repository(repo)):
        rows = list_revision(open_index(repo or root, rev), skipped.append)
    else:
        pulled = list_pulled(root, folder, skipped.append)
        rows = pulled if pulled and not folder.exists() else list_folder(folder, skipped.append) + pulled
    if as_json:
        echo_json(rows)
    told = merged(skipped)
    for error in told if rows else told[1:]:
        echo(f"skipped: {error}", err=True)
    if not rows:
        do = "bring them by `cinecube pull`, or make them with `dvc repro`"
        if not is_of_study(folder):
            do = "name the folder of a study, or of cubes: this is none"
        nothing = StudyError(where=str(repo or folder), found="no cube", expected="one at least", do=do)
        raise told[0] if told else nothing
    if as_json:
        return
    cells = [_cells(row) for row in rows]
    table = Table(cells, (0, 0, 10), right=2, start="  ")
    named = not table.fits and repo is None  # commands take the study's own cubes by their names
    if named:
        cells = [(*own[:-1], _pulled_text(row).strip()) for row, own in zip(rows, cells, strict=True)]
        table = Table(cells, (0, 0, 10), right=2, start="  ")
    for group in sorted({row["group"]: None for row in rows}, key=lambda group: group in OF_ALL):
        echo(painted(group or "others", bold=True))
        for row, own in zip(rows, cells, strict=True):
            if row["group"] == group:
                table.echo(own)
    if named:
        remark("their places are left out here: `cinecube ls --json` has them")


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A cube's part in its group, which is its film or subject, or what it holds; axes, size and place."""
    place = f"{row['path']}{_pulled_text(row)}"
    part = Path(row["path"]).stem if row["kind"] in ("features", "brain") else row["kind"]
    return part, row["axes"], size_text(row["bytes"]) if row["bytes"] is not None else "", place


def _pulled_text(row: Mapping[str, Any]) -> str:
    pulled = row["pulled"]
    return "" if pulled is None else f" (in DVC's cache; layers there: {', '.join(pulled) or 'none'})"


@click.command()
@click.argument("cube", shell_complete=completing.cubes)
@json_option
@study_option
def why(cube: str, as_json: bool, root: Path) -> None:
    """Say whether a cube is what the study asks for, and which fields differ.

    CUBE is MODEL or PAIR (its feature cubes of all films), MODEL/FILM, MODEL/scores, MODEL/predictions, MODEL/weights
    (where `keep_weights` names it), SUBJECT, ceiling, partition, significance, or a path from the study's folder. Reads
    its spec, params.yaml, the films' bytes, and what DVC has recorded. Prints every field of the fingerprint that
    differs, as stored and as asked for. Writes nothing but what DVC said, to .cinecube.

    \b
    Example:
      cinecube why vit
      cinecube why vit/scores
      cinecube why data/features/vit/amber.zarr
    """
    from dataclasses import asdict

    from cinecube.status.pipeline import warn_of_earlier
    from cinecube.status.why import explain_cubes
    from cinecube.store.open.cube_names import find_named

    named = find_named(root, cube)
    found = explain_cubes(study_at(root), root, [named] if isinstance(named, Path) else named)
    warn_of_earlier(root)
    if as_json:
        told = [asdict(one) for one in found]
        echo_json(told[0] if isinstance(named, Path) else told)
        return
    for one in found:
        echo(f"{one.cube}: " + state_painted(one.state) + (f", from {one.source}" if one.source else ""))
        for line in (*one.fields, *one.reasons):
            echo_folded("  ", line)


@click.command()
@click.argument("cube", shell_complete=completing.cubes)
@json_option
@study_option
def show(cube: str, as_json: bool, root: Path) -> None:
    """Show a cube: axes, provenance, licence, statistics.

    CUBE is MODEL or PAIR (its feature cubes of all films), MODEL/FILM, MODEL/scores, MODEL/predictions, MODEL/weights
    (where `keep_weights` names it), SUBJECT, ceiling, partition, significance, or a path from the study's folder. Reads
    the whole cube for its statistics, one layer or block at a time; of one that is not there, the layers that
    `cinecube pull` brought. Of a ceiling it shows the one that scores are divided by. Long lists are cut; --json has
    all.

    \b
    Example:
      cinecube show vit/amber
      cinecube show sub-01
      cinecube show data/features/vit/amber.zarr
    """
    from cinecube.store.open.cube_names import find_named

    named = find_named(root, cube)
    told = [_described(root, path) for path in ([named] if isinstance(named, Path) else named)]
    if as_json:
        echo_json(told[0] if isinstance(named, Path) else told)
        return
    for number, one in enumerate(told):
        if number:
            echo()
        if not isinstance(named, Path):
            echo(painted(one["path"], bold=True))
        _tell_of_cube(one)


def _described(root: Path, cube: Path) -> dict[str, Any]:
    """Description of a cube that `show` prints, as JSON values."""
    from cinecube.store.cube.cubes import data_name

    opened, lacking = _opened(root, cube)
    name, labels = data_name(opened), list(opened.coords)
    if opened.attrs.get("kind") == "ceiling" and (used := _ceiling_in_use(root)) in opened.data_vars:
        name, labels = used, list(opened[used].coords)
    return {
        "path": str(cube),
        "name": name,
        "axes": {str(dim): size for dim, size in (opened[name].sizes if name else opened.sizes).items()},
        "coordinates": {
            str(label): {"dims": list(map(str, opened[label].dims)), "values": _ends(opened[label])} for label in labels
        },
        "attributes": {key: _loads(value) for key, value in opened.attrs.items()},
        "statistics": _statistics(opened, name, str(cube), lacking) if name else [],
        "lacking": list(lacking),
    }


def _ceiling_in_use(root: Path) -> str:
    """The ceiling of several that the study divides scores by; none where there is no study that can be read."""
    from cinecube.store.base.errors import StudyError
    from cinecube.store.params.document import load_study

    with contextlib.suppress(StudyError):
        return load_study(root).ceiling.use
    return "none"


def _tell_of_cube(told: Mapping[str, Any]) -> None:
    echo(f"{told['name']} ({', '.join(f'{dim}: {size}' for dim, size in told['axes'].items())})")
    for label, coordinate in told["coordinates"].items():
        echo(f"  {label:10}({', '.join(coordinate['dims'])})  {coordinate['values']}")
    for key, value in _without_repeats(told["attributes"], told["name"]).items():
        _tell_attribute(key, value)
    statistics = told["statistics"]
    labels = [" ".join(row["at"]) for row in statistics]
    width = max(map(len, labels), default=0)
    for label, row in zip(labels, statistics, strict=True):
        echo(
            f"  {label:{width}}  mean {row['mean']:9.4g}  sd {row['sd']:8.4g}"
            f"  from {row['min']:.4g} to {row['max']:.4g}"
        )
    if told["lacking"]:
        echo(f"not here: {', '.join(told['lacking'])}; `cinecube pull` brings them")


def _opened(root: Path, cube: Path) -> tuple[xr.Dataset, Sequence[str]]:
    """A cube of the study, and the layers of it that were not pulled, where it is in DVC's cache only."""
    from cinecube.store.cube.cubes import open_cube
    from cinecube.store.dvc.pulling import PulledCubes

    part = None if (root / cube).exists() else PulledCubes(root).part(root / cube, str(cube))
    return (part.cube, part.lacking) if part is not None else (open_cube(root / cube, where=str(cube)), ())


# Settings of one ceiling, which are none of the other's.
_OF_CEILING = {"repeats": ("compat", "curve"), "cross_subject": ("block_rows",)}


def _without_repeats(attributes: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Attributes without what another of them says, and without settings of the ceiling that is not shown."""
    place, cleaning = attributes.get("place"), attributes.get("cleaning")
    kept = {key: value for key, value in attributes.items() if key != "use"}  # earlier: what params.yaml said then
    if isinstance(place, dict):
        kept = {key: value for key, value in kept.items() if key not in place or value != place[key] or key == "kind"}
    spec = kept.get("spec")
    if isinstance(spec, dict):
        spec = {key: value for key, value in spec.items() if not (key == "brain" and value == cleaning)}
        if isinstance(ceiling := spec.get("ceiling"), dict):
            foreign = _OF_CEILING.get(name, ())
            spec["ceiling"] = {key: value for key, value in ceiling.items() if key not in foreign}
        kept["spec"] = spec
    return kept


def _tell_attribute(key: str, value: Any) -> None:
    """A line for a value and for an object of digests, or a line for each field of another object."""
    if not isinstance(value, dict) or all(isinstance(one, str) and _DIGEST.fullmatch(one) for one in value.values()):
        echo_folded(f"{key}: ", _brief(value))
        return
    echo(f"{key}:")
    for field, inner in value.items():
        echo_folded(f"  {field}: ", _brief(inner))


_DIGEST = re.compile(r"(?:\w+:)?[0-9a-f]{32,}")
_LONG, _MANY, _FEW = 200, 8, 3


def _brief(value: Any, inner: bool = False) -> str:
    """A value as JSON; of what is long the first few, and how many more there are."""
    from cinecube.store.base.errors import some_of

    if isinstance(value, str):
        return (
            json.dumps(f"{value[:12]}…" if _DIGEST.fullmatch(value) else value, ensure_ascii=False) if inner else value
        )
    if isinstance(value, list) and value:
        parts, (left, right) = [_brief(one, inner=True) for one in value], "[]"
    elif isinstance(value, dict) and value:
        parts, (left, right) = [f"{json.dumps(key)}: {_brief(one, inner=True)}" for key, one in value.items()], "{}"
    else:
        return json.dumps(value)
    whole = ", ".join(parts)
    is_short = len(parts) <= _MANY and len(whole) <= _LONG
    return left + (whole if is_short else some_of(parts, _FEW)) + right


def _loads(value: Any) -> Any:
    from cinecube.store.base.bounded import parse_json

    if isinstance(value, str) and value[:1] in "{[":
        with contextlib.suppress(ValueError):
            return parse_json(value)
    return value


def _ends(values: xr.DataArray) -> str:
    """First and last value, or the range of numbers that do not rise; targets outside of all parcels have no name."""
    import numpy as np

    flat = values.values.ravel()
    if flat.dtype.kind in "iuf" and (flat[1:] < flat[:-1]).any():  # the ends of places would read as their range
        return f"from {np.nanmin(flat)} to {np.nanmax(flat)}"
    named = flat[flat != ""] if flat.dtype.kind in "UO" else flat
    if not named.size:
        return "all empty"
    lacking = "" if named.size == flat.size else f"; {flat.size - named.size} of {flat.size} without"
    return (f"{named[0]} … {named[-1]}" if named.size > 1 else str(named[0])) + lacking


def _statistics(cube: xr.Dataset, name: str, where: str, lacking: Sequence[str]) -> list[dict[str, Any]]:
    """Mean, spread and range of all values that share their labels beside those of rows, dims and targets."""
    import itertools

    import numpy as np

    from cinecube.store.cube.cubes import read_values

    over = [str(dim) for dim in cube[name].dims if dim not in ("time", "dim", "target")]
    rows = []
    for at in itertools.product(*(range(cube.sizes[dim]) for dim in over)):
        label = " ".join(str(cube[dim].values[i]) for dim, i in zip(over, at, strict=True))
        if label in lacking:
            continue
        values = read_values(cube[name].isel(dict(zip(over, at, strict=True))), f"{where} {name} {label}".strip())
        values = values[np.isfinite(values)]
        if values.size:
            rows.append(
                {
                    "at": [str(cube[dim].values[i]) for dim, i in zip(over, at, strict=True)],
                    "mean": float(values.mean(dtype=float)),
                    "sd": float(values.std(dtype=float)),
                    "min": float(values.min()),
                    "max": float(values.max()),
                }
            )
    return rows


@click.command()
@click.argument("cubes", nargs=-1, shell_complete=completing.cubes)
@click.option("--repair", is_flag=True, help="Fetch broken files of cubes that DVC tracks again.")
@json_option
@study_option
def verify(cubes: tuple[str, ...], repair: bool, as_json: bool, root: Path) -> None:
    """Check cubes byte by byte: labels, shards, NaN, fingerprints. Exit 1 if one is wrong.

    CUBES are names, as of `cinecube why`, or paths of cubes and folders; all of the study's by default. Reads them in
    full, and compares those that DVC tracks with what it recorded. Writes nothing; with --repair it puts files that are
    broken or missing in place again, from DVC's cache, the remote, or the repository that a cube was imported from.
    Cubes that DVC has recorded and that are not here at all are named, and are no damage: `cinecube pull` brings those
    that were published. docs/reference/cube-format.md lists the checks.

    \b
    Example:
      cinecube verify vit sub-01
      cinecube verify data/features --repair
    """
    from cinecube.store.base.errors import StudyError
    from cinecube.store.open.cube_names import find_named
    from cinecube.store.params.document import refuse_no_study
    from cinecube.store.verify.find_cubes import find_cubes
    from cinecube.store.verify.repair import verify_all
    from cinecube.store.verify.tracked import Records

    if not cubes and not (root / ".dvc").is_dir():
        refuse_no_study(root)
    named = [find_named(root, cube) for cube in cubes]
    paths = [path for found in named for path in ([found] if isinstance(found, Path) else found)]
    folders, records = [root / path for path in paths] or [root], Records()
    # What is recorded need not be here.
    there = [path for path in folders if path.exists() or not records.absent(path)]
    whole = list(dict.fromkeys(cube for path in there for cube in find_cubes(path)))
    if not whole and not any(records.absent(path) for path in folders):
        raise StudyError(
            where=str(folders[0]),
            found="no cube",
            expected="a cube or a folder of cubes",
            do="correct the path, fetch cubes with `dvc pull`, or make them with `dvc repro`",
        )
    with progress_bar("verifying", "cubes") as progress:
        found = verify_all(whole, folders, repair=repair, progress=progress)
    if as_json:
        told = {"cubes": len(found.cubes), "wrong": found.wrong, "repaired": found.repaired, "absent": found.absent}
        told["kept_back"] = found.kept_back
        echo_json(told)
    for line in found.notes:
        echo(line, err=True)
    if not as_json:
        _tell_of(found)
    if found.wrong:
        raise SystemExit(1)


def _tell_of(found: Verified) -> None:
    from cinecube.store.base.errors import some_of

    for cube, files in found.repaired.items():
        for file in files:
            echo(f"repaired {cube}/{file}")
    for lines in found.wrong.values():
        for line in lines:
            echo(painted(line, "red"), err=True)
    n_cubes, n_wrong = len(found.cubes), len(found.wrong)
    n_repaired = len(found.repaired.keys() - found.wrong.keys())
    noun = "cube" if n_cubes == 1 else "cubes"
    repaired = f", {n_repaired} of these repaired" if n_repaired else ""
    n_foreign = len(found.foreign)
    others = f", {n_foreign} saved by another program" if n_foreign else ""
    echo(f"{n_cubes} {noun}, {n_cubes - n_wrong} whole{repaired}, {n_wrong - n_foreign} damaged{others}")
    absent = [cube for cube in found.absent if cube not in found.kept_back]
    if absent:
        echo(f"recorded by DVC and not here: {some_of(absent, 3)}; `cinecube pull` brings them", err=True)
    if found.kept_back:
        echo(f"not published by their owner, and not here: {some_of(found.kept_back, 3)}", err=True)


@click.command()
@click.argument(
    "kind", type=click.Choice(["score", "normalised", "depth", "ceiling", "drop", "q", "group_t", "group_q"])
)
@click.argument("to", type=_path)
@click.option("--model", shell_complete=completing.scored, help="A model, a stream of one, or a residual pair.")
@click.option(
    "--layer", help="A layer's label or block number; by default each target's own, chosen on the training films."
)
@click.option(
    "--subject",
    default="mean",
    show_default=True,
    shell_complete=completing.subjects,
    help="One subject, or the mean of all.",
)
@click.option("--atlas", type=_path, help="Paint parcels by this atlas. [default: brain.atlas]")
@click.option(
    "--reference",
    type=_path,
    help="For .dscalar.nii of older cubes: a CIFTI file with the same rows.",
)
@study_option
def export(
    kind: str,
    to: Path,
    model: str | None,
    layer: str | None,
    subject: str,
    atlas: Path | None,
    reference: Path | None,
    root: Path,
) -> None:
    """Write a map for other viewers: NIfTI, GIFTI, CIFTI or CSV, by the suffix of TO.

    Reads the cubes of scores, ceilings or significance. KIND is score, normalised (by the ceiling), depth (of the
    preferred layer), ceiling, drop (percent that a removal costs), q (false discovery rate of a subject's scores),
    group_t or group_q (subjects as a random effect). TO ends in .nii.gz, .func.gii, .shape.gii, .dscalar.nii or .csv;
    GIFTI makes a file per hemisphere.

    \b
    Example:
      cinecube export score vit.nii.gz --model vit --subject sub-01
    """
    from cinecube.analysis.maps.export import export_map
    from cinecube.analysis.maps.map_values import map_values

    refuse_no_folder(to)
    study = study_at(root)
    values, attrs = map_values(study, root, kind, model, layer, subject)  # type: ignore[arg-type]
    if atlas is None and study.brain.atlas and attrs.get("targets") == "parcels" and to.suffix != ".csv":
        atlas = root / study.brain.atlas
    for path in export_map(values, attrs, to, atlas=atlas, reference=reference):
        echo(str(path))
