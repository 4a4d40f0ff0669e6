"""What the report shows: headings in words, text to the left, pictures no wider than the page."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cinecube.analysis.figures.brain_pictures import colour_bar
from cinecube.analysis.figures.drawing import grouped_bars, paired_bars, residual_bars, to_png
from cinecube.analysis.figures.paper_figures import marks_note
from cinecube.analysis.report.charts import layers_chart
from cinecube.analysis.report.findings import findings
from cinecube.analysis.report.headline import headline
from cinecube.analysis.report.methods import write_methods
from cinecube.analysis.report.report_tables import HEADS, Cell, table_grid
from cinecube.analysis.report.sections import PageSection, delays_section, models_section
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import write_cube
from cinecube.store.cube.schema import provenance, string_coordinate
from cinecube.store.params.analysis_params import Pair
from cinecube.store.params.document import Study
from cinecube.store.params.model_params import ModelParams

from .conftest import make_study

PAGE_PX = 1280


def _png(panels: list[Axes]) -> bytes:
    figure = panels[0].get_figure(root=True)
    assert figure is not None
    return to_png(figure, 110)


def test_text_stands_left_and_numbers_right() -> None:
    table = pd.DataFrame({"model": ["vit"], "score": [0.25], "p_fdr": [np.nan], "targets": [12], "found": [True]})
    grid = table_grid(table, good={"found": "yes"})
    assert [head.text for head in grid["heads"]] == ["model", "test r", "p after FDR", "targets (n)", "found"]
    assert [head.kind for head in grid["heads"]] == ["text", "", "", "", "text"]
    assert grid["rows"] == [[Cell("vit", "text"), Cell("0.250"), Cell(""), Cell("12"), Cell("yes", "yes")]]


def test_no_heading_is_a_variable_name() -> None:
    assert not any("_" in words for words in HEADS.values())


def test_numbers_of_a_column_have_as_many_decimals() -> None:
    table = pd.DataFrame(
        {"p": [0.0625, 1e-6], "drop": [35.144, 2.0], "score": [-0.0001, 1.0], "found_delay_tr": [3.0, np.nan]}
    )
    texts = [[cell.text for cell in row] for row in table_grid(table)["rows"]]
    assert texts == [["0.0625", "35.1", "0.000", "3"], ["< 0.0001", "2.0", "1.000", ""]]


def test_names_of_subjects_stand_as_they_are() -> None:
    grid = table_grid(pd.DataFrame({"model": ["vit"], "sub_01": [0.5]}))
    assert [head.text for head in grid["heads"]] == ["model", "sub_01"]


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        (100, ["-100", "-50", "0", "50", "100"]),
        (0.72, ["-0.5", "-0.25", "0", "0.25", "0.5"]),
        (0.664, ["-0.5", "-0.25", "0", "0.25", "0.5"]),
        (0.0312, ["-0.02", "0", "0.02"]),
    ],
)
def test_a_colour_bar_has_a_label_and_round_ticks_within_its_ends(top: float, expected: list[str]) -> None:
    bar = colour_bar(Figure(), -top, top, "drop (%)", clipped=top == 100)
    assert (bar.vmin, bar.vmax) == (-top, top)
    assert [tick.get_text().replace("\N{MINUS SIGN}", "-") for tick in bar.ax.get_yticklabels()] == expected
    assert bar.ax.get_ylabel() == "drop (%)"
    assert bar.extend == ("both" if top == 100 else "neither")


@pytest.mark.parametrize("n_subjects", [4, 9])
def test_figure_3_says_when_so_few_subjects_cannot_be_told_apart(n_subjects: int) -> None:
    study = make_study(tuple(f"sub-{n:02d}" for n in range(n_subjects)))
    study = study.model_copy(update={"unimodal": study.unimodal.model_copy(update={"video": ["net"]})})
    note = marks_note(study)
    assert "* higher than unimodal video" in note
    assert ("at least 6 subjects are needed" in note) == (n_subjects == 4)
    assert note.startswith("No bar can be marked.") == (n_subjects == 4)
    assert marks_note(make_study()) == ""


def test_bars_are_no_wider_than_the_page_and_carry_their_note() -> None:
    rows = [(f"region{r}", f"stream{m}", 0.1 * m, 0.01, "") for r in range(9) for m in range(12)]
    table = pd.DataFrame(rows, columns=["roi", "model", "score", "score_sem", "mark"])
    noted, plain = (_png(grouped_bars(table, "roi", "model", "score", "mark", note)) for note in ("few subjects", ""))
    assert noted != plain
    rows = [("a-b", f"region{r}", name, 0.2, 0.01) for r in range(9) for name in ("full", "residual")]
    table = pd.DataFrame(rows, columns=["pair", "roi", "measure", "mean", "sem"])
    for png in (noted, _png(residual_bars(table, {"a-b": "a without b"}))):
        assert matplotlib.image.imread(io.BytesIO(png)).shape[1] <= PAGE_PX


def test_bars_of_every_parcel_of_an_atlas_can_be_read() -> None:
    """Twelve regions to a row, and no more than a page of the highest; the whole brain stays first."""

    def bars(n_rois: int) -> np.ndarray:
        rows = [(f"region{r}", f"stream{m}", 0.001 * r, 0.01, "") for r in range(n_rois) for m in range(3)]
        table = pd.DataFrame(rows, columns=["roi", "model", "score", "score_sem", "mark"])
        return np.asarray(
            matplotlib.image.imread(io.BytesIO(_png(grouped_bars(table, "roi", "model", "score", "mark"))))
        )

    few, some, many = bars(12), bars(40), bars(360)
    assert max(picture.shape[1] for picture in (few, some, many)) <= PAGE_PX
    assert few.shape[0] < some.shape[0] < many.shape[0] < 2 * some.shape[0]
    rows = [("a-b", f"region{r}", name, 0.2, 0.01) for r in range(360) for name in ("full", "residual")]
    table = pd.DataFrame(rows, columns=["pair", "roi", "measure", "mean", "sem"])
    removed = _png(residual_bars(table, {"a-b": "a"}))
    assert matplotlib.image.imread(io.BytesIO(removed)).shape[1] <= PAGE_PX


def test_a_model_stands_beside_its_untrained_twin_with_its_test() -> None:
    rows = [
        ("vit", 0.4, 0.02, "vit_untrained", 0.03),
        ("ast", 0.2, 0.02, "ast_untrained", 0.5),
        ("tvlt", np.nan, np.nan, np.nan, np.nan),
        ("vit_untrained", 0.1, 0.01, np.nan, np.nan),
        ("ast_untrained", 0.19, 0.01, np.nan, np.nan),
    ]
    table = pd.DataFrame(rows, columns=["model", "score", "score_sem", "untrained", "p"])
    axes = paired_bars(table, "score", level=0.05)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["vit", "ast", "tvlt"]
    pretrained, untrained = axes.containers[1], axes.containers[3]
    np.testing.assert_allclose([bar.get_height() for bar in pretrained], [0.4, 0.2, np.nan])
    np.testing.assert_allclose([bar.get_height() for bar in untrained], [0.1, 0.19, np.nan])
    stars = [text for text in axes.texts if text.get_text() == "*"]
    assert [star.get_position() for star in stars] == [(0, 0.4)]
    assert [text.get_text().strip() for text in axes.texts if text.get_text() != "*"] == ["no score"]


GROUPS = {"unimodal video": ["vit"], "unimodal audio": ["ast"]}


def _means(**scores: tuple[float, float]) -> pd.DataFrame:
    """Over subjects: of vit and ast in each region, whose unimodal means they are."""
    rows = [
        (roi.replace("_", " "), model, value, value * 2)
        for roi, pair in scores.items()
        for model, value in zip(("vit", "ast", *GROUPS), (*pair, *pair), strict=True)
    ]
    return pd.DataFrame(rows, columns=["roi", "model", "score", "normalised"])


def _named(*more: str) -> Study:
    """A study of vit, ast, vit's untrained twin and more models."""
    study = make_study()
    net = study.models["net"]
    models = dict.fromkeys(("vit", "ast", *more), net)
    return study.model_copy(update={"models": {**models, "vit_untrained": net.model_copy(update={"untrained": 0})}})


