"""A small study of every kind of cube, everything that disks, copies and editors do to it, and what readers make of it.

`Lab` holds the study whole, in memory; `injure` changes some of its files; `Lab.examine` reads what was touched and
says whether a number was wrong, `verify` silent, or an error no `StudyError`; then everything is put back.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import yaml

import cinecube as cc
from cinecube.store.base.errors import StudyError
from cinecube.store.base.journal import open_journal, row_blocks
from cinecube.store.cube.cubes import open_cube, refuse_another, write_cube, write_feature_cube
from cinecube.store.cube.schema import Stream, feature_template, provenance, rows_index, string_coordinate
from cinecube.store.open.open_study import OpenStudy
from cinecube.store.open.revision import open_revision
from cinecube.store.verify.repair import verify_all

from .verified import GRID, KINDS, PLACE, track

SEGMENTS = {"amber": ["a01", "a02"], "birch": ["b01", "b02"]}
SUBJECTS = ["sub-01", "sub-02"]
ROWS = (540, 20)  # two chunks a shard
LAYERS = ["embed", "block01", "head"]
STREAMS = {
    "vit": (Stream("vit", LAYERS, [12, 12, 6]),),
    "ast": (Stream("ast", LAYERS, [128, 128, 64]),),  # chunks part the dims too
    "tvlt": (Stream("tvlt.video", LAYERS, [12, 12, 6]), Stream("tvlt.audio", ["embed"], [6])),
}
Values = Mapping[str, np.ndarray]


def make_study(root: Path) -> None:
    """Parameters and cubes: features of three models and two films, and two or one of every other kind."""
    params = {
        "study": "injured",
        "clock": {"tr_s": 1.49, "window_s": 1.49, "max_trim_s": 10},
        "films": SEGMENTS,
        "split": {"train": ["amber"], "test": ["birch"], "gap_s": 0},
        "models": {name: {"extractor": name, "checkpoint": f"data/weights/{name}"} for name in STREAMS},
        "compute": {"models": list(STREAMS), "films": list(SEGMENTS)},
        "brain": {
            "source": "fmriprep",
            "path": "data/scans",
            "subjects": SUBJECTS,
            "space": "MNI",
            "targets": "voxels",
        },
    }
    root.mkdir(parents=True)
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    for model, streams in STREAMS.items():
        for film, segments in SEGMENTS.items():
            _features(root / f"data/features/{model}/{film}.zarr", streams, segments)
    for subject in SUBJECTS:
        attrs = provenance("brain", {"subject": subject}, [], **PLACE, **GRID)
        _vary("brain", root / f"data/brain/{subject}.zarr", attrs, {})
    for model in STREAMS:
        attrs = provenance("scores", {"model": model}, [], **PLACE)
        _vary("scores", root / f"results/scores/{model}.zarr", attrs, {"model": string_coordinate([model])})
    _vary("ceiling", root / "data/ceiling.zarr", provenance("ceiling", {}, [], **PLACE), {})
    attrs = provenance("significance", {}, [], space="MNI", block_rows="{}")
    _vary("significance", root / "results/significance.zarr", attrs, {})
    parts = xr.Dataset(
        {"part_r2": (("set", "part", "target"), np.random.default_rng(9).random((2, 3, 5), np.float32))},
        coords={"set": string_coordinate(["one", "two"]), "part": string_coordinate(["a", "b", "both"])},
        attrs=provenance("partition", {"sets": ["one", "two"]}, ()),
    )
    write_cube(root / "results/partition.zarr", parts)


def _random(place: Path) -> np.random.Generator:
    return np.random.default_rng(list("/".join(place.parts[-3:]).encode()))


def _features(path: Path, streams: tuple[Stream, ...], segments: list[str]) -> None:
    rows = rows_index({name: np.arange(n) * 1.49 for name, n in zip(segments, ROWS, strict=True)})
    spec = {"dtype": "float32", "layers": LAYERS, "segments": segments, "weights": streams[0].name}
    template = feature_template(rows, 1.49, streams, "float32", provenance("features", spec, [], licence="MIT"))
    width, random = template["width"].values, _random(path)
    write_feature_cube(path, template, lambda m, k: random.standard_normal((len(rows), width[m, k])).astype(np.float32))


def _vary(kind: str, path: Path, attrs: dict[str, Any], labels: Mapping[str, Any]) -> None:
    """A cube of `verified.KINDS` with numbers of its own."""
    first = path.with_name("first.zarr")
    cube = open_cube(KINDS[kind](first)).load().drop_encoding()
    shutil.rmtree(first)
    random = _random(path)
    for name, array in cube.data_vars.items():
        if array.dtype.kind == "f":
            cube[name] = array.copy(data=random.standard_normal(array.shape).astype(np.float32))
    cube.attrs = attrs
    write_cube(path, cube.assign_coords(labels))


def cube_paths(root: Path) -> list[str]:
    """The cubes under a folder, from there, sorted."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.zarr"))


