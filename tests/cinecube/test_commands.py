"""Commands: help that shows an example, errors that are one line, output that a person or a script can use."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner

from cinecube.analysis.encoders.problem import read_problem, score_spec
from cinecube.cli import _COMMANDS, _TASKS, main
from cinecube.store.base.journal import Block, open_journal
from cinecube.store.base.paths import StudyPaths
from cinecube.store.open.listing import OF_ALL
from cinecube.store.params.document import load_study

from ..conftest import Folder, make_small


@pytest.mark.parametrize("name", _COMMANDS)
def test_help_says_what_it_reads_and_writes_and_shows_an_example(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert "Example:" in result.output
    assert f"cinecube {name}" in result.output
    assert "Read" in result.output or "read" in result.output
    assert name in ("ls", "show") or "rite" in result.output


def test_the_page_of_commands_names_every_command() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/reference/commands.md").read_text(encoding="utf-8")
    table = page.split("## Names")[0]
    for name in _COMMANDS:
        assert re.search(rf"`(cinecube )?{name}[ `]", table), name


def test_help_and_ls_import_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from click.testing import CliRunner; from cinecube.cli import main\n"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
        f"assert CliRunner().invoke(main, ['ls', {str(tmp_path)!r}]).exit_code == 1\n"  # nothing is listed
        "heavy = ('torch', 'transformers', 'nilearn', 'distributed', 'matplotlib')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"


def test_what_looks_at_a_study_imports_no_xarray(study: Folder) -> None:
    """DVC's library is asked once for all, and read again when a file has changed."""
    study.must("plan")
    for words in (["ls"], ["why", "data/features/vit/amber.zarr"], ["why", "vit"], ["plan"]):
        code = (
            "import sys; from cinecube.cli import main\n"
            f"main({[*words, '--study', str(study.root)]!r}, standalone_mode=False)\n"
            "heavy = ('torch', 'transformers', 'xarray', 'zarr', 'pandas', 'scipy', 'dvc')\n"
            "print([name for name in heavy if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]", words


def test_ls_lists_every_cube(study: Folder) -> None:
    rows: list[dict[str, Any]] = json.loads(study.must("ls", str(study.root), "--json").stdout)
    kinds = ["brain", "ceiling", "features", "partition", "predictions", "scores", "significance"]
    assert sorted({row["kind"] for row in rows}) == kinds
    vit = next(row for row in rows if row["name"] == "vit amber")
    assert (vit["dim"], vit["layer"], vit["layers"][0], vit["layers"][-1]) == (48, 13, "embed", "block12")


def test_show_says_where_a_cube_comes_from(study: Folder) -> None:
    path = str(study.root / "data" / "features" / "vit" / "amber.zarr")
    shown: dict[str, Any] = json.loads(study.must("show", path, "--json").stdout)
    assert shown["attributes"]["spec"]["clock"]["tr_s"] == 1.49
    assert shown["attributes"]["licence"].startswith("bsd-3-clause") or shown["attributes"]["licence"]
    assert len(shown["statistics"]) == 13
    assert "fingerprint" in study.must("show", path).stdout


def test_verify_passes_and_then_names_the_damage(scratch: Folder) -> None:
    assert "0 damaged" in scratch.must("verify", str(scratch.root)).stdout
    shard = scratch.root / "data/features/vit/amber.zarr/features/c/0/0/0/7"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.unlink()
    shard.write_bytes(bytes(data))
    result = scratch.run("verify", str(scratch.root))
    assert result.exit_code == 1
    assert "vit block07: damaged" in result.stderr


@pytest.mark.parametrize("command", ["ls", "show", "verify"])
def test_a_path_without_a_cube_is_one_line(command: str, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no cube", encoding="utf-8")
    for path in (file, tmp_path / "gone"):
        result = CliRunner().invoke(main, [command, str(path)])
        assert result.exit_code == 1
        assert len(result.stderr.strip().splitlines()) == 1
        assert f"{path}: found " in result.stderr
        assert ("a file" if path == file else "no") in result.stderr


def test_plan_tells_done_from_stale_from_to_do(scratch: Folder) -> None:
    steps = {step["stage"]: step for step in json.loads(scratch.must("plan", "--json").stdout)}
    assert {step["state"] for step in steps.values()} == {"done"}
    last = {"ceiling", "residual", "partition", "significance", "figures", "oracle", "report"}
    assert last | {"residual_features@imagebind.concat-videomae"} <= set(steps)
    scratch.change(lambda params: params["models"]["vit"].update(frames_per_window=2))
    steps = {step["stage"]: step for step in json.loads(scratch.must("plan", "--json").stdout)}
    assert steps["features@vit-amber"]["state"] == "stale"
    assert "frames_per_window: 4 -> 2" in steps["features@vit-amber"]["why"]
    assert steps["features@wav2vec2-amber"]["state"] == "done"


def test_plan_tells_bytes_on_disk_and_an_encoding_that_was_stopped(scratch: Folder) -> None:
    study = load_study(scratch.root)
    paths = StudyPaths(scratch.root)
    folders = {
        "brain@sub-01": paths.brain("sub-01"),
        "encode@vit": paths.scores("vit"),
        f"residual_features@{study.residual[0].name}": paths.residual(study.residual[0].name, "dune").parent,
    }
    steps = {step["stage"]: step for step in json.loads(scratch.must("plan", "--json").stdout)}
    for stage, folder in folders.items():
        on_disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        assert steps[stage]["bytes_when_done"] == on_disk > 0
    problem = read_problem(study, scratch.root, "vit")
    shutil.rmtree(paths.scores("vit"))
    with open_journal(paths.journals, score_spec(study, problem), "vit") as journal:
        journal.write(Block("group0.stream0.layer0", 0, 4), np.zeros((1, 4)))
    steps = {step["stage"]: step for step in json.loads(scratch.must("plan", "--json").stdout)}
    assert (steps["encode@vit"]["state"], steps["encode@vit"]["why"]) == ("resumable", "finished blocks: 1")
    assert steps["encode@vit"]["memory_bytes"] > 0


def test_plan_knows_the_bytes_of_results_before_they_are_made(scratch: Folder) -> None:
    """Maps of all subjects, of as many layers as the checkpoints have."""
    study, paths = load_study(scratch.root), StudyPaths(scratch.root)
    pair = study.residual[1].name  # of several layers: labels are nothing beside them
    folders = {
        "encode@vit": paths.scores("vit"),
        "encode@tvlt": paths.scores("tvlt"),
        f"encode_residual@{pair}": paths.scores(pair),
        f"residual_features@{pair}": paths.residual(pair, "dune").parent,
        "ceiling": paths.ceiling,
        "partition": paths.partition,
        "significance": paths.significance,
    }
    sizes = {
        stage: sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        for stage, folder in folders.items()
    }
    for folder in folders.values():
        shutil.rmtree(folder)
    steps = {step["stage"]: step for step in json.loads(scratch.must("plan", "--json").stdout)}
    for stage, n_bytes in sizes.items():
        assert steps[stage]["state"] == "to do"
        assert steps[stage]["bytes_when_done"] == pytest.approx(n_bytes, rel=0.25), stage
    StudyPaths(scratch.root).checkpoint("vit").unlink()  # whose layers are not known any more
    steps = {step["stage"]: step for step in json.loads(scratch.must("plan", "--json").stdout)}
    known = {stage for stage in folders if steps[stage]["bytes_when_done"]}
    assert known == set(folders) - {"encode@vit", "significance"}


def test_more_folds_than_segments_are_told(scratch: Folder) -> None:
    scratch.change(lambda params: params["encode"].update(folds=40))
    said = scratch.must("encode", "vit").stderr
    assert "encode.folds is 40, but the training films have 4 segments: each was a fold of its own" in said


def test_regressors_that_fit_much_of_a_run_are_told(scratch: Folder) -> None:
    scratch.change(lambda params: params["brain"].update(high_pass_hz=0))
    assert "regressors" not in scratch.must("brain", "sub-01").stderr
    scratch.change(lambda params: params["brain"].update(confounds="simple"))
    told = re.search(
        r"sub-01 \w+: (\d+) regressors fit (\d+)% of any (\d+) volumes", scratch.must("brain", "sub-01").stderr
    )
    assert told
    quality = pd.read_csv(scratch.root / "data/brain/sub-01.qc.csv")
    confounds = next(scratch.root.glob("data/scans/sub-01/**/*_desc-confounds_timeseries.tsv"))
    motion = [name for name in pd.read_csv(confounds, sep="\t") if re.match("(trans|rot)_", name)]
    # Motion with its derivatives and squares, white matter and fluid; and mean and trend.
    assert int(told[1]) == quality["regressors"].max() == len(motion) + 2 + 2
    assert int(told[2]) == round(100 * int(told[1]) / int(told[3])) > 25


def test_names_that_no_stage_will_make_are_told_before_anything_runs(tmp_path: Path) -> None:
    folder = make_small(tmp_path / "study")
    assert folder.must("plan").stderr == ""

    def change(params: dict[str, Any]) -> None:
        params["compute"]["models"].remove("ast")
        params["rois"] = "oota2052"
        params["partition"] = [["videomae", "vit"]]
        params["brain"]["subjects"] = params["brain"]["subjects"][:1]
        params["ceiling"]["use"] = "cross_subject"

    folder.change(change)
    expected = [
        *("residual: found ast", "unimodal: found ast"),
        "rois: found no set or file 'oota2052'",
        "ceiling.use: found cross_subject with one subject",
    ]
    for command in ("plan", "inputs"):
        lines = folder.must(command).stderr.splitlines()
        assert all(any(f"params.yaml: {start}" in line for line in lines) for start in expected), lines
        assert not any("partition" in line for line in lines)


def test_a_partition_writes_its_tables_where_the_pipeline_is_of_an_earlier_version(scratch: Folder) -> None:
    """They were outputs of its stage, which DVC expects."""
    tables = [scratch.root / "results/tables" / f"{name}.csv" for name in ("partition", "partition_roi")]
    before = [path.read_bytes() for path in tables]
    for stages, is_theirs in (("partition: {}", True), ("partition: {}, partition_tables: {}", False)):
        (scratch.root / "dvc.yaml").write_text(f"stages: {{{stages}}}\n", encoding="utf-8")
        for path in tables:
            path.unlink(missing_ok=True)
        scratch.must("partition")
        assert [path.exists() for path in tables] == [is_theirs] * 2
        if is_theirs:
            assert [path.read_bytes() for path in tables] == before


def test_plan_counts_the_rows_of_a_fresh_study(raw: Folder) -> None:
    raw.must("films")
    raw.must("checkpoint", "vit")
    steps = {step["stage"]: step for step in json.loads(raw.must("plan", "--json").stdout)}
    assert steps["features@vit-amber"]["state"] == "to do"
    assert steps["features@vit-amber"]["why"].endswith("rows")
    assert steps["features@wav2vec2-amber"]["why"].startswith("waits")


def test_python_opens_the_same_cubes(study: Folder) -> None:
    import cinecube as cc

    opened = cc.open(study.root)
    one = opened.features(model="vit", film="amber", layer=7)
    assert one.dims == ("time", "dim", "model")
    plain = xr.open_zarr(study.root / "data/features/vit/amber.zarr")["features"].sel(layer="block07")
    assert bool((one.values == plain.values).all())
    joined = opened.features(model=["vit", "wav2vec2"])
    assert list(joined["model"].values) == ["vit", "wav2vec2"]
    assert joined.sizes["time"] == sum(
        opened.features(model="vit", film=film).sizes["time"] for film in opened.params.films
    )
    assert opened.brain("sub-01")["bold"].dims == ("time", "target")
    assert opened.scores("vit")["score"].dims == ("subject", "model", "layer", "target")
    pair = "imagebind.concat-videomae"
    assert opened.scores(pair)["model"].values.tolist() == [pair]
    assert opened.features(model=pair, film="amber").sizes["time"] == one.sizes["time"]
    assert all(name in repr(opened) for name in ("vit", "amber", "sub-01"))
    assert opened.truth()["schema"] == 2
    with pytest.raises(cc.StudyError, match="no layer 13"):
        opened.features(model="vit", film="amber", layer=13)


def test_xarray_reads_every_cube_without_cinecube(study: Folder) -> None:
    """In a process where importing cinecube fails."""
    code = (
        "import sys; sys.modules['cinecube'] = None\n"
        "import xarray as xr, pathlib\n"
        "for path in sorted(pathlib.Path('.').rglob('*.zarr')):\n"
        "    cube = xr.open_zarr(path); print(path.name, *sorted(map(str, cube.data_vars)), *cube.dims); cube.load()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        capture_output=True,
        text=True,
        cwd=study.root,
        env={**os.environ, "PYTHONPATH": ""},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert lines["amber.zarr"] == "features time dim model layer"
    assert lines["sub-01.zarr"] == "bold time target"
    assert lines["vit.zarr"].startswith("alpha constant cv_score lag_score score unscored ")


def test_an_unknown_command_is_one_line() -> None:
    result = CliRunner().invoke(main, ["encod", "vit"])
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert "No such command 'encod'" in result.stderr
    assert "encode" in result.stderr.replace("'encod'", "")


def test_verify_of_nothing_is_no_success(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["verify", str(tmp_path)])
    assert result.exit_code == 1
    assert "found no cube, expected a cube or a folder of cubes" in result.stderr


def test_a_cube_that_vanishes_while_it_is_looked_at_is_one_line(
    scratch: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = os.scandir
    vanished = scratch.root / "data/features/vit/amber.zarr"

    def scandir(path: Any = ".") -> Any:
        if Path(path).parent == vanished:
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return own(path)

    monkeypatch.setattr(os, "scandir", scandir)
    for words in (("verify", "vit"), ("ls",)):
        done = scratch.run(*words)
        assert isinstance(done.exception, SystemExit | None), repr(done.exception)
        assert "vanished while it was looked at" in done.stderr
        assert "nobody expected" not in done.stderr


@pytest.mark.parametrize("words", [("verify",), ("show", "vit"), ("why", "vit"), ("verify", "vit"), ("ls",)])
def test_a_folder_that_is_no_study_is_called_that(tmp_path: Path, words: tuple[str, ...]) -> None:
    line = Folder(tmp_path).error(*words)
    assert re.search(r"no such file, expected a study's parameters|no study|of cubes: this is none", line), line
    assert "dvc" not in line
    assert "pull" not in line


def test_a_folder_that_vanishes_meanwhile_is_passed_over(study: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    own = os.scandir

    def vanished(path: Any = ".") -> Any:
        if str(path).endswith("data/features/vit"):
            raise FileNotFoundError(2, "No such file or directory", path)
        return own(path)

    known = json.loads(study.must("ls", "--json").stdout)
    monkeypatch.setattr(os, "scandir", vanished)
    found = json.loads(study.must("ls", "--json").stdout)
    left = [row["path"] for row in known if not row["path"].startswith("data/features/vit/")]
    assert len(left) < len(known)
    assert [row["path"] for row in found] == left


def test_columns_of_ls_do_not_run_together(study: Folder) -> None:
    lines = study.must("ls").stdout.splitlines()
    rows = json.loads(study.must("ls", "--json").stdout)
    headings = [line for line in lines if not line.startswith(" ")]
    assert headings == [*dict.fromkeys(row["group"] for row in rows if row["group"] not in OF_ALL), *OF_ALL[:2]]
    for row in rows:
        (at,) = (i for i, line in enumerate(lines) if line.endswith(f"  {row['path']}"))
        assert f"  {row['axes']}  " in lines[at]
        above = [line for line in lines[:at] if line in headings]
        assert above[-1] == row["group"]
        part = row["name"].split()[-1] if row["kind"] in ("features", "brain") else row["kind"]
        assert lines[at].startswith(f"  {part}  ")


def test_show_keeps_the_parts_of_a_partition_apart(study: Folder) -> None:
    rows = json.loads(study.must("show", "results/partition.zarr", "--json").stdout)["statistics"]
    cube = xr.open_zarr(study.root / "results/partition.zarr")
    assert len(rows) > cube.sizes["subject"]
    assert len({tuple(row["at"]) for row in rows}) == len(rows)


@pytest.mark.parametrize("command", ["whole-brain", "layerwise", "residual", "oracle"])
def test_tables_are_named_when_they_are_written(scratch: Folder, command: str) -> None:
    assert "results/tables" in scratch.must(command).stdout


def test_an_array_of_a_cube_is_no_cube(study: Folder) -> None:
    line = study.error("show", "data/features/vit/amber.zarr/features")
    assert "found a part of a cube, expected the whole; name data/features/vit/amber.zarr" in line


def test_help_groups_commands_by_task_and_cuts_no_summary() -> None:
    for width in (80, 60):
        text = CliRunner().invoke(main, ["--help"], terminal_width=width).output
        assert "..." not in text.partition("Start a study")[2]
        shown = " ".join(text.split())
        for task, names in _TASKS.items():
            assert f"{task}:" in shown
            for name in names:
                command = main.get_command(click.Context(main), name)
                assert command is not None
                assert command.get_short_help_str(10_000) in shown, name
        assert max(map(len, text.splitlines())) <= 80


COLOUR = re.compile(r"\x1b\[[\d;]*m")


def test_colours_are_a_terminals(study: Folder) -> None:
    """And nobody's who says NO_COLOR; what stands there is the same."""
    for words in (["ls"], ["plan"], ["why", "vit"]):
        plain = study.must(*words).stdout
        assert not COLOUR.search(plain)
        here = [*words, "--study", str(study.root)]
        coloured = CliRunner().invoke(main, here, color=True)
        assert COLOUR.search(coloured.stdout), words
        assert COLOUR.sub("", coloured.stdout) == plain
        for without in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
            assert CliRunner().invoke(main, here, color=True, env=without).stdout == plain


def test_colours_of_foreign_names_are_none(tmp_path: Path, study: Folder) -> None:
    """A name that holds an escape is written out, in a heading too."""
    folder = tmp_path / "\x1b[31mred"
    shutil.copytree(study.root / "data/features/vit/amber.zarr", folder / "amber.zarr")
    done = CliRunner().invoke(main, ["ls", str(tmp_path)], color=True)
    assert "\x1b[31m" not in done.stdout
    assert "\\x1b[31mred" in done.stdout


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("layerwise",), False),
        (("card",), False),
        (("ls",), True),
        (("plan",), True),
        (("why", "vit"), True),
        (("verify", "vit"), True),
        (("clean", "--dry-run"), True),
    ],
)
def test_quiet_leaves_what_was_asked_for(scratch: Folder, words: tuple[str, ...], asked: bool) -> None:
    told = scratch.must(*words)
    for quiet in ((*words, "--quiet"), (*words, "-q")):
        done = scratch.must(*quiet)
        assert done.stdout == (told.stdout if asked else "")
        assert done.stderr == ""
    assert (
        CliRunner().invoke(main, ["--quiet", words[0], "--study", str(scratch.root), *words[1:]]).output == done.output
    )


def test_quiet_keeps_errors_and_ends_with_its_command(scratch: Folder) -> None:
    assert "did you mean 'vit'?" in scratch.error("why", "vitt", "--quiet")
    assert scratch.must("layerwise").stdout
