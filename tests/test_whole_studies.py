"""Studies that lack what most have, each from `cinecube init` to its report with the real `dvc`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from cinecube.cli import main
from cinecube.simulation.features.checkpoints import write_checkpoint

from .conftest import Folder, dvc
from .lab import make_lab, table_of

pytestmark = pytest.mark.slow

FILMS = {"amber": ["amber01", "amber02"], "dune": ["dune01"]}
ONE_FILM = {"amber": ["amber01", "amber02", "amber03"]}
REGIONS = "EV: [L_A, R_A]\nAG: [L_B, R_B]\n"


@dataclass(frozen=True)
class Kind:
    """A study of one kind.

    Attributes
    ----------
    prepare : callable
        What its user does between `init` and `dvc repro`, given the study and the lab's folder.
    scores : dict
        Stream -> lowest and highest score of the whole brain that its truth allows.
    films : dict
        Film -> segments, as they lie in the lab's folder.
    subjects : int
    test : str, optional
        The film that the last segment becomes, where there is one film only.
    lab : dict
        How the lab differs from `make_lab`'s.
    """

    prepare: Callable[[Folder, Path], None]
    scores: dict[str, tuple[float, float]]
    films: dict[str, list[str]] = field(default_factory=lambda: FILMS)
    subjects: int = 1
    test: str | None = None
    lab: dict[str, Any] = field(default_factory=dict)


def _shrink(params: dict[str, Any]) -> None:
    params["compute"]["models"] = []
    params["brain"]["confounds"] = "motion"  # the runs are too short for `simple`
    params["statistics"] |= {"permutations": 99, "block_rows": 2}


def _add_two(study: Folder, lab: Path) -> None:
    """Features that responses follow and features that they do not, in every analysis; no network."""
    table = table_of(FILMS)
    table.to_csv(lab / "level.csv", index=False)
    shuffled = table["level"].sample(frac=1, random_state=0).to_numpy()
    table.drop(columns="level").assign(shuffled=shuffled).to_csv(lab / "shuffled.csv", index=False)
    for model in ("level", "shuffled"):
        study.must("add", str(lab / f"{model}.csv"), "--model", model)
    (study.root / "rois.yaml").write_text(REGIONS, encoding="utf-8")
    pair = ["level", "shuffled"]

    def name_both(params: dict[str, Any]) -> None:
        params["rois"] = "rois.yaml"
        params["residual"] = [{"keep": "level", "remove": "shuffled"}]
        params["partition"] = [pair]
        params["statistics"]["compare"] = [pair]
        params["unimodal"] = {"video": ["level"], "audio": ["shuffled"]}

    study.change(name_both)


def _compute(model: str, **how: Any) -> Callable[[Folder, Path], None]:
    """A study of one network with random weights."""

    def prepare(study: Folder, lab: Path) -> None:
        write_checkpoint(0, model, lab / model)  # type: ignore[arg-type]

        def choose(params: dict[str, Any]) -> None:
            params["models"] = {model: {"extractor": model, "checkpoint": str(lab / model), **how}}
            params["compute"]["models"] = [model]
            params["ceiling"] = {"use": "none"}

        study.change(choose)

    return prepare


KINDS = {
    "added features alone": Kind(_add_two, {"level": (0.7, 1), "shuffled": (-0.5, 0.5)}, subjects=2),
    "one film, with a commentary beside the sound of one segment": Kind(
        _compute("wav2vec2"),
        {"wav2vec2": (0.3, 1)},
        films=ONE_FILM,
        test="amber_test",
        lab={"commented": ["amber03"]},
    ),
    "sound only": Kind(_compute("wav2vec2"), {"wav2vec2": (0.3, 1)}, lab={"picture": False}),
    "pictures only": Kind(_compute("vit", frames_per_window=1), {"vit": (0.3, 1)}, lab={"sound": False}),
}


# The one that every run makes; the others are for `make test-all`.
_ALWAYS = "one film, with a commentary beside the sound of one segment"


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, id=name, marks=() if name == _ALWAYS else pytest.mark.long) for name, kind in KINDS.items()],
)
def test_from_init_to_the_report(kind: Kind, tmp_path: Path) -> None:
    lab = make_lab(tmp_path / "lab", kind.films, [f"sub-{n + 1:02d}" for n in range(kind.subjects)], **kind.lab)
    study = Folder(tmp_path / "mine")
    places = ["--stimuli", lab / "films", "--scans", lab / "fmriprep", "--atlas", lab / "atlas.nii.gz"]
    words = ["init", str(study.root), "--template", "own", *map(str, places)]
    if kind.test:
        done = CliRunner().invoke(main, words)
        assert "found 1 film, amber, expected two or more folders" in done.stderr
        # It does what it is told to.
        folder = Path(done.stderr.strip().rsplit(" ", 1)[1])
        assert folder.name == kind.test
        folder.mkdir()
        last = sorted((lab / "films").glob("amber/*"))[-1]
        last.rename(folder / last.name)
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    study.change(_shrink)
    kind.prepare(study, lab)
    dvc(study.root, "repro")
    means = pd.read_csv(study.root / "results/tables/whole_brain_mean.csv").query("subject == 'all'")
    found = means.set_index("model")["score"].to_dict()
    assert set(found) == set(kind.scores)
    for stream, (low, high) in kind.scores.items():
        assert low < found[stream] < high
    page = (study.root / "results/report/index.html").read_text(encoding="utf-8")
    assert all(f'<td class="text">{stream}</td>' in page for stream in kind.scores)
    assert re.findall(r"Running stage '([^']+)'", dvc(study.root, "repro")) == ["inputs"]
