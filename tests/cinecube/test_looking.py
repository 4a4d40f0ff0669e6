"""`open`, `doctor`, and what is said before an import: words that are true of this machine and this study."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import site
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from cinecube.cli import main
from cinecube.machine import computing, installed
from cinecube.machine.storage import room
from cinecube.store.base.errors import StudyError
from cinecube.store.params.document import load_study

from ..conftest import Folder, dvc

REPOSITORY = Path(__file__).resolve().parents[2]


def documented(command: str) -> list[str]:
    """Keys of its JSON, as the page of commands lists them."""
    page = (REPOSITORY / "docs/reference/commands.md").read_text(encoding="utf-8")
    (line,) = re.findall(rf"^\| `{command}` \| (.*) \|$", page.partition("--json")[2], re.MULTILINE)
    return re.findall(r"`(\w+)`", line)


@pytest.mark.parametrize(
    ("words", "beside"),
    [
        (("ls",), {"time", "dim", "model", "layer", "target", "subject", "parcel", "part", "set", "comparison"}),
        (("plan",), set()),
        (("show", "vit"), set()),
        (("why", "vit"), set()),
        (("verify", "vit"), set()),
    ],
)
def test_json_has_the_keys_that_are_documented(study: Folder, words: tuple[str, ...], beside: set[str]) -> None:
    told = json.loads(study.must(*words, "--json").stdout)
    for one in told if isinstance(told, list) else [told]:
        assert set(documented(words[0])) <= set(one)
        assert set(one) - set(documented(words[0])) <= beside


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that a browser was asked for."""
    opened: list[str] = []
    monkeypatch.setattr(click, "launch", lambda url: bool(opened.append(url)))
    monkeypatch.setenv("DISPLAY", ":0")
    return opened


def test_open_shows_the_report(study: Folder, launched: list[str]) -> None:
    done = study.must("open")
    page = study.root.resolve() / "results/report/index.html"
    assert launched == [page.as_uri()]
    assert str(page) in done.stdout
    assert study.must("open", "-q").output == ""