def test_the_sentence_names_the_best_and_what_each_modality_wins() -> None:
    means = _means(whole_brain=(0.2, 0.1), EV=(0.3, 0.1), MT=(0.5, 0.1), AC=(0.0, 0.4))
    said = headline(means, GROUPS, "vit", _named())
    assert said == "vit predicts best, r = 0.20, 40% of the ceiling; video models win MT, EV, audio models win AC."


def test_multi_modal_models_win_where_a_stream_of_one_is_best_and_twins_nowhere() -> None:
    """A model of one stream that is in no group is of no modality that the study names."""
    means = _means(whole_brain=(0.2, 0.1), EV=(0.3, 0.1), AG=(0.2, 0.3), A1=(0.1, 0.2))
    more = [
        ("AG", "tvlt.joint", 0.4, 0.8),
        ("EV", "tvlt.joint", 0.2, 0.4),
        ("A1", "loudness", 0.5, 1.0),
        ("EV", "vit_untrained", 0.9, 1.8),
    ]
    means = pd.concat([means, pd.DataFrame(more, columns=means.columns)])
    said = headline(means, GROUPS, "vit", _named("tvlt", "loudness"))
    assert said.endswith("; video models win EV, multi-modal models win AG, other models win A1.")


def test_nobody_wins_a_region_that_nobody_predicts() -> None:
    said = headline(_means(whole_brain=(0.2, 0.1), EV=(0.3, 0.1), AC=(-0.2, -0.1)), GROUPS, "vit", _named())
    assert said.endswith("; video models win EV.")