def values_of(cube: xr.Dataset) -> dict[str, np.ndarray]:
    """All labels and values of a cube, and what analyses use of its attributes."""
    attrs = {name: np.array(str(value)) for name, value in cube.attrs.items()}
    return {str(name): variable.values for name, variable in cube.variables.items()} | attrs


def parts_of(cube: xr.Dataset) -> Iterator[tuple[str, np.ndarray]]:
    """A cube's main array in parts: rows of one layer, a list of targets, through Dask."""
    if "features" in cube:
        for k in range(cube.sizes["layer"]):
            yield f"layer {k}", cube["features"].isel(model=0, layer=k, time=slice(0, 512)).values
    if "bold" in cube:
        yield "targets", cube["bold"].isel(target=[0, 2, 3]).values
        yield "dask", cube["bold"].chunk({"target": 3}).values


def read_named(study: OpenStudy, place: str) -> xr.Dataset:
    """A cube by its name, as analyses ask for it."""
    path = Path(place)
    if path.parts[:2] == ("data", "features"):
        features = study.features(path.parts[2], path.stem)
        return features.to_dataset(name="features").assign_attrs(features.attrs)
    if path.parts[:2] == ("data", "brain"):
        return study.brain(path.stem)
    if path.parts[:2] == ("results", "scores"):
        return study.scores(path.stem)
    cube = study.cubes.open(study.paths.root / place if study.paths.root.parts else path)
    refuse_another(cube, place, {"ceiling": "cross_subject", "significance": "q", "partition": "part_r2"}[path.stem])
    return cube


@dataclass
class Injury:
    """What was done.

    Attributes
    ----------
    what : str
    cubes : set of str
        Those that are read to see what became of it.
    in_tree : bool
        Whether `verify` looks where it was done.
    """

    what: str
    cubes: set[str]
    in_tree: bool = True


@dataclass
class Found:
    """What readers made of injuries."""

    wrong: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)
    n: int = 0


