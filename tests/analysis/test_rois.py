"""Regions of interest: the shipped sets against the paper's numbers, and means against obvious loops."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from cinecube.analysis.cubes.tables import EVERYONE, read_table, write_table
from cinecube.analysis.regions.rois import (
    Members,
    RoiSet,
    find_members,
    load_rois,
    roi_means,
    roi_summary,
    shipped_rois,
)
from cinecube.analysis.report.sections import HELD
from cinecube.analysis.statistics.intervals import spread_over_subjects
from cinecube.store.base.errors import StudyError
from cinecube.store.spaces.label_volumes import schaefer_names

# HCP-MMP 1.0 in the order of its numbers, 1 to 180 (Glasser et al. 2016).
HCP_MMP = """
V1 MST V6 V2 V3 V4 V8 4 3b FEF PEF 55b V3A RSC POS2 V7 IPS1 FFC V3B LO1 LO2 PIT MT A1 PSL SFL PCV STV 7Pm 7m POS1 23d
v23ab d23ab 31pv 5m 5mv 23c 5L 24dd 24dv 7AL SCEF 6ma 7Am 7PL 7PC LIPv VIP MIP 1 2 3a 6d 6mp 6v p24pr 33pr a24pr p32pr
a24 d32 8BM p32 10r 47m 8Av 8Ad 9m 8BL 9p 10d 8C 44 45 47l a47r 6r IFJa IFJp IFSp IFSa p9-46v 46 a9-46v 9-46d 9a 10v
a10p 10pp 11l 13l OFC 47s LIPd 6a i6-8 s6-8 43 OP4 OP1 OP2-3 52 RI PFcm PoI2 TA2 FOP4 MI Pir AVI AAIC FOP1 FOP3 FOP2
PFt AIP EC PreS H ProS PeEc STGa PBelt A5 PHA1 PHA3 STSda STSdp STSvp TGd TE1a TE1p TE2a TF TE2p PHT PH TPOJ1 TPOJ2
TPOJ3 DVT PGp IP2 IP1 IP0 PFop PF PFm PGi PGs V6A VMV1 VMV3 PHA2 V4t FST V3CD LO3 VMV2 31pd 31a VVC 25 s32 pOFC PoI1 Ig
FOP5 p10p p47r TGv MBelt LBelt A4 STSva TE1m PI a32pr p24
""".split()  # noqa: SIM905  (180 quoted strings would be no easier to compare with the atlas)

# The lists of numbers in the authors' code; MST (2) is in a comment beside them.
PUBLISHED = {
    "AG": [149, 151, 150, 140, 141],
    "ATL": [123, 131, 132, 134, 172, 128, 176],
    "PTL": [129, 125, 139, 25, 28, 175, 130],
    "IFG": [74, 75, 79, 81],
    "MFG": [12],
    "IFGOrb": [77, 171, 85],
    "PCC": [161, 162, 27, 30, 32, 33, 34, 14],
    "dmPFC": [69, 62, 72],
    "EV": [1, 4, 5],
    "dorsal": [13, 19, 3, 152, 16, 17],
    "MT": [23, 2, 20, 21, 157, 158],
}
ATLAS = [f"{side}_{name}" for side in "LR" for name in HCP_MMP]


def write(tmp_path: Path, text: str) -> str:
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    return "mine.yaml"


def table_of(scores: dict[tuple[str, str, str], float]) -> pd.DataFrame:
    rows = [(*key, score, 5) for key, score in scores.items()]
    return pd.DataFrame(rows, columns=["parcel", "subject", "model", "score", "targets"])


def drawn_table(subjects: int = 4, models: tuple[str, ...] = ("vit", "ast")) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    names = [f"sub-{s + 1:02d}" for s in range(subjects)]
    return table_of({key: float(rng.normal()) for key in itertools.product(ATLAS, names, models)})


OURS = ("AC", "OFA", "PPA")
"""Regions that the paper shows and its code lacks: those of the sibling set."""


def test_the_paper_s_regions_are_those_of_its_code() -> None:
    assert len(HCP_MMP) == 180
    by_number = {roi: {HCP_MMP[number - 1] for number in numbers} for roi, numbers in PUBLISHED.items()}
    shipped, sibling = (load_rois(name, Path("nowhere")).labels for name in ("oota2025", "oota2025_sibling"))
    assert list(shipped) == [*PUBLISHED, *OURS]
    assert {roi: set(labels) for roi, labels in shipped.items() if roi not in OURS} == by_number
    assert {roi: shipped[roi] for roi in OURS} == {roi: sibling[roi] for roi in OURS}


def test_the_sibling_s_regions_differ_where_its_appendix_says() -> None:
    own, sibling = (load_rois(name, Path("nowhere")).labels for name in ("oota2025", "oota2025_sibling"))
    for roi in ("AG", "ATL", "PTL", "IFG", "MFG", "IFGOrb", "PCC", "dmPFC"):
        assert sibling[roi] == own[roi]
    assert sibling["EV"] == ("V1", "V2", "V3", "V3B", "V4")
    assert sibling["LOC"] == ("LO1", "LO2")
    assert sibling["MT"] == ("MT", "MST", "LO3", "FST", "V3CD")
    assert set(sibling["LTC"]) == {*own["ATL"], *own["PTL"]} - {"A4"}
    assert {HCP_MMP.index(name) + 1 for name in sibling["AC"]} == {24, 174, 124, 173, 104, 175}


@pytest.mark.parametrize("name", shipped_rois())
def test_every_label_of_a_shipped_set_is_one_of_the_atlas(name: str) -> None:
    members = find_members(load_rois(name, Path("nowhere")), schaefer_names() if name == "yeo7" else ATLAS)
    assert members.notes == ()
    assert set(members.parcels) == set(load_rois(name, Path("nowhere")).labels)


def test_hemispheres_pool_unless_a_label_names_one() -> None:
    rois = RoiSet("mine", {"both": ("V1", "44"), "left": ("L_V1",), "old": ("R_V2_ROI",)})
    members = find_members(rois, ["L_V1", "R_V1", "L_44", "R_V2", "L_V2", ""])
    assert members.parcels == {"both": ("L_V1", "R_V1", "L_44"), "left": ("L_V1",), "old": ("R_V2",)}
    assert members.notes == ()
    # An atlas that merges the hemispheres has no left part.
    merged = find_members(rois, ["V1", "V2", "44"])
    assert merged.parcels == {"both": ("V1", "44")}
    assert [note.split(":")[0] for note in merged.notes] == ["left", "old"]


def test_missing_labels_are_noted_and_empty_regions_left_out() -> None:
    rois = RoiSet("mine", {"AG": ("PGi", "PFm"), "EV": ("v1", "Vx"), "AC": ("A1",)})
    members = find_members(rois, ["L_PGi", "L_V1", "R_A1"])
    assert members.parcels == {"AG": ("L_PGi",), "AC": ("R_A1",)}
    assert members.notes == (
        "AG: the atlas lacks 1 of 2 labels, PFm",
        "EV: the atlas lacks 2 of 2 labels, v1 (did you mean V1?), Vx; the region is left out",
    )


def test_another_area_is_no_slip_of_the_pen() -> None:
    """TPOJ1 is one letter from TPOJ2, and both exist: in a small atlas neither stands for the other."""
    members = find_members(RoiSet("mine", {"a": ("TPOJ2", "V1")}), ["L_TPOJ1", "L_V1"])
    assert members.notes == ("a: the atlas lacks 1 of 2 labels, TPOJ2",)


@pytest.mark.parametrize(
    ("parcels", "found"), [(["Vis_1", "Vis_2"], "Vis_1"), ([], "without parcels"), (["all"], "all")]
)
def test_an_atlas_of_other_names_is_refused(parcels: list[str], found: str) -> None:
    with pytest.raises(StudyError, match=found):
        find_members(load_rois("oota2025", Path("nowhere")), parcels)


def test_a_file_of_the_study_is_read_as_written(tmp_path: Path) -> None:
    name = write(tmp_path, "EV: [V1, L_V2]\nIFG: [44, '45', 55b]\n")
    rois = load_rois(name, tmp_path)
    assert (rois.name, dict(rois.labels)) == ("mine", {"EV": ("V1", "L_V2"), "IFG": ("44", "45", "55b")})
    assert load_rois(str(tmp_path / name), Path("elsewhere")) == rois
    named = load_rois(write(tmp_path, "EV: {name: early visual cortex, labels: [V1]}\nMT: [MT]\n"), tmp_path)
    assert (dict(named.labels), dict(named.names)) == ({"EV": ("V1",), "MT": ("MT",)}, {"EV": "early visual cortex"})


def test_each_parcel_of_algonauts_is_in_one_network() -> None:
    names = schaefer_names()
    members = find_members(load_rois("yeo7", Path("nowhere")), names)
    assert not members.notes
    assert sorted(name for parcels in members.parcels.values() for name in parcels) == sorted(names)
    network = {name: roi for roi, parcels in members.parcels.items() for name in parcels}
    # Lines of the authors' table.
    expected = {"L_0081": "Vis", "L_0230": "DorsAttn", "L_0317": "Limbic", "L_0500": "Default", "R_0501": "Vis"}
    expected |= {"R_0684": "SomMot", "R_0746": "SalVentAttn", "R_0843": "Cont", "R_0998": "Default", "R_1000": "Cont"}
    assert {name: network[name] for name in expected} == expected


@pytest.mark.parametrize("name", ["oota2025", "oota2025_sibling", "yeo7"])
def test_every_region_of_a_shipped_set_has_a_full_name(name: str) -> None:
    rois = load_rois(name, Path("nowhere"))
    assert list(rois.names) == list(rois.labels)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "an empty file"),
        ("- V1\n", "no regions"),
        ("EV: V1\n", "EV: found no list of labels"),
        ("EV: []\n", "EV: found no list of labels"),
        ("EV: {name: early}\n", "EV: found no list of labels"),
        ("EV: {name: 3, labels: [V1]}\n", "EV: found no `{name"),
        ("EV: {label: [V1], labels: [V1]}\n", "EV: found no `{name"),
        ("EV: [V1, 1.5]\n", "the label 1.5"),
        ("EV: [V1, no]\n", "the label False"),
        ("EV: [V1, [V2]]\n", "the label"),
        ("EV: [V1, '']\n", "the label ''"),
        ("EV: [V1, V2, V1]\n", "V1 twice"),
        ("EV: [V1]\nEV: [V2]\n", "the key 'EV' twice"),
        ("no: [V1]\n", "the region False"),
        ("EV: [V1\n", "malformed YAML"),
        ("EV: !!python/object/apply:os.getcwd []\n", "malformed YAML"),
    ],
)
def test_a_malformed_file_is_refused_in_one_line(tmp_path: Path, text: str, found: str) -> None:
    with pytest.raises(StudyError, match=found) as caught:
        load_rois(write(tmp_path, text), tmp_path)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"EV: [\xff\xfe]")
    with pytest.raises(StudyError, match="UTF-8"):
        load_rois("mine.yaml", tmp_path)


@pytest.mark.parametrize("name", ["oota2024", ".", "rois/none.yaml"])
def test_an_unknown_set_names_the_shipped_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(StudyError, match="oota2025, oota2025_sibling"):
        load_rois(name, tmp_path)


def test_means_weigh_parcels_alike_and_leave_the_pooled_subject_aside() -> None:
    table = table_of(
        {
            ("L_V1", "sub-01", "vit"): 0.1,
            ("R_V1", "sub-01", "vit"): 0.3,
            ("L_V2", "sub-01", "vit"): 0.8,
            ("L_V1", "sub-02", "vit"): 0.5,
            ("R_V1", "sub-02", "vit"): np.nan,
            ("L_A1", "sub-02", "vit"): 0.9,
            ("L_V1", EVERYONE, "vit"): 99.0,
        }
    ).assign(targets=[1000, 1, 1, 1, 0, 1, 1])
    members = Members({"EV": ("L_V1", "R_V1", "L_V2"), "V2": ("L_V2",)}, ())
    means = roi_means(table, members)
    assert means.columns.tolist() == ["roi", "subject", "model", "score", "parcels"]
    found = {(row.roi, row.subject): (row.score, row.parcels) for row in means.itertuples()}
    assert found == {
        ("EV", "sub-01"): (pytest.approx(0.4), 3),
        ("EV", "sub-02"): (pytest.approx(0.5), 1),
        ("V2", "sub-01"): (0.8, 1),
    }


def test_summary_equals_obvious_loops() -> None:
    table, rois = drawn_table(), load_rois("oota2025", Path("nowhere"))
    members = find_members(rois, table["parcel"].unique())
    summary = roi_summary(roi_means(table, members))
    assert summary.columns.tolist() == ["roi", "model", "subjects", "mean", "sem", "low", "high", "parcels"]
    assert list(zip(summary["roi"], summary["model"], strict=True)) == list(
        itertools.product(rois.labels, ["vit", "ast"])
    )
    score = table.set_index(["parcel", "subject", "model"])["score"]
    for row in summary.itertuples():
        parcels = [f"{side}_{label}" for label in rois.labels[row.roi] for side in "LR"]
        by_subject = [np.mean([score[p, s, row.model] for p in parcels]) for s in table["subject"].unique()]
        assert (row.subjects, row.parcels) == (4, len(parcels))
        np.testing.assert_allclose(row.mean, np.mean(by_subject), rtol=1e-12)
        np.testing.assert_allclose(row.sem, scipy.stats.sem(by_subject), rtol=1e-12)
        assert min(by_subject) <= row.low < row.mean < row.high <= max(by_subject)


def test_layers_are_kept_apart_when_asked_and_never_mixed() -> None:
    parts = [drawn_table().assign(layer=layer, cv=k) for k, layer in enumerate(["embed", "block01", "block10"])]
    table = pd.concat(parts).sort_values("parcel", kind="stable")
    members = Members({"EV": ("L_V1", "R_V1")}, ())
    means = roi_means(table, members, by=("model", "layer"), value="cv")
    summary = roi_summary(means, by=("model", "layer"), value="cv")
    assert summary["layer"].tolist() == ["embed", "block01", "block10"] * 2
    assert summary["mean"].tolist() == [0, 1, 2] * 2
    with pytest.raises(StudyError, match="several rows of L_1 sub-01 vit"):
        roi_means(table, members)


def test_summary_counts_subjects_that_lack_a_region() -> None:
    table = drawn_table(3)
    lost = (table["subject"] == "sub-03") & (table["parcel"].isin(["L_55b", "R_55b"]))
    members = Members({"EV": ("L_V1",), "MFG": ("L_55b", "R_55b")}, ())
    whole, part = (roi_summary(roi_means(rows, members)) for rows in (table, table[~lost]))
    pd.testing.assert_frame_equal(part[part["roi"] == "EV"], whole[whole["roi"] == "EV"])
    assert part.loc[part["roi"] == "MFG", "subjects"].tolist() == [2, 2]
    only = roi_summary(roi_means(table[table["subject"] == "sub-01"], members))
    assert only["mean"].notna().all()
    assert only[["sem", "low", "high"]].isna().all(axis=None)


def test_tables_survive_the_disk(tmp_path: Path) -> None:
    """A merged atlas of numbered areas reads back as numbers; they are names all the same."""
    table = table_of({(area, "sub-01", "vit"): score for area, score in [("44", 0.25), ("45", 0.75)]})
    write_table(tmp_path / "t.csv", table)
    means = roi_means(read_table(tmp_path / "t.csv"), Members({"IFG": ("44", "45")}, ()))
    assert means["score"].tolist() == [0.5]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda t: t.drop(columns="subject"), "no column subject"),
        (lambda t: t.drop(columns="score"), "no column score"),
        (lambda t: pd.concat([t, t.head(1)]), "several rows of L_V1 sub-01 vit"),
        (lambda t: t.assign(score=np.nan), "no subject's score in any region"),
        (lambda t: t.assign(subject=EVERYONE), "no subject's score in any region"),
    ],
)
def test_a_wrong_table_is_refused(change, found: str) -> None:
    with pytest.raises(StudyError, match=found):
        roi_means(change(drawn_table()), Members({"EV": ("L_V1", "R_V1")}, ()))


def test_interval_is_the_percentile_of_means_of_subjects_drawn_again() -> None:
    """Against every possible draw: with three subjects there are 27."""
    values = np.array([[0.1, 0.25, 0.7], [1.0, -2.0, 4.0]])
    spread = spread_over_subjects(values, level=0.8, n_resamples=20_000)
    draws = np.array(list(itertools.product(range(3), repeat=3)))
    means = np.sort(values[:, draws].mean(axis=2), axis=1)
    # Of 27 ordered means, a tenth lies below the third and above the third from the end.
    np.testing.assert_allclose(spread.low, means[:, 2], atol=1e-12)
    np.testing.assert_allclose(spread.high, means[:, -3], atol=1e-12)


def test_interval_agrees_with_scipy() -> None:
    values = np.random.default_rng(3).normal(0.2, 0.1, (5, 12))
    spread = spread_over_subjects(values, level=0.9, n_resamples=20_000, seed=4)
    for row, low, high, sem in zip(values, spread.low, spread.high, spread.sem, strict=True):
        truth = scipy.stats.bootstrap(
            (row,), np.mean, confidence_level=0.9, n_resamples=20_000, method="percentile", rng=np.random.default_rng(5)
        ).confidence_interval
        np.testing.assert_allclose([low, high], truth, atol=0.05 * sem)


def test_a_row_s_interval_depends_on_its_own_values_and_the_seed() -> None:
    rng = np.random.default_rng(6)
    values = rng.normal(size=(600, 5))
    values[::7, 2] = np.nan
    whole = spread_over_subjects(values, n_resamples=500, seed=1)
    for row in (0, 1, 300, 599):
        alone = spread_over_subjects(values[[row]], n_resamples=500, seed=1)
        known = values[row][~np.isnan(values[row])]
        bare = spread_over_subjects(known[None], n_resamples=500, seed=1)
        for name in ("subjects", "mean", "sem", "low", "high"):
            np.testing.assert_allclose(getattr(alone, name), getattr(whole, name)[[row]], rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(getattr(bare, name), getattr(whole, name)[[row]], rtol=1e-12, atol=1e-14)
    other = spread_over_subjects(values, n_resamples=500, seed=2)
    assert (other.low != whole.low).mean() > 0.5


def test_too_few_subjects_have_no_interval() -> None:
    spread = spread_over_subjects(np.array([[np.nan, np.nan], [np.nan, 0.5], [0.5, 0.5]]))
    assert spread.subjects.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(spread.mean, [np.nan, 0.5, 0.5])
    for name, value in (("sem", 0.0), ("low", 0.5), ("high", 0.5)):
        np.testing.assert_array_equal(getattr(spread, name), [np.nan, np.nan, value])


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_a_level_outside_zero_and_one_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="level"):
        spread_over_subjects(np.zeros((1, 3)), level=level)


@pytest.mark.parametrize("n_subjects", HELD)
def test_so_many_intervals_hold_the_mean_as_the_report_says(n_subjects: int) -> None:
    """Of normally distributed subjects; one seed draws the same subjects for all rows, so that many are averaged."""
    held = []
    for seed in range(20):
        values = np.random.default_rng(100 + seed).normal(size=(2000, n_subjects))
        spread = spread_over_subjects(values, n_resamples=2000, seed=seed)
        held.append(np.mean((spread.low <= 0) & (spread.high >= 0)))
    assert abs(np.mean(held) - HELD[n_subjects]) < 0.01  # it is rounded to 0.01; four standard errors are 0.006