def test_the_sentence_says_where_the_test_film_disagrees_with_the_training_films() -> None:
    said = headline(_means(whole_brain=(0.1, 0.2)).assign(normalised=np.nan), GROUPS, "vit", _named())
    assert said == "vit, which the training films prefer, predicts with r = 0.10; ast reaches 0.20 on the test film."
    assert headline(_means(whole_brain=(0.1, 0.2)), GROUPS, None, _named()) == "No model has a score."


FOUR = tuple(f"sub-{n}" for n in range(1, 5))


def _found_study(subjects: tuple[str, ...] = FOUR) -> Study:
    """A stream, its untrained twin, another stream that it is compared with and whose part in it is removed."""
    study = make_study(subjects)
    twin = study.models["net"].model_copy(update={"untrained": 0})
    other = ModelParams(extractor="vit", checkpoint="data/weights/other")
    return study.model_copy(
        update={
            "models": {**study.models, "net_untrained": twin, "other": other},
            "compute": study.compute.model_copy(update={"models": ["net", "net_untrained", "other"]}),
            "residual": [Pair(keep="net", remove="other")],
            "ceiling": study.ceiling.model_copy(update={"use": "repeats"}),
            "statistics": study.statistics.model_copy(update={"compare": [("net", "other")]}),
        }
    )


