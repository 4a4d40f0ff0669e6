"""`verify`: every kind of damage of every kind of cube is found, named with its file and layer, in one line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result

from cinecube.cli import main
from cinecube.store.base.errors import StudyError
from cinecube.store.cube.cubes import open_cube, write_feature_cube
from cinecube.store.cube.schema import string_coordinate
from cinecube.store.verify.find_cubes import verify_cube
from cinecube.store.verify.tracked import Records

from .verified import KINDS, ROWS, SHARD, SPEC, edit_root, files, flip, relabel, track, write_brain, write_features

ONSETS_S = np.concatenate([np.arange(n) * 1.49 for n in ROWS])
SEGMENTS = np.repeat(["a01", "a02"], ROWS).tolist()
NAN = float("nan")
Damage = Callable[[Path], object]


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["verify", *words])


@pytest.fixture
def cube(tmp_path: Path) -> Path:
    return write_features(tmp_path / "cube.zarr")


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_cube_of_every_kind(kind: str, tmp_path: Path) -> None:
    assert verify_cube(KINDS[kind](tmp_path / "cube.zarr")) == []


@pytest.mark.one_in(4)
@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_cut_or_flipped_file_of_every_kind_is_one_line_that_names_it(kind: str, tmp_path: Path) -> None:
    whole = KINDS[kind](tmp_path / "whole.zarr")
    for name, data in files(whole).items():
        for how, broken in (
            ("gone", None),
            ("cut", data[: len(data) // 2]),
            ("empty", b""),
            ("zeros", bytes(len(data))),
        ):
            cube = tmp_path / "cube.zarr"
            shutil.copytree(whole, cube)
            (cube / name).unlink() if broken is None else (cube / name).write_bytes(broken)
            problems = verify_cube(cube)
            assert len(problems) == 1, f"{how} {name}: {problems}"
            assert problems[0].startswith(f"{cube}: ")
            assert name in problems[0], f"{how} {name}: {problems}"
            shutil.rmtree(cube)


def _set(cube: Path, name: str, at: tuple[int, ...], value: float) -> None:
    zarr.open_group(cube, mode="r+", use_consolidated=False)[name][at] = value  # type: ignore[index]


def _attribute(name: str, value: Any) -> Damage:
    return lambda cube: edit_root(cube, lambda root: root["attributes"].update({name: value}))


def _without(name: str) -> Damage:
    return lambda cube: edit_root(cube, lambda root: root["attributes"].pop(name))


def _describe(name: str, **change: Any) -> Damage:
    """Other metadata of an array, in both places."""

    def damage(cube: Path) -> None:
        own = json.loads((cube / name / "zarr.json").read_text(encoding="utf-8")) | change
        (cube / name / "zarr.json").write_text(json.dumps(own), encoding="utf-8")
        edit_root(cube, lambda root: root["consolidated_metadata"]["metadata"].update({name: own}))

    return damage


def _lacking(name: str) -> Damage:
    """A cube that was written without a variable."""

    def damage(cube: Path) -> None:
        shutil.rmtree(cube / name)
        edit_root(cube, lambda root: root["consolidated_metadata"]["metadata"].pop(name))

    return damage


def _reworded(**change: Any) -> Damage:
    """Another spec with its own fingerprint, so that only labels can contradict it."""

    def damage(cube: Path) -> None:
        shutil.rmtree(cube)
        write_features(cube, {**SPEC, **change})

    return damage


def _stray_shard(cube: Path) -> None:
    (cube / "features/c/0/0/1/2").write_bytes((cube / SHARD).read_bytes())


DAMAGES: dict[str, tuple[Damage, str]] = {
    "flipped byte": (lambda c: flip(c / SHARD), rf"m.video block01: damaged {SHARD} \(.*checksum"),
    "flipped index": (lambda c: flip(c / SHARD, -3), f"m.video block01: damaged {SHARD}"),
    "cut shard": (lambda c: (c / SHARD).write_bytes((c / SHARD).read_bytes()[:9000]), f"block01: damaged {SHARD}"),
    "longer shard": (lambda c: (c / SHARD).write_bytes((c / SHARD).read_bytes() + b"x"), f"block01: damaged {SHARD}"),
    "missing shard": (lambda c: (c / SHARD).unlink(), f"no shard of m.video block01: {SHARD} is missing"),
    "NaN": (lambda c: _set(c, "features", (3, 5, 0, 1), NAN), rf"block01: 1 values inside the width are NaN.*{SHARD}"),
    "infinity": (lambda c: _set(c, "features", (3, 5, 0, 1), np.inf), "m.video block01: 1 values inside the width"),
    "past the width": (lambda c: _set(c, "features", (3, 9, 0, 2), 1.0), "m.video head: values past the width of 6"),
    "shard without width": (_stray_shard, "features/c/0/0/1/2 is no part of the cube"),
    "stray file": (lambda c: (c / "notes.txt").write_text("x"), "notes.txt is no part of the cube"),
    "unsorted layers": (lambda c: relabel(c, "layer", ["block01", "embed", "head"]), "layers out of order: block01"),
    "double layer": (lambda c: relabel(c, "layer", ["embed", "embed", "head"]), "layer: embed more than once"),
    "unknown layer": (lambda c: relabel(c, "layer", ["embed", "block1", "head"]), "layer: 'block1' is no layer"),
    "other layer": (lambda c: relabel(c, "layer", ["embed", "block02", "head"]), "block01, block02 in the labels or"),
    "dims": (lambda c: relabel(c, "dim", [*range(11), 12]), "dim: not 0, 1, 2"),
    "negative width": (lambda c: relabel(c, "width", [[12, 12, 6], [6, 0, -1]]), "width: -1 for m.audio head"),
    "wide width": (lambda c: relabel(c, "width", [[12, 12, 13], [6, 0, 0]]), "width: 13 for m.video head"),
    "other width": (lambda c: relabel(c, "width", [[12, 12, 5], [6, 0, 0]]), "m.video head: values past the width"),
    "depth": (lambda c: relabel(c, "depth", [[0, 1.5, 1], [0, NAN, NAN]]), "depth: 1.5 for m.video block01"),
    "no depth": (lambda c: relabel(c, "depth", [[0, NAN, 1], [0, NAN, NAN]]), "depth: nan for m.video block01"),
    "depth of none": (lambda c: relabel(c, "depth", [[0, 1, 1], [0, 0.5, NAN]]), "depth: a number for a layer without"),
    "blank model": (lambda c: relabel(c, "model", ["m.video", ""]), "model: a label without a name"),
    "double model": (lambda c: relabel(c, "model", ["m", "m"]), "model: m more than once"),
    "blank segment": (lambda c: relabel(c, "segment", [*SEGMENTS[:-20], *[" "] * 20]), "20 rows without a segment"),
    "torn segment": (lambda c: relabel(c, "segment", ["a02", *SEGMENTS[1:]]), "rows of a02 are not together"),
    "other segment": (lambda c: relabel(c, "segment", ["b01"] * 30 + ["a02"] * 20), "b01, a02, its spec says a01, a02"),
    "unsorted onsets": (lambda c: relabel(c, "onset_s", ONSETS_S[[1, 0, *range(2, 50)]]), "onsets overlap .* at row 1"),
    "double onset": (lambda c: relabel(c, "onset_s", [0, 0, *ONSETS_S[2:]]), "onsets overlap .* in a01 at row 1"),
    "negative onset": (lambda c: relabel(c, "onset_s", [-1.0, *ONSETS_S[1:]]), "1 onsets that are negative"),
    "NaN onset": (lambda c: relabel(c, "onset_s", [*ONSETS_S[:-1], NAN]), "1 onsets that are negative, NaN"),
    "window": (lambda c: relabel(c, "window_s", [0.0] + [1.49] * 49), "1 windows that are not longer than 0"),
    "NaN window": (lambda c: relabel(c, "window_s", [NAN] * 50), "50 windows that are not longer"),
    "no coordinate": (_lacking("window_s"), "no coordinate window_s"),
    "no data": (_lacking("features"), "no variable features"),
    "other axes": (_describe("depth", dimension_names=["layer", "model"]), r"depth: axes \(layer, model\), expected"),
    "no axes": (_describe("width", dimension_names=None), r"width: axes \(\), expected \(model, layer\)"),
    "other type": (
        _describe("onset_s", data_type="int64", fill_value=0, attributes={}),
        "onset_s: values of type int64",
    ),
    "no checksums": (
        _describe("width", codecs=[{"name": "bytes", "configuration": {"endian": "little"}}]),
        r"width: chunks without checksums \(crc32c\)",
    ),
    "fingerprint": (_attribute("fingerprint", "0" * 64), "fingerprint 000000000000 does not match its spec"),
    "no fingerprint": (_without("fingerprint"), "no attribute fingerprint"),
    "no spec": (_without("spec"), "no attribute spec"),
    "spec": (_attribute("spec", "{"), "spec is no JSON object"),
    "spec of another type": (_attribute("spec", 3), "spec is no JSON object"),
    "created_by": (_attribute("created_by", "[]"), "created_by is no JSON object"),
    "no kind": (_without("kind"), "no attribute kind"),
    "unknown kind": (_attribute("kind", "faetures"), "kind 'faetures', expected one of features"),
    "unlisted coordinates": (_attribute("coordinates", "depth segment width window_s"), "does not list onset_s among"),
    "no schema": (_without("schema"), "found schema None, expected schema 1 or older; use a cube written by cinecube"),
    "text as schema": (_attribute("schema", "1"), "use a cube written by cinecube"),
    "newer schema": (_attribute("schema", 2), "found schema 2, expected schema 1 or older; update cinecube"),
    "dtype of the spec": (_reworded(dtype="float16"), "values of type float32, its spec says float16"),
    "layers of the spec": (_reworded(layers=["embed", "head"]), "layer: block01 in the labels or the spec"),
    "widths of the spec": (_reworded(layers={"embed": 12, "block01": 9, "head": 6}), "block01: not the 9 dims"),
    "segments of another clock": (_reworded(segments={"a01": "…", "a03": "…"}), "a01, a02, its spec says a01, a03"),
    "segments of the spec": (_reworded(segments=["a02", "a01"]), "a01, a02, its spec says a02, a01"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_of_a_feature_cube(name: str, cube: Path) -> None:
    damage, line = DAMAGES[name]
    damage(cube)
    problems = verify_cube(cube)
    assert re.search(line, "\n".join(problems)), problems
    assert all(problem.startswith(f"{cube}: ") and "\n" not in problem for problem in problems)


@pytest.mark.parametrize(
    ("kind", "damage", "line"),
    [
        ("brain", lambda c: _set(c, "bold", (2, 3), NAN), r"bold: 1 values are NaN or infinite \(bold/c/0/0\)"),
        ("brain", lambda c: flip(c / "bold/c/0/0"), "bold: damaged bold/c/0/0"),
        ("brain", lambda c: relabel(c, "repeat", [0] * 50), "repeat: repeats below 1"),
        ("brain", lambda c: relabel(c, "onset_s", ONSETS_S[::-1]), "onsets overlap or are out of order in a01 1"),
        ("brain", lambda c: relabel(c, "target", [10, 11, 12, 13, 14, 14]), "target: 14 more than once"),
        ("brain", _lacking("x_mm"), "no coordinate x_mm"),
        ("brain", _without("tr_s"), "no attribute tr_s"),
        ("scores", lambda c: flip(c / "score/c/0/0/0/0"), "score vit: damaged score/c/0/0/0/0"),
        ("scores", lambda c: relabel(c, "subject", ["sub-01", "sub-01"]), "subject: sub-01 more than once"),
        ("scores", _lacking("cv_score"), "no variable cv_score"),
        ("scores", _attribute("kind", "features"), "no variable features"),
        ("ceiling", lambda c: (c / "repeats/c/0/0").unlink(), "no chunk of repeats: repeats/c/0/0 is missing"),
        ("significance", _without("block_rows"), "no attribute block_rows"),
        ("partition", _attribute("fingerprint", "0"), "fingerprint 0 does not match"),
    ],
)
def test_damage_of_other_kinds(kind: str, damage: Damage, line: str, tmp_path: Path) -> None:
    cube = KINDS[kind](tmp_path / "cube.zarr")
    damage(cube)
    problems = verify_cube(cube)
    assert re.search(line, "\n".join(problems)), problems


def test_what_a_reader_does_not_know_is_ignored(cube: Path) -> None:
    more = {"scene": ("time", string_coordinate(["x"] * 50)), "loudness": ("time", np.zeros(50, np.float32))}
    whole = open_cube(cube).load()
    template = whole.drop_encoding().assign_coords(more).assign_attrs(more=1)
    widths = whole["width"].values
    values = whole["features"].values
    write_feature_cube(cube, template, lambda m, k: values[:, : widths[m, k], m, k])
    assert verify_cube(cube) == []
    assert "scene" in open_cube(cube).coords


def _unknown_codec(cube: Path) -> None:
    _describe("onset_s", codecs=[{"name": "codec_of_2030", "configuration": {}}])(cube)


@pytest.mark.parametrize("how", [_unknown_codec, lambda c: (c / "layer/c/0").unlink(), _lacking("features")])
def test_a_newer_schema_is_told_whatever_else_is_new(how: Damage, cube: Path) -> None:
    """A later version may write what this one cannot open; that is not damage."""
    how(cube)
    edit_root(cube, lambda root: root["attributes"].update(schema=2))
    line = "found schema 2, expected schema 1 or older; update cinecube"
    with pytest.raises(StudyError, match=line):
        open_cube(cube)
    assert verify_cube(cube) == [f"{cube}: {line} (zarr.json)"]


def test_an_array_whose_size_is_told_twice(cube: Path) -> None:
    own = cube / "window_s" / "zarr.json"
    own.write_text(own.read_text(encoding="utf-8").replace("50", "90"), encoding="utf-8")
    assert verify_cube(cube) == [f"{cube}: window_s: window_s/zarr.json and what zarr.json says of window_s differ"]


def test_any_flipped_byte_of_a_tracked_cube_is_found_and_named(tmp_path: Path) -> None:
    """In every file; one that holds only text is searched more closely, for no checksum guards it."""
    root = tmp_path / "study"
    cube = write_features(root / "cube.zarr")
    track(root, None)
    records = Records()
    assert verify_cube(cube, records) == []
    random = np.random.default_rng(0)
    for name, data in files(cube).items():
        n_flips = 40 if name == "zarr.json" else 8
        for at in random.choice(len(data), min(n_flips, len(data)), replace=False):
            flip(cube / name, int(at), with_=int(random.integers(1, 256)))
            problems = verify_cube(cube, records)
            assert problems, f"{name} at {at}"
            assert any(name in problem for problem in problems), f"{name} at {at}: {problems}"
            (cube / name).write_bytes(data)
    assert verify_cube(cube, records) == []


def test_licence_and_versions_are_guarded_too(cube: Path) -> None:
    edit_root(cube, lambda root: root["attributes"].update(licence="MIX"))
    assert verify_cube(cube) == [f"{cube}: zarr.json is not as it was written"]


def test_those_of_a_cube_without_checksums_are_guarded_by_dvc(tmp_path: Path) -> None:
    cube = write_features(tmp_path / "study" / "cube.zarr")
    edit_root(cube, lambda root: root["consolidated_metadata"].pop("checksums"))
    track(tmp_path / "study", None)
    edit_root(cube, lambda root: root["attributes"].update(licence="MIX"))
    assert verify_cube(cube) == [f"{cube}: zarr.json: other bytes than DVC recorded"]


@pytest.mark.parametrize("change", [{"seed": 1}, {"spec": {**SPEC, "weights": "abd"}}])
def test_a_cube_made_anew_is_one_line(change: dict[str, Any], tmp_path: Path) -> None:
    cube = write_features(tmp_path / "study" / "cube.zarr")
    track(tmp_path / "study", None)
    shutil.rmtree(cube)
    write_features(cube, **change)
    problems = verify_cube(cube)
    assert len(problems) == 1
    assert "not the cube that DVC recorded, though its bytes are sound" in problems[0]
    assert "`dvc repro` or `dvc commit`" in problems[0]


def test_a_list_that_the_cache_lost(tmp_path: Path) -> None:
    cube = write_features(tmp_path / "study" / "cube.zarr")
    track(tmp_path / "study", None)
    for file in (tmp_path / "study" / ".dvc" / "cache").rglob("*.dir"):
        flip(file)
    assert verify_cube(cube) == []
    shutil.rmtree(cube)
    write_features(cube, licence="MIX")
    assert "not what DVC recorded, and DVC's cache does not list its files" in verify_cube(cube)[0]


def test_without_dvc_and_with_files_that_dvc_cannot_read(cube: Path) -> None:
    (cube.parent / ".dvc").mkdir()
    (cube.parent / "dvc.yaml").write_text("stages: [", encoding="utf-8")
    done = run("--study", str(cube.parent))
    assert done.exit_code == 0
    assert "DVC's files cannot be read" in done.stderr
    assert "1 cube, 1 whole, 0 damaged" in done.stdout


def test_the_command(cube: Path) -> None:
    assert json.loads(run(str(cube), "--json").stdout) == {
        "cubes": 1,
        "wrong": {},
        "repaired": {},
        "absent": [],
        "kept_back": [],
    }
    flip(cube / SHARD)
    done = run(str(cube.parent))
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert f"cube.zarr: m.video block01: damaged {SHARD}" in done.stderr
    assert "1 cube, 0 whole, 1 damaged" in done.stdout
    found = run(str(cube), "--json")
    assert found.exit_code == 1
    assert json.loads(found.stdout)["wrong"] == {str(cube): [done.stderr.strip()]}


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (_attribute("shape", "[2, 2, 2]"), "target: 10 to 1"),
        (_attribute("affine", "[]"), "no usable description of its space MNI"),
        (_without("shape"), "no usable description of its space MNI"),
        (_attribute("place", '{"kind": "voxels"}'), "no usable description of its space MNI"),
        (_attribute("place", '{"kind": "vertices", "name": "MNI", "vertices": [3, 3]}'), "where MNI has 6 places"),
        (_attribute("place", '{"kind": "parcels", "name": "MNI", "atlas": "x"}'), None),
        (_attribute("place", '{"kind": "vertices", "name": "MNI", "vertices": [300, 300]}'), None),
    ],
)
def test_targets_lie_in_the_space_that_the_cube_describes(damage: Damage, found: str | None, tmp_path: Path) -> None:
    cube = write_brain(tmp_path / "cube.zarr")
    damage(cube)
    problems = [line for line in verify_cube(cube) if "is not as it was written" not in line]
    assert len(problems) == (found is not None)
    assert all(str(found) in problem for problem in problems)
