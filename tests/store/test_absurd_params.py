"""Values that no study has, and files that are none: one line within seconds and little memory. Real ones are taken."""

from __future__ import annotations

import copy
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cinecube.simulation.setup.simulate_params import SimulateSpec
from cinecube.store.base.errors import StudyError
from cinecube.store.params.document import Study, load_study, parse, read_study

pytestmark = pytest.mark.usefixtures("bounded")

TEXT = (Path(__file__).resolve().parents[2] / "params.yaml").read_text(encoding="utf-8")
PARAMS = yaml.safe_load(TEXT)
LINE = re.compile(r"\S.*: found .+, expected .+; .+")
MOST_S, MOST_KB = 20, 1_000_000

# Sections: what is refused, and what real studies have, the shortest TRs of 7T and the largest films included.
_SEED = ([-1, 2**63, 1.5, math.nan], [0, 2**32])
NUMBERS: dict[str, tuple[list[Any], list[Any]]] = {
    "clock.tr_s": ([0, 0.0, -1.49, 1490, 1e308, math.nan, math.inf, -math.inf, 1e-12], [0.3, 0.72, 1, 1.49, 2, 3, 10]),
    "clock.window_s": ([0, -1, 1e308, math.nan, math.inf], [0.5, 1.49, 2, 64]),
    "clock.max_trim_s": ([-1, 1e308, math.nan, math.inf], [0, 10, 60]),
    "split.gap_s": ([-1, 1e308, math.nan, math.inf], [0, 4, 30]),
    "run.batch": ([0, -1, 10**9, 2.5], [1, 16, 1024]),
    "run.threads": ([0, -1, 10**9], [1, 64, 128]),
    "run.block_rows": ([0, -1, 10**12], [1, 512, 20_000]),
    "brain.high_pass_hz": ([-0.1, 0.336, 1e308, math.nan, math.inf], [0, 0.008, 0.01, 0.3]),
    "brain.fwhm_mm": ([-1, 1e308, math.nan], [0, 6, 12]),
    "encode.delays": (
        [[], [-1], [1, 1], [2, 1], [10**12], [1.5], list(range(500))],
        [[0], [1, 2, 3, 4, 5], [*range(1, 34)]],
    ),
    "encode.alphas.min": ([0, -1, 1e308, math.nan, math.inf, 1e9], [1e-3, 0.1, 1]),
    "encode.alphas.max": ([0, -1, 1e308, math.nan, 0.5], [10, 1e8, 1e12]),
    "encode.alphas.n": ([0, -1, 10**9, 1.5], [1, 20, 100]),
    "encode.folds": ([0, 1, -5, 10**9, 5.5], [2, 5, 10, 44]),
    "encode.targets_per_block": ([0, -1, 10**30], [1, 4096, 81_924, 250_000]),
    "ceiling.threshold": ([-1, 2, math.nan], [0, 0.05, 0.1]),
    "ceiling.cap": ([0, -1, 1e308, math.inf], [1, 1.2]),
    "ceiling.bootstraps": ([0, -1, 10**12], [1, 100, 10_000]),
    "ceiling.block_rows": ([0, -1, 10**12], [1, 10, 100]),
    "ceiling.seed": _SEED,
    "statistics.permutations": ([0, -1, 10**12, 1e12], [1, 999, 5000, 100_000]),
    "statistics.block_rows": ([0, -1, 10**12, "all"], ["auto", 1, 10, 50]),
    "statistics.fdr": ([0, 1, -1, math.nan], [0.05, 0.001]),
    "statistics.seed": _SEED,
    "models.vit.frames_per_window": ([0, -1, 10**9, "few"], [1, 4, 64, "all", None]),
    "models.vit.context_s": ([-1, 1e308, math.nan, math.inf], [0, 4, 64, None]),
    "models.vit.window_s": ([0, -1, 1e308, 1e-12], [0.5, 2, 64, None]),
    "models.vit.stride_s": ([0, -1, 1e308, 1e-12], [0.1, 1, None]),
    "models.vit.untrained": ([-1, 2**64, 0.5], [0, 1, None]),
}

_LONG = "x" * 5000
NAMES = [
    "",
    " ",
    ".",
    "..",
    "../x",
    "a/b",
    "/etc",
    "~",
    "-rf",
    "a b",
    "ä",
    "\u202eevil",
    "名",
    "a\\b",
    "a:b",
    "a*",
    "$(id)",
    "a;b",
]
NAMES += ["${x}", "a'b", 'a"b', "`id`", _LONG, "a\u200bb", "\uff26", ".hidden"]