def _write_findings(root: Path, subjects: tuple[str, ...] = FOUR) -> dict[str, pd.DataFrame]:
    """Tables and tests of two parcels, the second of which follows nothing."""
    paths, everyone = StudyPaths(root), [*subjects, "all"]
    rows = [(roi, s, m, 0.2, 0.4, 1.0) for roi in ("whole brain", "a", "b") for s in subjects for m in ("net", "other")]
    rows += [(roi, s, "net_untrained", 0.1, 0.2, 1.0) for roi in ("whole brain", "a", "b") for s in subjects]
    scores = pd.DataFrame(rows, columns=["roi", "subject", "model", "score", "normalised", "survive"])
    counts = pd.DataFrame([("net", s, p, 2, 1) for s in subjects for p in ("a", "b")])
    written = {
        "roi": scores,
        "roi_mean": scores.groupby(["roi", "model"], sort=False)[["score", "normalised"]].mean().reset_index(),
        "untrained": pd.DataFrame(
            [("net", "net_untrained", roi, 0.2, 0.1, 4, 0.1, 0.125, 0.125, 0.125) for roi in ("a", "b", "whole brain")],
            columns=[
                "model",
                "untrained",
                "roi",
                "score",
                "untrained_score",
                "n_subjects",
                "mean_difference",
                "p",
                "p_fdr",
                "smallest_p",
            ],
        ),
        "ceiling_growth": pd.DataFrame(columns=["size", "score"]),
        "depth": pd.DataFrame({"parcel": ["a"], "subject": ["sub-1"], "model": ["net"], "depth": [np.nan]}),
        "depth_test": pd.DataFrame(columns=["model"]),
        "significance": counts.set_axis(["model", "subject", "parcel", "targets", "significant"], axis=1),
        "residual": pd.DataFrame(
            [
                ("net-other", p, s, *own)
                for s in everyone
                for p, own in (("a", (0.3, 0.15, 50)), ("b", (0.04, 0, None)))
            ],
            columns=["pair", "parcel", "subject", "full", "residual", "drop"],
        ),
        "residual_check": pd.DataFrame({"pair": ["net-other"], "layer": ["embed"], "linear": [0.1]}),
        "residual_roi": pd.DataFrame(
            [("net-other", "a", name, 0.3, 0.01) for name in ("full", "residual")],
            columns=["pair", "roi", "measure", "mean", "sem"],
        ),
        "comparisons": pd.DataFrame(
            [("net - other", s, 3, 0, 0, 10) for s in subjects],
            columns=["comparison", "subject", "targets", "first_better", "second_better", "block_rows"],
        ),
        "comparisons_roi": pd.DataFrame({"comparison": ["net - other"], "roi": ["a"], "note": ["few subjects"]}),
        "lag_curve": pd.DataFrame({"parcel": ["a"] * 2, "model": "net", "lag": [2, 3], "lag_score": [0.1, 0.0]}),
    }
    paths.tables.mkdir(parents=True)
    for name, table in written.items():
        table.to_csv(paths.tables / f"{name}.csv", index=False)
    # Outside the parcels stands a smaller p, which no row of the table is about.
    p = np.tile([0.01, 0.5, 0.2, 0.001], (len(subjects), 1, 1))
    cube = xr.Dataset(
        {name: (("subject", "comparison", "target"), p * k) for name, k in (("difference_p", 1), ("difference_q", 2))},
        coords={
            "subject": string_coordinate(subjects),
            "comparison": string_coordinate(["net - other"]),
            "target": np.arange(4),
            "parcel": ("target", string_coordinate(["a", "a", "b", ""])),
        },
        attrs=provenance("significance", {}, []),
    )
    cube["score"] = (("subject", "model", "target"), np.full((len(subjects), 1, 4), 0.2))
    cube["q"] = cube["score"].copy(data=np.full((len(subjects), 1, 4), 0.01))
    write_cube(paths.significance, cube.assign_coords(model=string_coordinate(["net"])))
    return written


@pytest.fixture(scope="module")
def sections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PageSection]:
    root = tmp_path_factory.mktemp("report")
    _write_findings(root)
    return {section.key: section for section in findings(_found_study(), root)}


def test_before_and_after_are_of_all_parcels_and_the_drop_of_those_that_lose(sections: dict[str, PageSection]) -> None:
    ((caption, grid),) = sections["residuals"].grids
    row = grid.iloc[0]
    assert row["pair"] == "net without other"
    assert list(sections["residuals"].charts[0].figures) == ["net without other"]
    assert row[["full", "residual", "drop"]].tolist() == pytest.approx([0.17, 0.075, 50.0])
    assert "before and after over all parcels, the mean drop of those with something to lose" in caption
    text = sections["residuals"].text
    for words in ("whose r before exceeds 0.1", "is not the r of Models", "the removed model's features can still be"):
        assert words in text


def test_rows_of_no_target_come_with_the_smallest_p_and_q_in_parcels(sections: dict[str, PageSection]) -> None:
    grids = dict(sections["significance"].grids)
    caption = "Targets in which one model is better than another, beside the smallest p and q of any"
    assert grids[caption][["lowest_p", "lowest_q"]].to_numpy().tolist() == [pytest.approx([0.01, 0.02])] * 4
    assert [head.text for head in table_grid(grids[caption])["heads"]][-2:] == ["smallest p found", "smallest q found"]
    # Of 0.01 a fifth of all targets must have as much: Benjamini and Hochberg's bound at a rate of 0.05.
    assert "The smallest p found is 0.0100" in sections["significance"].text
    assert "at least 20% of these count; the smallest q found is 0.0200." in sections["significance"].text


