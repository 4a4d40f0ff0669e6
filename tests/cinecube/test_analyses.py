"""What follows encoding, through the commands, on the small simulated study."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from tests.conftest import Folder

from cinecube.analysis.report.report_tables import HEADS

pytestmark = pytest.mark.slow


def test_findings_stand_beside_the_truth(study: Folder) -> None:
    truth = json.loads((study.root / "results/metrics.json").read_text())["truth"]
    # Of 160 training rows and 80 test rows; the default study's are smaller.
    assert truth["residual_error"] < 0.03
    assert truth["variance_partition_error"] < 0.02
    assert truth["ceiling_error"] < 0.03
    page = (study.root / "results/report/index.html").read_text(encoding="utf-8")
    for title in (
        "Models",
        "Brain",
        "Regions",
        "Layers",
        "Residuals",
        "Variance partitioning",
        "Significance",
        "Methods",
    ):
        assert f"<h2>{title}</h2>" in page
    assert "at least 6 subjects are needed" in page
    heads = re.findall('<th(?: class="text")?>(.*?)</th>', page)
    subjects = {"sub-01", "sub-02", "sub-03"}
    assert len(heads) > 80
    assert {html.unescape(head) for head in heads} <= set(HEADS.values()) | subjects
    # The same numbers in the sentence at the top, in the metrics and in the table.
    finding = html.unescape(re.search(r'<p class="finding">(.*?)</p>', page).group(1))  # type: ignore[union-attr]
    metrics = json.loads((study.root / "results/metrics.json").read_text())
    best = metrics["best_model"]
    means = pd.read_csv(study.root / "results/tables/roi_mean.csv").set_index(["roi", "model"]).loc["whole brain"]
    assert finding.startswith(best)
    assert f"r = {means.loc[best, 'score']:.2f}, {means.loc[best, 'normalised']:.0%} of the ceiling" in finding


def test_removing_video_costs_visual_parcels_more_than_others(study: Folder) -> None:
    table = pd.read_csv(study.root / "results/tables/residual.csv")
    own = table[(table["pair"] == "imagebind.concat-videomae") & (table["subject"] == "all")].set_index("parcel")
    visual = [name for name in own.index if name.split("_")[1] in ("V1", "V2", "V3", "V4", "MT", "V6", "LO1", "LO2")]
    lost = (own["full"] - own["residual"])[visual]
    assert (lost[own["full"][visual] > 0.2] > 0.05).all()


@pytest.mark.parametrize("name", ["figure2", "figure3", "figure4", "figure5"])
def test_every_figure_has_a_table_and_a_picture(study: Folder, name: str) -> None:
    folder = study.root / "results/figures"
    assert len(pd.read_csv(folder / f"{name}.csv"))
    pictures = list(folder.glob(f"{name}*.png"))
    assert pictures
    assert all(path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for path in pictures)
    drawn = [path.with_suffix(".svg").read_text(encoding="utf-8") for path in pictures]
    assert all("<svg" in text and "<dc:date>" not in text for text in drawn)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("score", ("--model", "tvlt.joint")),
        ("score", ("--model", "vit", "--layer", "7")),
        ("normalised", ("--model", "vit", "--subject", "sub-02")),
        ("depth", ("--model", "vit")),
        ("ceiling", ()),
        ("drop", ("--model", "imagebind.concat-videomae")),
        ("q", ("--model", "vit", "--subject", "sub-01")),
        ("group_t", ("--model", "vit")),
        ("group_q", ("--model", "tvlt.joint")),
    ],
)
def test_maps_are_exported(study: Folder, tmp_path: Path, kind: str, words: tuple[str, ...]) -> None:
    study.must("export", kind, str(tmp_path / "map.nii.gz"), *words)
    study.must("export", kind, str(tmp_path / "map.csv"), *words)
    volume = np.asarray(nib.load(tmp_path / "map.nii.gz").dataobj).ravel()
    table = pd.read_csv(tmp_path / "map.csv")
    known = table.dropna(subset=["value"])
    assert len(known) > 100
    np.testing.assert_allclose(volume[known["target"]], known["value"], rtol=1e-5)
    assert np.isfinite(volume).sum() == len(known)


def test_an_exported_score_is_the_cubes(study: Folder, tmp_path: Path) -> None:
    study.must(
        "export", "score", str(tmp_path / "map.csv"), "--model", "vit", "--layer", "block02", "--subject", "sub-01"
    )
    with xr.open_zarr(study.root / "results/scores/vit.zarr") as cube:
        expected = cube["score"].sel(model="vit", layer="block02", subject="sub-01").values
    np.testing.assert_allclose(pd.read_csv(tmp_path / "map.csv")["value"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("score", "map.nii.gz"), "name it with --model"),
        (("score", "map.nii.gz", "--model", "resnet"), "found 'resnet', no model nor a stream of one"),
        (
            ("score", "map.nii.gz", "--model", "vit", "--layer", "99"),
            "map of vit: found no layer 99, expected one of embed, block01",
        ),
        (("score", "map.nii.gz", "--model", "vit", "--subject", "sub-99"), "no subject 'sub-99'"),
        (("drop", "map.nii.gz", "--model", "vit"), "no pair 'vit'"),
        (("q", "map.nii.gz", "--model", "vit"), "name one with --subject"),
        (("group_q", "map.nii.gz", "--model", "vit", "--subject", "sub-01"), "leave out --subject"),
        (("ceiling", "map.func.gii"), "MNI152NLin2009cAsym"),
        (("ceiling", "map.png"), ".nii.gz"),
    ],
)
def test_wrong_maps_are_refused_in_a_line(study: Folder, tmp_path: Path, words: tuple[str, ...], expected: str) -> None:
    kind, name, *options = words
    assert expected in study.error("export", kind, str(tmp_path / name), *options)
    assert not list(tmp_path.iterdir())


def test_pairs_and_sets_must_name_streams(study: Folder, tmp_path: Path) -> None:
    copy = study.copy(tmp_path / "study")
    copy.change(lambda params: params.update(residual=[{"keep": "vit", "remove": "vit"}]))
    assert "residual.0: found vit to keep and to remove" in copy.error("residual")
    copy.change(lambda params: params.update(residual=[], partition=[["vit"]]))
    assert "partition.0: found [vit], expected two or three different streams" in copy.error("partition")
    copy.change(lambda params: params.update(partition=[["vit", "resnet"]]))
    assert "partition.0.1: found 'resnet', no model nor a stream of one" in copy.error("partition")
    assert "no pair" in study.error("residual-features", "vit-ast")


def test_the_report_names_published_choices_that_are_on(
    study: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = "results/report/index.html"
    assert "encode.compat" not in (study.root / page).read_text(encoding="utf-8").split("<main>")[0]
    copy = study.copy(tmp_path / "study")
    copy.change(lambda params: params["encode"].update(compat=["one_alpha", "delays_across_runs"]))
    monkeypatch.setattr(
        "cinecube.analysis.report.brain_maps.draw_study_map", lambda *_, **__: None
    )  # most of its seconds
    copy.must("report")
    lead = (copy.root / page).read_text(encoding="utf-8").split("<main>")[0]
    assert all(f"encode.compat: {name}" in lead for name in ("one_alpha", "delays_across_runs"))
    assert "squared_alphas" not in lead


def test_tables_of_a_model_that_is_gone_are_one_line(scratch: Folder) -> None:
    scratch.change(lambda params: params["compute"]["models"].remove("ast"))
    line = scratch.error("report")
    assert "results/tables: found scores of ast, expected those of " in line
    assert line.endswith("run `dvc repro`, which makes the tables of these models")
