"""What Git ignores of a study, and what `push:` of its outputs is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from cinecube.cli import main
from cinecube.sharing.ignoring import keep_out_of_git
from cinecube.store.dvc.dvc_index import open_index
from cinecube.store.params.document import Study, load_study
from cinecube.store.scans.brain import asked_spec

REPOSITORY = Path(__file__).resolve().parents[2]
# What DVC and people keep in Git.
KEPT = (
    "dvc.lock",
    "data/dvc.lock",
    "data/scans.dvc",
    "data/features/vit/amber.zarr.dvc",
    "data/features/sub-x/amber.zarr.dvc",
    "data/brain/sub-09.zarr.dvc",
    "results/scores/vit.zarr.dvc",
    "results/metrics.json",
    "results/plots/whole_brain.csv",
    "results/plots/layers/sub-x.csv",
    "CARD.html",
    "CITATION.cff",
    "rois.yaml",
    "notebook.ipynb",
)
LEFT = (
    ".cinecube/journal/block.npy",
    ".cinecube/scratch/brain/0.npy",
    "data/brain/.sub-01.zarr.partial/bold/c/0/0",
    "data/brain/.sub-01.zarr.old/zarr.json",
    "results/.significance.zarr.partial/zarr.json",
    "results/plots/.ceiling.csv.partial",
    "results/plots/layers/.vit.csv.partial",
    "anywhere/Film.MP4",
    "anywhere/film.mkv",
    "bids/participants.tsv",
    "bids/sub-01.html",
    "bids/sub-01/ses-1/func/sub-01_task-a_bold.json",
    "nets/vit/model.safetensors",
    "nets/pytorch_model.bin",
    "atlas/labels.label.gii",
    "features.h5",
    "loudness.npy",
    "map.dscalar.nii",
    ".map.nii.gz.partial",
    "copy.zarr/zarr.json",
)


def _git(root: Path, *words: str) -> str:
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    return subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, text=True, env=env).stdout


def _taken(root: Path) -> set[str]:
    """What `git add -A` takes, or has taken."""
    _git(root, "add", "-A")
    return set(_git(root, "-c", "core.quotePath=false", "ls-files").splitlines())


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("private")


def _init(root: Path, *words: str) -> Result:
    result = CliRunner().invoke(main, ["init", str(root), *words])
    assert result.exit_code == 0, result.output
    return result


def _own(root: Path, base: Path, *words: str) -> Result:
    """A study of two empty films and a scan that lie under `base`."""
    _touch(base, "my films/a/a1.mp4", "my films/b/b1.mp4", "my films/a/notes.txt", "fMRI [1]/sub-01/x", "fMRI [1]/log")
    return _init(
        root, "--template", "own", "--stimuli", str(base / "my films"), "--scans", str(base / "fMRI [1]"), *words
    )


@pytest.fixture(params=["simulated", "own", "repository"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Studies as templates make them, and the default one as the repository holds it."""
    root = tmp_path / "study"
    if request.param == "own":
        _own(root, tmp_path)
    else:
        _init(root)
    if request.param == "repository":
        for name in (".gitignore", "params.yaml", "dvc.yaml", "data/dvc.yaml"):
            (root / name).write_bytes((REPOSITORY / name).read_bytes())
    return root


def test_git_takes_no_output_and_no_kind_of_input(root: Path) -> None:
    before = _taken(root)
    outputs = [output.path for output in open_index(root).outputs]
    assert len(outputs) > 20
    _touch(root, *(path if Path(path).suffix not in ("", ".zarr") else f"{path}/part" for path in outputs))
    _touch(root, *LEFT)
    assert _taken(root) == before
    _touch(root, *KEPT)
    # The default study's plots are another machine's in their last digits.
    is_default = (root / ".gitignore").read_bytes() == (REPOSITORY / ".gitignore").read_bytes()
    assert _taken(root) - before == {path for path in KEPT if not (is_default and path.startswith("results/plots/"))}


def test_a_study_says_nothing_that_would_make_dvc_write_ignore_files(root: Path) -> None:
    """DVC asks of a folder by its name alone, and of where it looks for `.dvc` files with a slash."""
    from scmrepo.git import Git

    scm = Git(str(root))
    try:
        assert all(scm.is_ignored(str(root / output.path)) for output in open_index(root).outputs)
        folders = ("data", "data/features", "data/features/vit", "data/brain", "results", "results/scores")
        assert not any(scm.is_ignored(f"{root / folder}/") for folder in folders)
    finally:
        scm.close()


def test_inputs_in_the_study_are_named(tmp_path: Path) -> None:
    root = tmp_path / "study"
    _own(root, root)
    assert not {name for name in _taken(root) if "films" in name or "fMRI" in name}
    # Where they lie is changed later.
    _touch(root, "reels/a/notes.txt", "#odd/log", "weights/net", "kept/log")
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["stimuli"], params["brain"]["path"], params["brain"]["atlas"] = "reels", "./#odd/", "kept"
    params["models"]["vit"]["checkpoint"] = "weights/net"
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    with (root / ".gitignore").open("a") as file:
        file.write("!/kept")  # by somebody who wants it there
    study = load_study(root)
    assert keep_out_of_git(root, study) == ["/reels", r"/\#odd", "/weights/net"]
    assert keep_out_of_git(root, study) == []
    assert not {name for name in _taken(root) if name.startswith(("reels", "#odd", "weights"))}
    assert "kept/log" in _taken(root)