def test_families_of_false_discovery_rates_are_named(sections: dict[str, PageSection], tmp_path: Path) -> None:
    """As `compare_by_roi` takes them: the whole brain is one of its regions."""
    captions = [caption for key in ("regions", "significance") for caption, _ in sections[key].grids]
    assert "Pretrained beside untrained; FDR over these regions and the whole brain of each pair" in captions
    assert any(caption.endswith("FDR over the regions and the whole brain of each comparison") for caption in captions)
    _write_findings(tmp_path)
    section = models_section(
        _found_study(), StudyPaths(tmp_path), pd.DataFrame(), ["net", "net_untrained", "other"], None
    )
    assert section.grids[-1][0] == "Pretrained beside untrained; FDR over the whole brain and the regions of each pair"


def test_what_pulls_shares_down_and_what_is_left_out_is_said(sections: dict[str, PageSection]) -> None:
    regions = sections["regions"]
    assert "targets that follow nothing have such a ceiling, too, and shares near 0" in regions.text
    assert regions.charts[-1].caption.startswith("Streams in one region, without untrained twins, best first")


@pytest.mark.parametrize(
    ("n_subjects", "held"),
    [
        (4, "in about 80% of studies with 4 subjects."),
        (
            5,
            "in about 80% of studies with 4 subjects, 86% of studies with 6 subjects, 92% of studies with 15 subjects.",
        ),
        (1, ""),
    ],
)
def test_intervals_say_how_often_they_hold_the_mean(tmp_path: Path, n_subjects: int, held: str) -> None:
    subjects = tuple(f"sub-{n}" for n in range(n_subjects))
    _write_findings(tmp_path, subjects)
    study, names = _found_study(subjects), ["net", "net_untrained", "other"]
    text = models_section(study, StudyPaths(tmp_path), pd.DataFrame(), names, None).text
    assert text.endswith(held or "are that number.")
    assert ("intervals" in text) == bool(held)


@pytest.mark.parametrize(("tr_s", "rows"), [(1.49, "2 to 4 rows"), (0.8, "4 to 8 rows"), (2.0, "2 to 3 rows")])
def test_the_haemodynamic_delay_is_told_in_whole_rows(tmp_path: Path, tr_s: float, rows: str) -> None:
    _write_findings(tmp_path)
    study = make_study()
    study = study.model_copy(update={"clock": study.clock.model_copy(update={"tr_s": tr_s})})
    text = delays_section(study, StudyPaths(tmp_path)).text
    assert f"outside {rows} (about 3 to 6 s)" in text
    assert "film," not in text, "the chart has no films"


def test_methods_of_a_simulated_study_say_what_pretrained_means() -> None:
    study = _found_study()
    made_up = study.model_copy(update={"simulate": {"seed": 0}})
    assert "“Pretrained” stands for the weights of a network's checkpoint" in write_methods(made_up).paragraphs[0]
    assert "with other random weights" in write_methods(made_up).paragraphs[1]
    assert "checkpoint" not in " ".join(write_methods(study).paragraphs)
    plain = made_up.model_copy(update={"compute": study.compute.model_copy(update={"models": ["net"]})})
    assert "Pretrained" not in write_methods(plain).paragraphs[0]


def test_sixteen_streams_of_one_network_look_different() -> None:
    streams = [f"net.{number}" for number in range(16)]
    curves = pd.DataFrame({"model": streams, "depth": 1.0, "layer": "block01", "score": 0.1, "sem": 0.0})
    traces = layers_chart(curves, dict.fromkeys(streams, "net")).figures[""]["data"]
    assert len({trace["line"]["color"] for trace in traces}) == 1
    assert len({(trace["line"]["dash"], trace["marker"]["symbol"]) for trace in traces}) == 16