def test_open_without_a_display_prints_the_address(
    study: Folder, launched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    address = (study.root.resolve() / "results/report/index.html").as_uri()
    assert study.must("open", "--quiet").stdout == f"{address}\n"
    assert launched == []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(click, "launch", lambda url: 1)  # no program that opens it
    assert study.must("open").stdout == f"{address}\n"


def test_open_without_a_report_says_what_makes_it(raw: Folder, launched: list[str]) -> None:
    assert "results/report/index.html: found no report, expected" in raw.error("open")
    assert "run `dvc repro`" in raw.error("open")
    assert launched == []


def without_films(folder: Folder) -> None:
    """As a study of others' features is, before its first import."""

    def change(params: dict[str, Any]) -> None:
        params.pop("simulate")
        params |= {"stimuli": None, "imported": [], "models": {}, "compute": {"models": [], "films": []}}
        params |= {"residual": [], "partition": [], "unimodal": {}}
        params["statistics"]["compare"] = []

    folder.change(change)


@pytest.mark.parametrize("words", [("inputs",), ("films",), ("open",)])
def test_before_an_import_its_command_is_named(raw: Folder, words: tuple[str, ...]) -> None:
    without_films(raw)
    line = raw.error(*words)
    assert "found no films and no imported cubes" in line
    assert "run `cinecube import REPO --model MODEL` first, and `dvc repro` then" in line
    assert "`cinecube import REPO --model MODEL` first" in raw.must("plan").stdout


@pytest.mark.slow
def test_an_older_report_is_told(scratch: Folder, launched: list[str]) -> None:
    """By DVC, which has recorded what it was made of."""
    subprocess.run(["git", "init", "-q"], cwd=scratch.root, check=True)
    dvc(scratch.root, "init", "-q")
    (scratch.root / "dvc.yaml").write_text(
        "stages:\n  report:\n    cmd: 'true'\n    deps: [results/tables/roi.csv]\n    outs: [results/report]\n",
        encoding="utf-8",
    )
    dvc(scratch.root, "commit", "-f", "-q")
    assert scratch.must("open").stderr == ""
    table = scratch.root / "results/tables/roi.csv"
    text = table.read_text(encoding="utf-8")
    table.unlink()
    table.write_text(text + "\n", encoding="utf-8")
    told = scratch.must("open").stderr
    assert "results/tables/roi.csv changed; `dvc repro` makes it anew" in told
    assert len(launched) == 2


def diagnosed(folder: Folder, *words: str, code: int = 0) -> dict[str, dict[str, str]]:
    done = folder.run("doctor", "--json", *words)
    assert done.exit_code == code, done.output
    told = json.loads(done.stdout)
    assert all(set(one) == set(documented("doctor")) for one in told)
    return {one["what"]: one for one in told}


def test_doctor_finds_nothing_wrong_where_tests_run(study: Folder) -> None:
    found = diagnosed(study)
    for what in ("Python", "packages", "Git", "study", "packages of [features]", "films", "workers", "inputs"):
        assert found[what]["state"] == "ok", found[what]
    assert all(one["do"] for one in found.values() if one["state"] != "ok")
    lines = study.must("doctor").stdout.splitlines()
    assert len(lines) == len(found)


def test_doctor_outside_of_a_study(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["doctor", "--study", str(tmp_path)])
    assert done.exit_code == 0
    assert "study: no params.yaml here; run in a study's folder" in done.stdout


def test_doctor_says_how_a_study_comes_under_dvc(raw: Folder) -> None:
    """By lines that were run: Git first, where there is none."""
    for words in ("git init && dvc init", "dvc init"):
        found = diagnosed(raw)["DVC"]
        assert (found["state"], found["do"]) == ("absent", f"`{words}` there")
        subprocess.run(["git", "init", "-q"], cwd=raw.root, check=True)
    dvc(raw.root, "init", "-q")
    assert "DVC" not in diagnosed(raw)


BREAK = {
    "study": (lambda p: p["clock"].update(tr_s=0), "found 0, expected"),
    "workers": (lambda p: p.update(dask={"jobqueue": "SLURMCluster"}), "no command `sbatch` on this machine"),
    "workers of no class": (lambda p: p.update(dask={"jobqueue": "NoCluster"}), "expected one of"),
    "workers nowhere": (lambda p: p.update(dask={"address": "tcp://127.0.0.1:9"}), "nobody listens there"),
    "weights": (
        lambda p: (
            [p["models"][name].update(checkpoint=f"lost/{name}/w") for name in ("vit", "ast")] + [p.pop("simulate")]
        ),
        "no lost/vit/w; no lost/ast/w",
    ),
    "GPU": (lambda p: p["run"].update(device="cuda:99"), "run.device: found cuda:99"),
}


@pytest.mark.parametrize("name", BREAK)
def test_doctor_names_what_this_study_lacks(raw: Folder, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, said = BREAK[name]
    raw.change(change)
    monkeypatch.setenv("PATH", str(Path(shutil.which("git") or "").parent))
    if shutil.which("sbatch"):
        monkeypatch.setenv("PATH", os.devnull)
    found = diagnosed(raw, code=1)
    one = found[name.split(" ")[0]]
    assert one["state"] == "missing"
    assert said in one["found"]
    assert one["do"]


def test_doctor_tells_of_a_gpu_that_encoders_do_not_use(raw: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    one = diagnosed(raw)["encoders"]
    assert "`run.backend` is numpy" in one["found"]
    assert "backend: torch" in one["do"]
    raw.change(lambda params: params["run"].update(backend="torch"))
    assert "encoders" not in diagnosed(raw)
    raw.change(lambda params: params["run"].update(backend="numpy"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "encoders" not in diagnosed(raw)


def test_folders_that_are_not_there_are_named(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["init", str(tmp_path / "study"), "--template", "movie10"]).exit_code == 0
    folder = Folder(tmp_path / "study")
    params = load_study(folder.root)
    one = diagnosed(folder, code=1)["inputs"]
    assert one["state"] == "missing"
    steps = {step["stage"]: step["why"] for step in json.loads(folder.must("plan", "--json").stdout)}
    for place, stage in ((params.stimuli, "films"), (params.brain.path, "brain@sub-01")):
        assert f"{place}" in one["found"]
        assert steps[stage].startswith(f"no folder {place}: put the ")


def test_doctor_asks_no_hub_that_is_switched_off(raw: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    raw.change(lambda p: [p.pop("simulate"), p["models"]["vit"].update(checkpoint="nobody/no-such-network")])
    study = load_study(raw.root)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StudyError, match=r"no copy of nobody/no-such-network .*HF_HUB_OFFLINE is set.*unset HF_HUB"):
        computing.weights(study, raw.root)
    raw.change(lambda p: p["models"]["vit"].update(checkpoint="data/weights/gone"))
    with pytest.raises(StudyError, match="models.vit.checkpoint: found no data/weights/gone"):
        computing.weights(load_study(raw.root), raw.root)


def test_doctor_goes_on_where_a_library_cannot_be_read(raw: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(asked: str = "auto") -> str:
        raise ImportError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr(computing, "torch_device", broken)
    raw.change(lambda p: p["run"].update(device="cpu"))
    found = diagnosed(raw, code=1)
    assert "libcudart.so.12: cannot open shared object file" in found["GPU"]["found"]
    assert found["inputs"]["state"] == "ok"


def test_doctor_counts_room(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert "free beside the study" in room(tmp_path, None, 1)
    with pytest.raises(StudyError, match=r"free, expected .* for what is still to be made; free some"):
        room(tmp_path, None, 10 * free)


def test_packages_that_do_not_work_together_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.fullmatch(r"\d+ packages", installed.packages())
    assert installed.packages("hcp") == "1 package"
    own = installed.version
    monkeypatch.setattr(installed, "version", lambda name: "3.0.1" if name == "zarr" else own(name))
    with pytest.raises(StudyError, match=r"zarr 3\.0\.1, where cinecube needs >=3\.1\.6.*pip install 'zarr>=3\.1\.6'"):
        installed.packages()
    monkeypatch.setattr(installed, "version", own)
    monkeypatch.setattr(installed, "distribution", lambda name: _Wanting())
    with pytest.raises(StudyError, match=r"no package nowhere-to-be-had, which cinecube needs.*pip install 'nowhere"):
        installed.packages()


class _Wanting:
    requires = ("nowhere-to-be-had>=1",)


def test_stages_that_would_call_another_cinecube_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.prefix) / "bin"))
    assert installed.stage_command(tmp_path) == str(Path(sys.prefix) / "bin" / "cinecube")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    other = tmp_path / ".venv/bin/cinecube"
    other.write_text("#!/bin/sh\n", encoding="utf-8")
    other.chmod(0o755)
    with pytest.raises(StudyError, match=f"stages that would call {re.escape(str(other))}"):
        installed.stage_command(tmp_path)


def environment(folder: Path) -> Path:
    """An environment of its own in which cinecube runs; its folder of commands."""
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    links = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]  # their .pth files too
    (packages / "shared.pth").write_text("\n".join(links), encoding="utf-8")
    command = folder / "bin" / "cinecube"
    # As pip writes it where a path is long or has a space.
    first = f"#!/bin/sh\n'''exec' \"{folder}/bin/python\" \"$0\" \"$@\"\n' '''"
    command.write_text(f"{first}\nfrom cinecube.cli import main\nmain()\n", encoding="utf-8")
    command.chmod(0o755)
    return folder / "bin"


def copied(root: Path, tmp_path: Path) -> Path:
    """As `cp -r` of a study leaves its environment: scripts name the Python of the first place."""
    first = environment(tmp_path / "first" / ".venv")
    shutil.copytree(first.parent, root / ".venv", symlinks=True)
    return first


def gone(root: Path, tmp_path: Path) -> Path:
    shutil.rmtree(copied(root, tmp_path).parent)
    return OWN


OWN = Path(sys.prefix) / "bin"
# What is in the study's `.venv`, whose cinecube the stages call in the end, and what is on the path.
PLACES: dict[str, tuple[Callable[[Path, Path], Path], Callable[[Path], list[Path]]]] = {
    "no environment here, none on the path": (lambda root, at: OWN, lambda at: []),
    "no environment here, another on the path": (lambda root, at: OWN, lambda at: [environment(at / "another")]),
    "an environment of its own": (lambda root, at: environment(root / ".venv"), lambda at: [OWN]),
    "a copied environment": (copied, lambda at: []),
    "a copied environment of which the first is gone": (gone, lambda at: []),
    "the same, and this one is active": (gone, lambda at: [OWN]),
}


def stages_at(root: Path, path: list[Path], command: str) -> tuple[dict[str, str], Path]:
    """What `doctor` says of stages after some lines of a shell, and the environment in which it ran."""
    script = f"cd {shlex.quote(str(root))}\n{command} doctor --json"
    environ = {**os.environ, "PATH": os.pathsep.join(map(str, [*path, "/usr/bin", "/bin"]))}
    done = subprocess.run(["bash", "-c", script], env=environ, stdout=subprocess.PIPE, text=True, check=False)
    found = {one["what"]: one for one in json.loads(done.stdout)}
    return found["stages"], Path(found["Python"]["found"].split(" in ")[1].split(",")[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", PLACES)
def test_stages_run_after_the_line_that_doctor_names(name: str, tmp_path: Path) -> None:
    make, on_path = PLACES[name]
    root = tmp_path / "a study"
    assert CliRunner().invoke(main, ["init", str(root)]).exit_code == 0
    expected, path = make(root, tmp_path), on_path(tmp_path)
    found, _ = stages_at(root, path, shlex.quote(str(OWN / "cinecube")))
    assert found["state"] == "missing"
    line = found["do"].removeprefix("run `").removesuffix("`")
    found, there = stages_at(root, path, f"{line}\ncinecube")
    assert found["state"] == "ok", found
    assert there == expected.parent


@pytest.mark.slow
def test_links_to_an_environment_and_copies_of_it_are_that_environment(tmp_path: Path) -> None:
    root, links = tmp_path / "study", tmp_path / "links"
    assert CliRunner().invoke(main, ["init", str(root)]).exit_code == 0
    links.mkdir()
    (links / "cinecube").symlink_to(OWN / "cinecube")
    assert stages_at(root, [links], "cinecube")[0]["state"] == "ok"
    copied(root, tmp_path)
    assert stages_at(root, [OWN], ".venv/bin/cinecube")[0]["state"] == "ok"


@pytest.mark.slow
def test_doctor_asks_the_remotes(scratch: Folder, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=scratch.root, check=True)
    dvc(scratch.root, "init", "-q")
    assert diagnosed(scratch)["remote"]["state"] == "absent"
    (tmp_path / "store").mkdir()
    dvc(scratch.root, "remote", "add", "-d", "store", str(tmp_path / "store"))
    dvc(scratch.root, "remote", "add", "away", "http://127.0.0.1:9/cubes")
    dvc(scratch.root, "config", "cache.type", "copy")
    found = diagnosed(scratch)
    assert found["remote store"]["state"] == "ok"
    assert str(tmp_path / "store") in found["remote store"]["found"]
    assert found["remote away"]["state"] == "absent"
    assert "remote 'away' (http://127.0.0.1:9/cubes): found" in found["remote away"]["found"]
    assert found["cache"]["state"] == "absent"
    assert "each output takes its room twice" in found["cache"]["found"]
    assert "dvc config cache.type" in found["cache"]["do"]
    dvc(scratch.root, "remote", "default", "away")
    assert diagnosed(scratch, code=1)["remote away"]["state"] == "missing"


def test_show_says_once_what_cubes_hold_twice_and_cuts_long_lists(study: Folder) -> None:
    lines = study.must("show", "sub-01").stdout.splitlines()
    assert sum("affine: " in line for line in lines) == 1
    assert not any(line.startswith("  brain: ") for line in lines)  # what `cleaning` says
    (scans,) = (line for line in lines if line.startswith("  scans: "))
    assert re.search(r'"md5:[0-9a-f]{8}…".* and \d+ more}$', scans)
    (parcel,) = (line for line in lines if line.startswith("  parcel "))
    assert re.search(r"  L_\w+ … R_\w+; \d+ of \d+ without$", parcel)
    (rows,) = (line for line in study.must("show", "significance").stdout.splitlines() if line.startswith("  sub-01: "))
    assert re.search(r"10 and \d+ more}$", rows)
    assert 'rows_of: {"sub-01": "' in study.must("show", "vit/scores").stdout
    whole = json.loads(study.must("show", "sub-01", "--json").stdout)["attributes"]
    assert whole["affine"] == whole["place"]["affine"]
    assert len(whole["spec"]["scans"]) > 3


def test_show_says_of_a_ceiling_what_was_used(study: Folder, tmp_path: Path) -> None:
    used = study.params()["ceiling"]["use"]
    other = {"repeats": "cross_subject", "cross_subject": "repeats"}[used]
    copy = study.copy(tmp_path / "study")
    copy.change(lambda params: params["ceiling"].update(use=other))
    copy.must("ceiling")
    shown = {of: folder.must("show", "ceiling").stdout for of, folder in ((used, study), (other, copy))}
    assert shown["repeats"].startswith("repeats (")
    assert "curve" not in shown["repeats"]
    assert "cross_subject" not in shown["repeats"]
    assert "block_rows" in shown["repeats"]
    assert shown["cross_subject"].startswith("cross_subject (")
    assert '"curve"' in shown["cross_subject"]
    assert "block_rows" not in shown["cross_subject"]