class Lab:
    """A whole study, its files and its numbers.

    Parameters
    ----------
    root : Path
        Of the study.
    remote : Path, optional
        Where DVC keeps its cubes; without it DVC knows nothing of them.
    """

    def __init__(self, root: Path, remote: Path | None = None) -> None:
        self.root, self.remote = root, remote
        make_study(root)
        self.cubes = cube_paths(root)
        if remote is not None:
            track(root, remote)
        study = cc.open(root)
        self.whole = {place: values_of(read_named(study, place)) for place in self.cubes}
        self.parts = {place: dict(parts_of(read_named(study, place))) for place in self.cubes}
        folders = [root] if remote is None else [root, remote]
        self.objects: dict[str, set[str]] = {}
        for record in root.rglob("*.zarr.dvc"):
            listed = yaml.safe_load(record.read_text(encoding="utf-8"))["outs"][0]["md5"]
            entries = json.loads((root / ".dvc/cache/files/md5" / listed[:2] / listed[2:]).read_bytes())
            cube = record.with_suffix("").relative_to(root).as_posix()
            self.objects[cube] = {listed, *(entry["md5"] for entry in entries)}
        self.files = {file: file.read_bytes() for folder in folders for file in _files(folder)}
        self._marks = {file: _mark(file) for file in self.files}
        self._of = {cube: [file for file in self.files if file.is_relative_to(root / cube)] for cube in self.cubes}

    def of(self, cube: str) -> list[Path]:
        """Files of a cube, sorted."""
        return self._of[cube]

    def cube_of(self, file: Path) -> str:
        """The cube that a file is of."""
        return next(cube for cube in self.cubes if file.is_relative_to(self.root / cube))

    def restore(self) -> None:
        """Put back what is not as it was left."""
        for folder in [self.root] if self.remote is None else [self.root, self.remote]:
            for file in set(_files(folder)) - self.files.keys():
                file.unlink()
        for file, data in self.files.items():
            if _mark(file) != self._marks.get(file):
                put(file, data)
                self._marks[file] = _mark(file)

    def examine(self, injury: Injury, found: Found, *, only: str = "tree") -> None:
        """Read what was injured, from the tree, or by DVC's record from its cache and remote."""
        found.n += 1
        intact = False
        try:
            study = cc.open(self.root) if only == "tree" else open_revision(self.root)
            for place in sorted(injury.cubes):
                try:
                    intact |= self._compare(read_named(study, place), place, injury, found)
                except StudyError:
                    continue
        except StudyError:
            pass
        except Exception as error:  # what the test is about
            found.tracebacks.append(f"{injury.what}: {error!r}")
        if not injury.in_tree:
            return
        try:
            told = verify_all([self.root / place for place in sorted(injury.cubes)])
        except StudyError:
            return
        except Exception as error:
            found.tracebacks.append(f"verify, {injury.what}: {error!r}")
            return
        if not told.wrong:
            found.missed.append(injury.what)

    def _compare(self, cube: xr.Dataset, place: str, injury: Injury, found: Found) -> bool:
        """Whether all numbers of a cube are those of the whole one; notes it where they are not."""
        same = True
        for name, values in parts_of(cube):
            same &= self._same(values, self.parts[place].get(name), f"{injury.what}: {place} {name}", found)
        read = values_of(cube)
        for name, values in read.items():
            if name in self.whole[place]:
                same &= self._same(values, self.whole[place][name], f"{injury.what}: {place} {name}", found)
        if lost := self.whole[place].keys() - read.keys():
            found.wrong.append(f"{injury.what}: {place} without {sorted(lost)}")
        return same

    @staticmethod
    def _same(values: np.ndarray, whole: np.ndarray | None, what: str, found: Found) -> bool:
        same = whole is not None and values.shape == whole.shape and values.dtype == whole.dtype
        same = same and np.array_equal(values, whole, equal_nan=values.dtype.kind == "f")
        if not same:
            found.wrong.append(what)
        return bool(same)


def _files(folder: Path) -> list[Path]:
    """All files but those in which DVC keeps what it remembers; by `os.walk`, since `rglob` took half of all time."""
    found = []
    for place, folders, files in os.walk(folder):
        if place == str(folder / ".dvc"):
            folders[:] = [name for name in folders if name != "tmp"]
        found += [Path(place, file) for file in files if os.path.isfile(os.path.join(place, file))]
    return sorted(found)


def _mark(file: Path) -> tuple[int, int, int] | None:
    """What tells whether a file was written to since; `put` makes another one."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def put(file: Path, data: bytes) -> None:
    """Write a file anew, whatever it was linked to."""
    if file.is_dir():
        shutil.rmtree(file)
    file.unlink(missing_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


# One file


def _flip(data: bytearray, random: np.random.Generator) -> None:
    data[random.integers(len(data))] ^= 1 << int(random.integers(8))


def _zero(data: bytearray, random: np.random.Generator) -> None:
    start = int(random.integers(len(data)))
    stop = min(len(data), start + int(random.choice([8, 64, 4096])))
    data[start:stop] = bytes(stop - start)


def _cut(data: bytearray, random: np.random.Generator) -> None:
    del data[int(random.integers(len(data))) :]


def _empty(data: bytearray, random: np.random.Generator) -> None:
    data.clear()


def _append(data: bytearray, random: np.random.Generator) -> None:
    data += random.bytes(int(random.choice([1, 4, 36, 512])))


def _double(data: bytearray, random: np.random.Generator) -> None:
    data += bytes(data)


BYTES: dict[str, Callable[[bytearray, np.random.Generator], None]] = {
    "flipped": _flip,
    "zeroed": _zero,
    "cut": _cut,
    "emptied": _empty,
    "appended to": _append,
    "doubled": _double,
}


def _changed(file: Path, how: str, random: np.random.Generator) -> bool:
    """Change a file's bytes; whether they are others now."""
    data = bytearray(file.read_bytes())
    if not data:
        return False
    before = bytes(data)
    BYTES[how](data, random)
    put(file, bytes(data))
    return bytes(data) != before