def _with(key: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(PARAMS)
    *sections, last = key.split(".")
    inside = changed
    for section in sections:
        inside = inside[section]
    inside[last] = value
    return changed


def _refusal(params: Any) -> str:
    with pytest.raises(StudyError) as caught:
        read_study(yaml.safe_dump(params, allow_unicode=True), "params.yaml")
    line = str(caught.value)
    assert LINE.fullmatch(line)
    assert len(line) < 1000
    assert line.isprintable()
    return line


def _cases(which: int) -> list[Any]:
    return [
        pytest.param(key, value, id=f"{key}={str(value)[:20]}")
        for key, values in NUMBERS.items()
        for value in values[which]
    ]


@pytest.mark.parametrize(("key", "value"), _cases(0))
def test_absurd_numbers_are_refused_by_key(key: str, value: Any) -> None:
    section = key.rpartition(".")[0]
    line = _refusal(_with(key, value))
    assert key in line or line.startswith(f"params.yaml: {section}:")


@pytest.mark.parametrize(("key", "value"), _cases(1))
def test_numbers_of_real_studies_are_taken(key: str, value: Any) -> None:
    read_study(yaml.safe_dump(_with(key, value)), "params.yaml")


def test_a_tr_in_milliseconds_is_told_in_seconds() -> None:
    assert "found 1490, expected 0.01 to 100 seconds; correct it; 1490 ms are 1.49 s" in _refusal(
        _with("clock.tr_s", 1490)
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((f"simulate.{key}", value) for key in ("seed", "subjects", "segment_s", "parcels") for value in (-1, 1e308)),
        ("simulate.noise", math.nan),
        ("simulate.noise", 1e308),
        ("simulate.targets_per_parcel", 10**9),
    ],
    ids=str,
)
def test_absurd_numbers_of_a_simulation_are_refused(key: str, value: Any) -> None:
    with pytest.raises(StudyError, match=key.partition(".")[2]):
        parse(SimulateSpec, _with(key, value)["simulate"], "params.yaml")


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("kind", ["film", "segment", "model", "subject"])
def test_names_that_are_no_part_of_a_path_are_refused(kind: str, name: str) -> None:
    params = copy.deepcopy(PARAMS)
    if kind == "film":
        params["films"][name] = ["other01"]
    elif kind == "segment":
        params["films"]["amber"].append(name)
    elif kind == "model":
        params["models"][name] = params["models"]["vit"]
    else:
        params["brain"]["subjects"].append(name)
    _refusal(params)


DOUBLE: dict[str, Callable[[dict[str, Any]], object]] = {
    "segment in a film": lambda p: p["films"]["amber"].append("amber01"),
    "segment in two films": lambda p: p["films"]["dune"].append("amber01"),
    "film to train on": lambda p: p["split"]["train"].append("amber"),
    "film to train and test on": lambda p: p["split"]["train"].append("dune"),
    "film to test on": lambda p: p["split"]["test"].append("dune"),
    "model": lambda p: p["compute"]["models"].append("vit"),
    "film to compute": lambda p: p["compute"]["films"].append("amber"),
    "subject": lambda p: p["brain"]["subjects"].append("sub-01"),
    "pair": lambda p: p["residual"].append(p["residual"][0]),
}


@pytest.mark.parametrize("change", DOUBLE.values(), ids=DOUBLE)
def test_what_stands_there_twice_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    params = copy.deepcopy(PARAMS)
    change(params)
    _refusal(params)


EMPTY = [
    "films",
    "films.amber",
    "split.train",
    "split.test",
    "brain.subjects",
    "encode.delays",
    "models.vit",
    "clock",
    "brain",
]


@pytest.mark.parametrize("key", EMPTY)
@pytest.mark.parametrize("value", [[], {}, None], ids=str)
def test_what_is_empty_is_refused(key: str, value: Any) -> None:
    _refusal(_with(key, value))


def _bomb(levels: int) -> str:
    lists = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lists += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lists) + "\n"


def _chain(levels: int) -> str:
    return "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, levels))


FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "found nothing"),
    "only a comment": (b"# nothing\n", "found nothing"),
    "a list": (b"- a\n- b\n", "expected a section"),
    "a text": (b"hello\n", "expected a section"),
    "a number": (b"3\n", "expected a section"),
    "tabs": (b"study:\n\tx: 1\n", "broken YAML (in line 2: "),
    "a bracket left open": (b"study: [a\nclock:\n", "flow sequence, which begins in line 1)"),
    "two documents": (b"study: a\n---\nstudy: b\n", "broken YAML"),
    "Latin-1": (b"study: caf\xe9\n", "expected YAML in UTF-8"),
    "UTF-16": ("study: a\n".encode("utf-16"), "expected YAML in UTF-8"),
    "zeros": (b"\0" * 1000, "broken YAML"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0", "expected YAML in UTF-8"),
    "a key twice": (TEXT.replace("clock:", "study: other\nclock:").encode(), "the key 'study' twice"),
    "a key twice inside": (TEXT.replace("folds: 5", "folds: 5\n  folds: 6").encode(), "the key 'folds' twice"),
    "a film twice": (TEXT.replace("  birch: [", "  amber: [").encode(), "the key 'amber' twice"),
    "an escape": (b'study: "\\e]0;evil\\a"\n', r"the character '\x1b'"),
    "a NUL": (b'study: "a\\0b"\n', r"the character '\x00'"),
    "text that turns round": (b'study: "a\\u202Eb"\n', r"the character '\u202e'"),
    "an object": (b"study: !!python/object/apply:os.getcwd []\n", "broken YAML"),
    "a tag": (b"study: !x 1\n", "broken YAML"),
    "a date that is none": (b"study: 2020-13-45\n", "broken YAML"),
    "a number of 5,000 digits": (b"study: " + b"9" * 5000 + b"\n", "broken YAML"),
    "an alias of nothing": (b"study: *x\n", "broken YAML"),
    "a list as a key": (b"? [a, b]\n: 1\n", "broken YAML"),
    "an alias bomb": (_bomb(12).encode(), "more than 200000 values once its aliases are expanded"),
    "an alias of itself": (b"study: &a [*a]\n", "an alias inside what it stands for"),
    "a chain of aliases": (_chain(5000).encode(), "nested more than 64 deep"),
    "brackets": (b"[" * 400_000, "nested more than 64 deep"),
    "braces": (b"{a: " * 100_000, "nested more than 64 deep"),
    "steps": ("".join(" " * i + "a:\n" for i in range(1000)).encode(), "nested more than 64 deep"),
    "a long list": (b"films: [" + b"a," * 250_000 + b"]\n", "more than 200000 values"),
    "a long key": (b"x" * 400_000 + b": 1\n", ""),
    "a large file": (b"#" * 50_000_000, "50000000 bytes"),
}


# Of its own memory: what the system counts for a child begins with that of the process that started it.
_MEASURED = """
import atexit, os, re
atexit.register(lambda: print(sum(os.times()[:4]), re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]))
from cinecube.cli import main
main()
"""


def _run(root: Path) -> tuple[str, float, int]:
    """Stderr of `cinecube plan`, its seconds of a processor, which others keep busy, and its peak of memory in kB."""
    command = [sys.executable, "-c", _MEASURED, "plan", "--study", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    seconds, kilobytes = done.stdout.split()[-2:]
    return done.stderr, float(seconds), int(kilobytes)


@pytest.mark.parametrize(("data", "found"), FILES.values(), ids=FILES)
def test_files_that_are_no_parameters_are_one_line(data: bytes, found: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(data)
    with pytest.raises(StudyError) as caught:
        load_study(tmp_path)
    assert LINE.fullmatch(str(caught.value))
    assert found in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", ["an alias bomb", "brackets", "steps", "a long list", "a large file", "zeros"])
def test_no_file_takes_long_or_much_memory(name: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(FILES[name][0])
    said, seconds, kilobytes = _run(tmp_path)
    assert len(said.splitlines()) == 1
    assert seconds < MOST_S
    assert kilobytes < MOST_KB


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a link to nothing", "a link to itself"])
def test_what_is_no_file_is_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nothing" if kind == "a link to nothing" else path)
    with pytest.raises(StudyError, match="found (no such file|a folder|a pipe)"):
        load_study(tmp_path)


def test_a_study_as_large_as_any_is_taken_in_seconds() -> None:
    """Ten thousand segments of a hundred films: names are counted, not compared with each other."""
    params = copy.deepcopy(PARAMS)
    params["films"] |= {f"film{i}": [f"film{i}_{j:03d}" for j in range(100)] for i in range(100)}
    began = time.process_time()
    study = read_study(yaml.safe_dump(params), "params.yaml")
    assert isinstance(study, Study)
    assert len(study.segments()) == 10_008
    assert time.process_time() - began < MOST_S