def test_an_ignore_file_that_is_there_is_added_to(tmp_path: Path) -> None:
    root = tmp_path / "study"
    root.mkdir()
    _git(root, "init", "-q")
    (root / ".gitignore").write_bytes(b"*.log\n# gr\xfc\xdfe\n!data")
    told = _init(root).stderr
    assert ".gitignore: appended what keeps films, scans, weights and outputs out of Git" in told
    text = (root / ".gitignore").read_bytes()
    assert text.startswith(b"*.log\n# gr\xfc\xdfe\n!data\n\n# What cinecube keeps out of Git")
    _touch(root, "data/stimuli/a.mkv", "x.log")
    assert not {"data/stimuli/a.mkv", "x.log"} & _taken(root)
    assert CliRunner().invoke(main, ["privacy", "--study", str(root)]).exit_code == 0
    assert (root / ".gitignore").read_bytes() == text


def test_inputs_beside_the_study_in_one_repository_are_told(tmp_path: Path) -> None:
    _git(tmp_path, "init", "-q")
    told = _own(tmp_path / "study", tmp_path).stderr
    assert re.search(r"my films is in the study's Git repository: name it in a .gitignore there", told)
    (tmp_path / ".gitignore").write_text("/my films\n/fMRI*\n")
    told = CliRunner().invoke(main, ["privacy", "--study", str(tmp_path / "study")])
    assert told.exit_code == 0
    assert told.stderr == ""


def test_what_git_took_before_is_told(tmp_path: Path) -> None:
    root = tmp_path / "study"
    _init(root)
    _touch(root, "data/brain/sub-01.zarr/zarr.json")
    _git(root, "add", "-f", "data/brain")
    told = CliRunner().invoke(main, ["privacy", "--study", str(root)]).stderr
    assert "Git keeps data/brain/sub-01.zarr/zarr.json, which .gitignore names: `git rm --cached`" in told


def _kept(root: Path) -> set[str]:
    return {output.path for output in open_index(root).outputs if output.kept}


def _predictions(study: Study) -> set[str]:
    """Cubes that hold measured responses beside predicted ones."""
    names = [*study.encoded, *(pair.name for pair in study.residual)]
    return {f"results/predictions/{name}.zarr" for name in names}


def test_push_is_what_the_study_says(tmp_path: Path) -> None:
    root = tmp_path / "study"
    _init(root)
    texts = {name: (root / name).read_text() for name in ("dvc.yaml", "data/dvc.yaml", "params.yaml")}
    study = load_study(root)
    private = {"data/scans", *_predictions(study)}
    private |= {f"data/brain/{name}.{kind}" for name in study.brain.subjects for kind in ("zarr", "qc.csv")}
    assert _kept(root) == private
    (root / "params.yaml").write_text(texts["params.yaml"].replace("publish: false", "publish: true "))
    done = CliRunner().invoke(main, ["privacy", "--study", str(root)])
    assert "data/dvc.yaml: set `push: true`; commit it" in done.stdout
    assert "brain.publish is true: `dvc push` sends scans and responses of single subjects" in done.stdout
    assert _kept(root) == set()
    (root / "params.yaml").write_text(texts["params.yaml"])
    assert CliRunner().invoke(main, ["privacy", "--study", str(root)]).exit_code == 0
    assert {name: (root / name).read_text() for name in texts} == texts, "comments and layout are as they were"


def test_an_older_study_is_brought_up_to_date(tmp_path: Path) -> None:
    """Its `dvc.yaml` says nothing of `push`, its `params.yaml` nothing of `publish`; scans are tracked by hand."""
    root = tmp_path / "study"
    _own(root, root)
    (root / ".gitignore").write_text("/data/features/*/*.zarr\n")
    pipeline, params = (root / "dvc.yaml").read_text(), (root / "params.yaml").read_text()
    (root / "dvc.yaml").write_text(re.sub(r'(\.zarr"|\.csv"): \{push: false\}', r"\1", pipeline))
    (root / "params.yaml").write_text(re.sub(r"\n  publish: .*", "", params))
    (root / "fMRI [1].dvc").write_text(f"outs:\n- md5: {'0' * 32}.dir\n  hash: md5\n  path: fMRI [1]\n")
    assert _kept(root) == set()
    assert CliRunner().invoke(main, ["privacy", "--study", str(root)]).exit_code == 0
    own = {"data/brain/sub-01.zarr", "data/brain/sub-01.qc.csv", "fMRI [1]"}
    assert _kept(root) == own | _predictions(load_study(root))
    assert (root / "dvc.yaml").read_text() == pipeline
    _touch(root, "data/brain/sub-01.zarr/zarr.json")
    assert not {name for name in _taken(root) if name.startswith(("data/", "fMRI [1]/", "my films"))}


def test_consent_changes_no_fingerprint(tmp_path: Path) -> None:
    study = load_study(REPOSITORY)
    open_to_all = study.model_copy(update={"brain": study.brain.model_copy(update={"publish": True})})
    assert asked_spec(study, "sub-01") == asked_spec(open_to_all, "sub-01")
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    wide = ("brain", "brain.publish")
    asking = [name for name, stage in stages.items() if any(key in wide for key in stage.get("params", []))]
    assert asking == ["privacy"]


def test_everything_is_pulled_or_layers_of_a_model(tmp_path: Path) -> None:
    _init(tmp_path / "study")
    wrong = CliRunner().invoke(main, ["pull", "--study", str(tmp_path / "study"), "--layer", "3"])
    assert wrong.exit_code == 1
    assert "--layer and --film go with --model" in wrong.stderr


def test_what_was_never_made_is_pulled_without_a_word_of_dvc(tmp_path: Path) -> None:
    """DVC warns of each output that no stage has made, and of nothing else here: fifty lines in a new study."""
    _init(tmp_path / "study")
    command = [str(Path(sys.executable).with_name("cinecube")), "pull", "--study", str(tmp_path / "study")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "0 files fetched" in done.stdout
    assert done.stderr == ""