def _pick(random: np.random.Generator, among: list[Any]) -> Any:
    return among[int(random.integers(len(among)))]


def injure_file(lab: Lab, random: np.random.Generator) -> Injury | None:
    """Bytes of one file of a cube, or the file itself."""
    file = _pick(random, lab.of(_pick(random, lab.cubes)))
    how = _pick(random, [*BYTES, "removed"])
    what = f"{how} {file.relative_to(lab.root)}"
    if how == "removed":
        file.unlink()
    elif not _changed(file, how, random) or _same_json(file, lab.files[file]):
        return None
    return Injury(what, {lab.cube_of(file)})


def _same_json(file: Path, before: bytes) -> bool:
    """Whether a file says the same as before, in JSON."""
    if file.suffix != ".json":
        return False
    try:
        return bool(json.loads(file.read_bytes()) == json.loads(before))
    except (ValueError, RecursionError):
        return False


# Two files


def injure_places(lab: Lab, random: np.random.Generator) -> Injury | None:
    """A file over another, or two exchanged: of one array, of one cube, of two films, models or subjects."""
    cube = _pick(random, lab.cubes)
    one = _pick(random, lab.of(cube))
    inside = one.relative_to(lab.root / cube)
    alike = [place for place in lab.cubes if place != cube and (lab.root / place / inside) in lab.files]
    others = {
        "of its array": [
            file for file in lab.of(cube) if file.relative_to(lab.root / cube).parts[0] == inside.parts[0]
        ],
        "of its cube": lab.of(cube),
        "of its size": [file for file in lab.of(cube) if len(lab.files[file]) == len(lab.files[one])],
        "of another cube": [lab.root / place / inside for place in alike],
    }
    which = _pick(random, [name for name, files in others.items() if files])
    other = _pick(random, others[which])
    if lab.files[one] == lab.files[other] or _same_json(one, lab.files[other]):
        return None
    swapped = bool(random.integers(2))
    put(one, lab.files[other])
    if swapped:
        put(other, lab.files[one])
    what = f"{'exchanged with' if swapped else 'overwritten by'} {other.relative_to(lab.root)}"
    return Injury(f"{one.relative_to(lab.root)} {what}", {cube, lab.cube_of(other)})


def injure_arrays(lab: Lab, random: np.random.Generator) -> Injury | None:
    """Two arrays of a cube exchanged with their metadata, in the gathered ones too or not."""
    cube = _pick(random, lab.cubes)
    names = sorted({file.relative_to(lab.root / cube).parts[0] for file in lab.of(cube)} - {"zarr.json"})
    if len(names) < 2:
        return None
    one, other = (str(name) for name in random.choice(names, 2, replace=False))
    folder, aside = lab.root / cube, lab.root / cube / "aside"
    (folder / one).rename(aside)
    (folder / other).rename(folder / one)
    aside.rename(folder / other)
    if _read_tree(folder / one) == _read_tree(folder / other):
        return None
    gathered = bool(random.integers(2))
    if gathered:
        root = json.loads((folder / "zarr.json").read_bytes())
        metadata = root["consolidated_metadata"]["metadata"]
        metadata[one], metadata[other] = metadata[other], metadata[one]
        put(folder / "zarr.json", json.dumps(root).encode())
    return Injury(f"{cube}: {one} and {other} exchanged{', gathered too' if gathered else ''}", {cube})


def _read_tree(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in _files(folder)}


def injure_cubes(lab: Lab, random: np.random.Generator) -> Injury | None:
    """A cube in the place of another of its kind, or two exchanged."""
    one = _pick(random, [cube for cube in lab.cubes if "/features/" in cube or "/brain/" in cube or "/scores/" in cube])
    alike = [cube for cube in lab.cubes if cube != one and cube.split("/")[1] == one.split("/")[1]]
    other, swapped = _pick(random, alike), bool(random.integers(2))
    files = {cube: _read_tree(lab.root / cube) for cube in (one, other)}
    for place, source in [(one, other), *([(other, one)] if swapped else [])]:
        shutil.rmtree(lab.root / place)
        for name, data in files[source].items():
            put(lab.root / place / name, data)
    # Without DVC nothing but its name tells a whole cube from another.
    return Injury(
        f"{one} {'exchanged with' if swapped else 'replaced by'} {other}", {one, other}, in_tree=lab.remote is not None
    )


def injure_chunks(lab: Lab, random: np.random.Generator) -> Injury | None:
    """Two chunks of a shard exchanged, or one twice, each with its own checksum."""
    shards = [file for file in lab.files if "/features/c/" in file.as_posix() or "/bold/c/" in file.as_posix()]
    shard = _pick(random, [file for file in shards if file.is_relative_to(lab.root)])
    data, n_bytes = lab.files[shard], (len(lab.files[shard]) - 4) // 2 - 16
    if (len(data) - 36) % 2 or len(data) < 512 * 12 * 4 * 2:
        return None
    first, second = data[:n_bytes], data[n_bytes : 2 * n_bytes]
    swapped = bool(random.integers(2))
    put(shard, second + (first if swapped else second) + data[2 * n_bytes :])
    return Injury(
        f"chunks of {shard.relative_to(lab.root)} {'exchanged' if swapped else 'twice'}", {lab.cube_of(shard)}
    )


# Metadata


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from _leaves(inner, (*path, key))


def injure_fields(lab: Lab, random: np.random.Generator) -> Injury | None:
    """A field of a `zarr.json` edited, taken out or doubled."""
    file = _pick(random, [file for file in lab.of(_pick(random, lab.cubes)) if file.name == "zarr.json"])
    root = json.loads(file.read_bytes())
    *way, last = _pick(random, list(_leaves(root)))
    inner = root
    for key in way:
        inner = inner[key]
    value = inner[last]
    how = _pick(random, ["removed", "other", "null"])
    if how == "removed":
        del inner[last]
    elif how == "null":
        inner[last] = None
    else:
        inner[last] = _other(value, random)
    put(file, json.dumps(root).encode())
    if _same_json(file, lab.files[file]):
        return None
    name = ".".join(map(str, (*way, last)))
    if way[:1] == ["consolidated_metadata"] and last in ("checksums",) and how == "removed":
        return None  # a cube of before
    return Injury(f"{how} {name} in {file.relative_to(lab.root)}", {lab.cube_of(file)})


def _other(value: Any, random: np.random.Generator) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + int(random.choice([-1, 1, 100]))
    if isinstance(value, float):
        return value * 1.01
    if isinstance(value, str):
        known = {"float32": "int32", "float64": "int64", "int32": "float32", "int64": "float64", "little": "big"}
        return known.get(value, value[::-1])
    if isinstance(value, list):
        return value[::-1]
    return {}


# DVC


def injure_objects(lab: Lab, random: np.random.Generator) -> Injury | None:
    """Objects of DVC's cache or remote."""
    assert lab.remote is not None
    place = _pick(random, [lab.root / ".dvc/cache", lab.remote])
    objects = [file for file in lab.files if file.is_relative_to(place) and "md5" in file.parts]
    if _pick(random, ["lists", "any"]) == "lists":
        objects = [file for file in objects if file.suffix == ".dir"]
    one = _pick(random, objects)
    oids = {one.parent.name + one.name}
    if place == lab.remote:  # which is asked where the cache has none
        (lab.root / ".dvc/cache" / one.relative_to(place)).unlink()
    how = _pick(random, [*BYTES, "removed", "exchanged"])
    what = f"{how} {one.relative_to(place)} of {place.name}"
    if how == "removed":
        one.unlink()
    elif how == "exchanged":
        other = _pick(random, [file for file in objects if file.suffix == one.suffix])
        put(one, lab.files[other])
        put(other, lab.files[one])
        oids.add(other.parent.name + other.name)
    elif not _changed(one, how, random):
        return None
    return Injury(what, {cube for cube, own in lab.objects.items() if own & oids}, in_tree=False)


def injure_lists(lab: Lab, random: np.random.Generator) -> Injury | None:
    """The list of a cube's files in the cache: hashes exchanged, an entry lost or renamed."""
    lists = [file for file in lab.files if file.suffix == ".dir" and file.is_relative_to(lab.root)]
    file = _pick(random, lists)
    entries = json.loads(lab.files[file])
    i, j = (int(at) for at in random.choice(len(entries), 2, replace=False))
    how = _pick(random, ["exchanged", "lost", "renamed", "doubled"])
    if how == "exchanged":
        entries[i]["md5"], entries[j]["md5"] = entries[j]["md5"], entries[i]["md5"]
    elif how == "lost":
        del entries[i]
    elif how == "renamed":
        entries[i]["relpath"] += "x"
    else:
        entries[i]["md5"] = entries[j]["md5"]
    put(file, json.dumps(entries, sort_keys=True).encode())
    oid = file.parent.name + file.name
    cubes = {cube for cube, own in lab.objects.items() if oid in own}
    return Injury(f"entries {i} and {j} of the list of {', '.join(cubes)} {how}", cubes, in_tree=False)


def injure_record(lab: Lab, random: np.random.Generator) -> Injury | None:
    """The hash of a cube in DVC's record: another cube's, or none."""
    records = [file for file in lab.files if file.suffix == ".dvc"]
    one, other = (records[int(at)] for at in random.choice(len(records), 2, replace=False))
    texts = [yaml.safe_load(lab.files[file]) for file in (one, other)]
    how = _pick(random, ["other's", "nobody's"])
    digest = texts[1]["outs"][0]["md5"] if how == "other's" else "0" * 32 + ".dir"
    if digest == texts[0]["outs"][0]["md5"]:
        return None
    texts[0]["outs"][0]["md5"] = digest
    put(one, yaml.safe_dump(texts[0]).encode())
    cube = one.with_suffix("").relative_to(lab.root).as_posix()
    return Injury(f"{one.name} with {how} hash", {cube}, in_tree=True)


Injure = Callable[[Lab, np.random.Generator], Injury | None]
IN_TREE: tuple[Injure, ...] = (
    injure_file,
    injure_file,
    injure_places,
    injure_places,
    injure_fields,
    injure_arrays,
    injure_cubes,
    injure_chunks,
)
IN_DVC: tuple[Injure, ...] = (injure_objects, injure_lists, injure_record)


@contextmanager
def injured(lab: Lab, injure: Injure, random: np.random.Generator) -> Iterator[Injury]:
    """An injury that is one, and everything back in its place after it."""
    try:
        while (injury := injure(lab, random)) is None:
            lab.restore()
        yield injury
    finally:
        lab.restore()


def run(lab: Lab, kinds: tuple[Injure, ...], n: int, seed: int) -> Found:
    """Injuries of some kinds in turn."""
    random, found = np.random.default_rng(seed), Found()
    for number in range(n):
        with injured(lab, kinds[number % len(kinds)], random) as injury, chdir(lab.root):
            lab.examine(injury, found, only="record" if kinds is IN_DVC else "tree")
    return found


# Journals


def run_journals(folder: Path, n: int, seed: int) -> Found:
    """Injuries of journals' blocks between two openings: a block is what was written, or none."""
    random, found = np.random.default_rng(seed), Found()
    specs = [{"weights": name} for name in ("abc", "abd")]
    blocks = row_blocks({"a01": 96, "a02": 40}, 32)
    written = {}
    for spec in specs:
        with open_journal(folder, spec, "cube") as journal:
            for block in blocks:
                written[journal.folder / block.filename] = random.standard_normal((block.stop - block.start, 5))
                journal.write(block, written[journal.folder / block.filename])
    files = {file: file.read_bytes() for file in written}
    for _ in range(n):
        one = _pick(random, list(files))
        how = _pick(random, [*BYTES, "removed", "exchanged", "overwritten"])
        other = _pick(random, [file for file in files if file != one])
        if how == "removed":
            one.unlink()
        elif how in BYTES:
            _changed(one, how, random)
        else:
            put(one, files[other])
            if how == "exchanged":
                put(other, files[one])
        found.n += 1
        for spec in specs:
            with open_journal(folder, spec, "cube") as journal:
                for block in filter(journal.has, blocks):
                    file = journal.folder / block.filename
                    try:
                        same = np.array_equal(journal.read(block), written[file])
                    except Exception as error:  # whoever fills the journal expects none
                        found.tracebacks.append(f"{how} {one.name}: {error!r}")
                        continue
                    if not same:
                        found.wrong.append(f"{how} {one.name}: {file.name}")
        for file, data in files.items():
            put(file, data)
    return found
