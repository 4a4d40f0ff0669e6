"""The report in a browser: what a reader sees, turns and chooses is what the cubes hold."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects
import pytest
from matplotlib.colors import to_hex, to_rgb
from tests.conftest import Folder

from cinecube.analysis.cubes.results import read_scores
from cinecube.analysis.cubes.tables import EVERYONE, layer_table, preferred_layers
from cinecube.analysis.maps.cortex import Cortex, cortex_of, read_fsaverage
from cinecube.analysis.maps.map_values import Kind, map_values
from cinecube.analysis.regions.rois import load_rois
from cinecube.analysis.report.charts import Chart, residual_chart
from cinecube.analysis.report.cortex_data import cortex_data
from cinecube.analysis.report.findings import ABOVE
from cinecube.analysis.report.methods import Methods, write_methods
from cinecube.analysis.report.page import fill_page
from cinecube.analysis.report.sections import PageSection, models_section
from cinecube.store.base.paths import StudyPaths
from cinecube.store.cube.cubes import open_cube
from cinecube.store.params.document import Imported, load_study

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<script>alert(1)</script> & <b>\"'../"
# The software renderer says how slow it is, which no reader's machine does.
_OF_RENDERER = ("ReadPixels", "willReadFrequently", "GPU stall", "swiftshader", "Shader.cpp")

_EMPTY: dict[str, list[Any]] = {"heads": [], "rows": []}
# What else the template shows.
_OTHERS: dict[str, Any] = {
    **dict.fromkeys(("finding", "design", "params"), HOSTILE),
    **{key: [HOSTILE] for key in ("imported", "unscored", "tables")},
    **dict.fromkeys(("provenance", "versions"), _EMPTY),
    "hero": "",
    "choices": [(HOSTILE, HOSTILE)],
    "methods": Methods((HOSTILE,), HOSTILE),
    "truth": None,
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: chromium)"),
]


class Reader:
    """A page in a browser, and what the browser said of it."""

    def __init__(self, page: Any, path: Path) -> None:
        self.page, self.said = page, []
        page.on("console", lambda line: self._note(line.type, line.text))
        page.on("pageerror", lambda error: self._note("error", str(error)))
        page.on("request", lambda request: self._note("request", request.url))
        page.goto(path.as_uri())

    def _note(self, kind: str, text: str) -> None:
        own = kind == "request" and text.startswith(("file:", "data:", "blob:"))
        if kind in ("error", "warning", "request") and not own and not any(part in text for part in _OF_RENDERER):
            self.said.append(f"{kind}: {text}")

    def ask(self, script: str, *given: Any) -> Any:
        """The value of an expression in the page."""
        return self.page.evaluate(script, *given)

    def choose(self, name: str, value: str) -> None:
        """Choose a value of one of the cortex' controls, and wait until the map is painted."""
        control = self.page.locator(f"#cortex-controls [name={name}]")
        if control.evaluate("c => c.type") == "checkbox":
            control.set_checked(value == "yes")
        elif control.evaluate("c => c.type") == "range":
            control.fill(value)
        else:
            control.select_option(value)
        self.page.wait_for_timeout(250)

    def trace(self) -> dict[str, Any]:
        """The drawn mesh: colours, first coordinates and number of triangles."""
        found: dict[str, Any] = self.ask(
            "() => { const t = document.getElementById('cortex').data[0];"
            "return {colours: [...t.vertexcolor], y: [...t.y].slice(0, 50), faces: t.i.length}; }"
        )
        return found

    def told(self, vertex: int) -> str:
        """What is said of a vertex under the pointer."""
        text: str = self.ask("v => window.shownCortex.then(c => c.describe(v))", vertex)
        return text


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--enable-unsafe-swiftshader", "--use-angle=swiftshader"]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def reader(browser: Any, study: Folder) -> Iterator[Reader]:
    """A small window: without a graphics card each pixel of the cortex costs."""
    page = browser.new_page(viewport={"width": 640, "height": 520}, reduced_motion="reduce")
    found = Reader(page, study.root / "results/report/index.html")
    page.wait_for_function("() => document.querySelector('#cortex .main-svg, #cortex canvas')")
    found.ask("() => window.shownCortex.then(() => true)")
    yield found
    page.close()


def _scroll(page: Any) -> None:
    """To the end by steps, at once and not smoothly; what a step brings into view is drawn in the frame after it."""
    page.evaluate(
        "async () => { for (let top = 0; top < document.body.scrollHeight; top += 600) {"
        " window.scrollTo({ top, behavior: 'instant' });"
        " for (let frame = 0; frame < 3; frame++) await new Promise((done) => requestAnimationFrame(done)); } }"
    )


def test_every_chart_is_drawn_without_an_error_or_a_request(browser: Any, study: Folder) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    reader = Reader(page, study.root / "results/report/index.html")
    _scroll(page)
    reader.page.wait_for_function(
        "() => [...document.querySelectorAll('[data-chart]')].every((c) => c.querySelector('svg.main-svg'))"
    )
    for name, chart in reader.ask("() => data.charts").items():
        for figure in chart["figures"].values():
            assert plotly.graph_objects.Figure(figure).data, name  # raises where plotly knows no such property
    assert reader.said == []
    assert reader.ask("() => document.documentElement.scrollWidth") <= 1280
    page.close()


def test_the_page_is_one_file_of_a_size_that_can_be_sent(study: Folder) -> None:
    path = study.root / "results/report/index.html"
    assert path.stat().st_size < 15e6
    text = path.read_text(encoding="utf-8")
    links = set(re.findall(r"(?:src|href)=\"([^\"]*)\"", text.split("<script")[0]))
    tables = {link for link in links if link.startswith("../tables/")}
    assert all((path.parent / link).resolve().is_file() for link in tables)
    assert {link.split(",")[0] for link in links - tables if not link.startswith("#")} <= {
        "data:image/png;base64",
        "data:image/svg+xml;base64",
    }
    assert re.search(r"script-src 'sha256-[^ ]+ 'sha256-[^;]+; ", html.unescape(text.split("<title>")[0]))
    assert "unsafe-eval" not in text.split("<style>")[0]


@pytest.mark.parametrize(
    ("measure", "subject"),
    [
        ("score", "mean"),
        ("score", "sub-02"),
        ("depth", "sub-01"),
        ("normalised", "mean"),
        ("ceiling", "mean"),
        ("drop", "mean"),
    ],
)
def test_what_is_said_of_a_vertex_is_the_cubes_value(
    reader: Reader, study: Folder, measure: Kind, subject: str
) -> None:
    params = load_study(study.root)
    names = {"ceiling": None, "drop": params.residual[0].name}
    stream = names.get(measure, "tvlt.joint")
    values, attrs = map_values(params, study.root, measure, stream, subject=subject)
    cortex = cortex_of(values, attrs)
    assert isinstance(cortex, Cortex)
    reader.choose("measure", measure)
    for control, chosen in (("model", "tvlt.joint"), ("pair", params.residual[0].name)):
        if reader.page.locator(f"#cortex-controls [name={control}]").is_visible():
            reader.choose(control, chosen)
    reader.choose("subject", subject)
    expected = cortex.show(values.values)
    vertices = np.flatnonzero(np.isfinite(expected))[:: max(1, int(np.isfinite(expected).sum()) // 40)]
    assert len(vertices) > 20
    told = [float(re.search(r"= (-?[\d.]+)", reader.told(int(vertex))).group(1)) for vertex in vertices]  # type: ignore[union-attr]
    # Three decimals are shown, one of percents; the page says its step.
    step = reader.ask("m => data.cortex.steps[m]", measure)
    np.testing.assert_allclose(told, expected[vertices], atol=step + (0.05 if measure == "drop" else 0.0005))
    silent = np.flatnonzero(np.isnan(expected))[:5]
    assert all("no value" in reader.told(int(v)) or "no target" in reader.told(int(v)) for v in silent)
    parcels = values["parcel"].values
    own = vertices[0]
    assert reader.told(int(own)).startswith(str(parcels[cortex.source[own]]) or "outside the parcels")


def test_a_chosen_parcel_says_all_that_the_cortex_knows_of_it(reader: Reader, study: Folder) -> None:
    for name, value in (("measure", "score"), ("model", "vit"), ("subject", "mean"), ("parcel", "1")):
        reader.choose(name, value)
    name = reader.ask("() => data.cortex.parcels.names[1]")
    params, expected, counts = load_study(study.root), {}, {}
    kinds: dict[Kind, str] = {
        "score": "mean over what is drawn =",
        "normalised": "share of the ceiling",
        "depth": "preferred depth",
        "ceiling": "ceiling",
    }
    for kind, words in kinds.items():
        values, attrs = map_values(params, study.root, kind, None if kind == "ceiling" else "vit")
        cortex = cortex_of(values, attrs)
        assert isinstance(cortex, Cortex)
        drawn = np.zeros(values.size, bool)
        drawn[cortex.source[cortex.source >= 0]] = True
        own = values.values[drawn & (values["parcel"].values == name)]
        expected[words], counts[kind] = float(np.nanmean(own)), int(np.isfinite(own).sum())
    line = reader.page.locator("#cortex-said").inner_text()
    told = dict(re.findall(r"(?:: |; )([^;:]+?) (-?[\d.]+)(?=;|$|%| in )", line))
    assert line.startswith(f"{name}: ")
    for words, value in expected.items():
        assert float(told[words]) == pytest.approx(value, abs=0.002), line
    assert counts["normalised"] < counts["score"], "a share is known where there is a ceiling"
    assert f"in {counts['normalised']} of {counts['score']} targets; ceiling" in line
    assert re.search(r"; \d+% above chance$", line)
    reader.choose("measure", "drop")
    assert ";" not in reader.page.locator("#cortex-said").inner_text(), "a pair is of two models"
    for control, value in (("measure", "score"), ("model", "tvlt.joint"), ("parcel", "-1")):
        reader.choose(control, value)


def test_of_two_choices_the_later_is_drawn_however_long_the_first_takes(reader: Reader, study: Folder) -> None:
    for control, value in (("measure", "score"), ("model", "vit"), ("subject", "sub-03"), ("parcel", "1")):
        reader.choose(control, value)
    reader.ask(
        "async () => { const read = Response.prototype.arrayBuffer; let calls = 0;"
        " Response.prototype.arrayBuffer = async function () { calls += 1;"
        " if (calls === 1) await new Promise((done) => setTimeout(done, 500)); return read.call(this); };"
        " const model = document.getElementById('cortex-controls').elements.model;"
        " for (const name of ['vivit', 'videomae']) { model.value = name; model.dispatchEvent(new Event('change')); }"
        " await new Promise((done) => setTimeout(done, 1500)); Response.prototype.arrayBuffer = read;"
        " if (!calls) throw Error('maps were there already'); }"
    )
    values, attrs = map_values(load_study(study.root), study.root, "score", "videomae", subject="sub-03")
    cortex = cortex_of(values, attrs)
    assert isinstance(cortex, Cortex)
    expected = cortex.show(values.values)
    vertex = int(np.nanargmax(np.abs(expected)))
    told = float(re.search(r"= (-?[\d.]+)", reader.told(vertex)).group(1))  # type: ignore[union-attr]
    assert told == pytest.approx(expected[vertex], abs=0.001)
    line = reader.page.locator("#cortex-said").inner_text()
    reader.choose("outlines", "no")
    reader.choose("outlines", "yes")
    assert reader.page.locator("#cortex-said").inner_text() == line
    for control, value in (("subject", "mean"), ("model", "tvlt.joint"), ("parcel", "-1")):
        reader.choose(control, value)


def test_the_pointer_reads_the_vertex_under_it(reader: Reader, study: Folder) -> None:
    reader.choose("measure", "score")
    reader.choose("inflate", "1")
    reader.page.locator("#cortex").scroll_into_view_if_needed()
    reader.ask(
        "() => { window.under = []; document.getElementById('cortex').on('plotly_hover', (e) =>"
        " window.under.push(e.points[0].pointNumber)); }"
    )
    box = reader.page.locator("#cortex").bounding_box()
    for share in (0.42, 0.46, 0.5, 0.54):
        reader.page.mouse.move(box["x"] + share * box["width"], box["y"] + 0.5 * box["height"], steps=4)
        reader.page.wait_for_timeout(500)
    under = reader.ask("() => window.under")
    assert under
    assert reader.page.locator("#cortex-said").inner_text() == reader.told(under[-1])
    reader.page.mouse.click(box["x"] + 0.54 * box["width"], box["y"] + 0.5 * box["height"])
    reader.page.wait_for_timeout(400)
    names = reader.ask("() => data.cortex.parcels.names")
    chosen = int(reader.page.locator("#cortex-controls [name=parcel]").input_value())
    assert reader.told(under[-1]).startswith(names[chosen] or "outside the parcels")


def test_each_control_changes_what_it_says(reader: Reader) -> None:
    reader.choose("measure", "score")
    reader.choose("subject", "mean")
    reader.choose("parcel", "-1")
    before = reader.trace()
    for name, value, part in (
        ("model", "vit", "colours"),
        ("subject", "sub-01", "colours"),
        ("measure", "depth", "colours"),
        ("measure", "difference", "colours"),
        ("second", "ast", "colours"),
        ("measure", "drop", "colours"),
        ("measure", "ceiling", "colours"),
        ("measure", "score", "colours"),
        ("mask", "yes", "colours"),
        ("outlines", "no", "colours"),
        ("inflate", "0", "y"),
        ("inflate", "2", "y"),
        ("inflate", "1", "y"),
        ("hemisphere", "left", "faces"),
        ("hemisphere", "both", "faces"),
        ("parcel", "1", "colours"),
    ):
        reader.choose(name, value)
        after = reader.trace()
        assert after[part] != before[part], f"{name} {value}"
        before = after
    reader.choose("mask", "no")
    reader.choose("outlines", "yes")


def test_a_parcel_chosen_on_the_cortex_is_chosen_in_the_charts(reader: Reader) -> None:
    names = reader.ask("() => data.cortex.parcels.names")
    for number in [n for n, name in enumerate(names) if name][:2]:
        reader.choose("parcel", str(number))
        assert reader.ask("() => document.getElementById('choose-time').value") == names[number]
    _scroll(reader.page)
    other = next(name for name in names if name and name != names[number])
    reader.page.locator("#choose-time").select_option(other)
    reader.page.wait_for_timeout(400)
    assert names[int(reader.ask("() => document.getElementById('cortex-controls').elements.parcel.value"))] == other
    title = reader.ask("() => document.getElementById('time')._fullLayout.title.text")
    assert title.startswith(f"{other}: r of the means = ")


def test_the_cortex_turns_to_a_parcel_that_was_chosen_elsewhere(reader: Reader) -> None:
    """From either side, left and right, outer and inner: what is chosen looks at the eye, and nothing is before it."""
    mesh = read_fsaverage()
    parcel_at = np.array(reader.ask("() => window.shownCortex.then(c => [...c.parcelAt])"))
    points, corners = mesh.points_mm["inflated"], mesh.faces
    normals = np.cross(points[corners[:, 1]] - points[corners[:, 0]], points[corners[:, 2]] - points[corners[:, 0]])
    of_face = np.where((parcel_at[corners] == parcel_at[corners[:, :1]]).all(axis=1), parcel_at[corners[:, 0]], -1)
    seen = set()
    reader.choose("inflate", "1")
    for button in ("left", "right"):
        for number in np.unique(of_face[of_face >= 0]):
            if not reader.ask("n => data.cortex.parcels.names[n]", int(number)):
                continue  # outside the parcels
            is_left = corners[of_face == number][:, 0] < mesh.n_left
            if is_left.any() and not is_left.all():
                continue
            facing = normals[of_face == number].sum(axis=0)
            facing /= np.linalg.norm(facing)
            side = "left" if is_left.all() else "right"
            inner = (facing[0] if side == "left" else -facing[0]) > 0.5
            if (button, side, inner) in seen:
                continue
            seen.add((button, side, inner))
            reader.choose("hemisphere", "both")
            reader.page.locator(f"button[data-view={button}]").click()
            reader.choose("parcel", str(number))
            eye = reader.ask("() => document.getElementById('cortex')._fullLayout.scene._scene.getCamera().eye")
            towards = np.array([eye["x"], eye["y"], eye["z"]]) / np.linalg.norm([eye["x"], eye["y"], eye["z"]])
            assert facing @ towards > 0.25, (button, number)
            shown = reader.page.locator("#cortex-controls [name=hemisphere]").input_value()
            assert shown == (side if inner else "both"), (button, number)
    assert {one[:2] for one in seen} == {(a, b) for a in ("left", "right") for b in ("left", "right")}
    assert any(inner for _, _, inner in seen)
    reader.choose("hemisphere", "both")
    reader.page.locator("button[data-view=left]").click()


def test_a_region_says_r_and_its_tests(browser: Any, study: Folder) -> None:
    """Numbers in cells that are wide enough, marks by the tests in the CSV, a frame around the best of each region."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    reader = Reader(page, study.root / "results/report/index.html")
    table = pd.read_csv(io.StringIO(reader.ask("() => data.charts['region-matrix'].csv"))).fillna({"mark": ""})
    scores = pd.read_csv(study.root / "results/tables/roi.csv")
    level = load_study(study.root).statistics.fdr
    figures = reader.ask("() => data.charts['region-matrix'].figures")
    figure = figures["r"]
    cells = figure["data"][0]
    counts = pd.read_csv(study.root / "results/tables/significance.csv")
    members = load_rois("oota2025", study.root).labels
    assert table["mark"].str.contains(ABOVE).equals(table["above_chance"] > level)
    assert f"{ABOVE} more than {level:.0%} of the region's targets" in page.locator("#regions-section").text_content()
    assert 0 < table["mark"].str.contains(ABOVE).sum() < len(table)
    for row in table.itertuples():
        own = scores[(scores["roi"] == row.roi) & (scores["model"] == row.model)]["score"]
        inside = counts["parcel"].str.removeprefix("L_").str.removeprefix("R_").isin(members[row.roi])
        of = counts[inside & (counts["model"] == row.model)].groupby("subject")[["significant", "targets"]].sum()
        assert row.above_chance == pytest.approx((of["significant"] / of["targets"]).mean(), rel=1e-4)
        shown = cells["text"][cells["y"].index(row.model)][cells["x"].index(row.roi)]
        assert shown == f"{own.mean():.2f}{row.mark}".replace("-0.00", "0.00")
    best = table.loc[table.groupby("roi")["score"].idxmax()]
    framed = {(cells["x"][int(s["x0"] + 0.5)], cells["y"][int(s["y0"] + 0.5)]) for s in figure["layout"]["shapes"]}
    assert framed == set(zip(best["roi"], best["model"], strict=True))
    _scroll(page)
    page.locator("#region-matrix").scroll_into_view_if_needed()
    drawn = page.locator("#region-matrix .textpoint text").all_text_contents()
    assert sorted(drawn) == sorted(text for texts in cells["text"] for text in texts)
    page.set_viewport_size({"width": 390, "height": 840})
    page.reload()
    _scroll(page)
    assert page.locator("#region-matrix .textpoint").count() == 0
    page.close()


def test_regions_show_shares_of_the_ceiling_and_depths_too(browser: Any, study: Folder) -> None:
    """One number a cell of what is chosen, and the regions' names in full."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    reader = Reader(page, study.root / "results/report/index.html")
    page.locator("#region-matrix").scroll_into_view_if_needed()
    members, names = (getattr(load_rois("oota2025", study.root), part) for part in ("labels", "names"))
    shares = pd.read_csv(study.root / "results/tables/roi_mean.csv").set_index(["model", "roi"])["normalised"]
    depths = pd.read_csv(study.root / "results/tables/depth.csv")
    depths["area"] = depths["parcel"].str.removeprefix("L_").str.removeprefix("R_")
    for measure in ("preferred depth", "share of the ceiling"):
        page.locator("#choose-region-matrix").select_option(measure)
        page.wait_for_timeout(400)
        cells = reader.ask(
            "() => { const t = document.getElementById('region-matrix').data[0]; return [t.x, t.y, t.z]; }"
        )
        for model, row in zip(cells[1], cells[2], strict=True):
            for roi, value in zip(cells[0], row, strict=True):
                own = depths[depths["area"].isin(members[roi]) & (depths["model"] == model)]
                depth = own.groupby("subject")["depth"].mean().mean()
                expected = depth if measure == "preferred depth" else shares[model, roi]
                assert (np.nan if value is None else value) == pytest.approx(expected, abs=1e-5, nan_ok=True)
    caption = page.locator("#regions-section figcaption").first.text_content()
    assert caption.endswith(f" {'; '.join(f'{roi}: {names[roi]}' for roi in members if roi in cells[0])}.")
    page.close()


def test_a_simulated_study_says_so_and_cites_no_preprocessing(browser: Any, study: Folder) -> None:
    page = browser.new_page()
    Reader(page, study.root / "results/report/index.html")
    assert (
        page.locator("header p.simulated")
        .inner_text()
        .startswith("Simulated study: films, scans and networks are made up")
    )
    first, *rest = page.locator("#methods-section > p:not(.soft)").all_text_contents()
    assert first.startswith("Films, responses and networks of this study are simulated, with a known truth")
    assert any("3 subjects, simulated as files of fMRIPrep" in text for text in rest)
    params = load_study(study.root)
    own = write_methods(params.model_copy(update={"simulate": None}))
    assert "preprocessed by fMRIPrep (Esteban et al., 2019)" in own.paragraphs[1]
    assert ["esteban2019" in text for text in (page.content(), own.bibtex)] == [False, True]
    assert "simulated" not in " ".join(own.paragraphs)
    page.close()


def test_notes_are_where_a_reader_asks(browser: Any, study: Folder) -> None:
    """On streams that have seen both modalities, tables in a copy by itself; correlations have four digits."""
    page = browser.new_page()
    Reader(page, study.root / "results/report/index.html")
    (note,) = page.locator("#models-section .points li", has_text="attended").all_text_contents()
    assert note.startswith(
        "tvlt.video, tvlt.audio, tvlt.joint: where a network reads picture and sound as one sequence"
    )
    assert "not where this page was mailed" in str(page.locator("#data-section").text_content())
    agreement = page.locator("#truth details", has_text="Features of decoded frames").locator("tbody tr td:last-child")
    cells = agreement.all_text_contents()
    assert len(cells) > 5
    assert all(re.fullmatch(r"-?[01]\.\d{4}", cell) for cell in cells)
    page.close()


def test_models_has_the_number_of_the_sentence(browser: Any, study: Folder) -> None:
    page = browser.new_page()
    reader = Reader(page, study.root / "results/report/index.html")
    finding = page.locator("p.finding").inner_text()
    best, r = re.search(r"(\S+) predicts best, r = ([\d.]+)", finding).groups()  # type: ignore[union-attr]
    chart = pd.read_csv(io.StringIO(reader.ask("() => data.charts.models.csv"))).set_index("model")["score"]
    means = pd.read_csv(study.root / "results/tables/roi.csv").query("roi == 'whole brain'").groupby("model")["score"]
    np.testing.assert_allclose(chart, means.mean()[chart.index], atol=1e-5)
    assert f"{chart[best]:.2f}" == r
    text = page.locator("#models-section").text_content()
    assert f"where this page has {chart[best]:.3f}" in text
    metrics = json.loads((study.root / "results/metrics.json").read_text(encoding="utf-8"))
    assert f": {metrics['whole_brain'][best]:.3f} for {best}" in text
    rows = page.locator("#models-section table").first.locator("tr").all()
    cells = [[cell.text_content() for cell in row.locator("td, th").all()] for row in rows]
    assert cells[0][:2] == ["model", "mean of subjects"]
    assert {row[0]: row[1] for row in cells[1:]} == {str(model): f"{score:.3f}" for model, score in chart.items()}
    page.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_of_a_chart_is_cut_or_covered(browser: Any, study: Folder, width: int) -> None:
    """Titles and legends lie in their chart, and neither below the toolbar nor in the colour bar."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    reader = Reader(page, study.root / "results/report/index.html")
    _scroll(page)
    page.wait_for_timeout(500)
    wrong = reader.ask(
        """() => {
          const box = (one) => one.getBoundingClientRect();
          const before = (a, b, from, to) => a[from] < b[to] - 1 && b[from] < a[to] - 1;
          const meet = (a, b) => before(a, b, "left", "right") && before(a, b, "top", "bottom");
          const found = [];
          for (const place of [...document.querySelectorAll("[data-chart]"), document.getElementById("cortex")]) {
            const own = box(place), bars = [...place.querySelectorAll(".modebar-group")].map(box);
            const colours = [...place.querySelectorAll(".cbfills, .cboutline")].map(box);
            const titles = ".gtitle, .xtitle, .x2title, .ytitle, .legendtext, [class^=cb] text";
            for (const text of place.querySelectorAll(titles)) {
              if (!text.textContent.trim()) continue;
              const at = box(text), said = `${place.id}: ${text.textContent}`;
              if (at.left < own.left - 1 || at.right > own.right + 1) found.push(`${said} is cut`);
              if (bars.some((bar) => meet(at, bar))) found.push(`${said} is below the toolbar`);
              if (colours.some((bar) => meet(at, bar))) found.push(`${said} is in the colour bar`);
            }
          }
          return found;
        }"""
    )
    assert wrong == []
    page.close()


def test_pictures_of_the_film_are_above_their_time(reader: Reader) -> None:
    """As `show_films` asks for; each covers the stretch that it is from the middle of."""
    _scroll(reader.page)
    reader.page.locator("#time").scroll_into_view_if_needed()
    reader.page.wait_for_selector("#time .trace.scatter")
    images = reader.ask(
        "() => document.getElementById('time').layout.images.map(({ source, x, sizex }) => [source, x, sizex])"
    )
    assert 6 <= len(images) <= 16
    assert all(source.startswith("data:image/jpeg;base64,") for source, _, _ in images)
    low, high = reader.ask("() => document.getElementById('time')._fullLayout.xaxis.range")
    assert all(low - 1e-6 <= x and x + size - 1e-6 <= high for _, x, size in images)
    drawn = reader.page.locator("#time image").evaluate_all(
        "all => all.map((one) => one.getBoundingClientRect().width)"
    )
    assert len(drawn) == len(images)
    assert min(drawn) > 10


@pytest.mark.parametrize(("inflate", "surface"), [("0", "pial"), ("1", "inflated"), ("2", "flat")])
def test_the_drawn_surface_is_the_mesh_left_beside_right(reader: Reader, inflate: str, surface: str) -> None:
    reader.choose("hemisphere", "both")
    reader.choose("inflate", inflate)
    drawn = reader.ask(
        "() => { const t = document.getElementById('cortex').data[0]; return [[...t.x], [...t.y], [...t.z]]; }"
    )
    mesh = read_fsaverage()
    np.testing.assert_allclose(np.transpose(drawn), mesh.points_mm[surface], atol=0.011)
    x_mm = np.array(drawn[0])
    assert np.median(x_mm[: mesh.n_left]) < -20 < 20 < np.median(x_mm[mesh.n_left :])
    if surface != "pial":
        assert x_mm[: mesh.n_left].max() < x_mm[mesh.n_left :].min()
    ranges = reader.ask(
        "() => { const s = document.getElementById('cortex').layout.scene; return [s.xaxis.range, s.yaxis.range,"
        " s.zaxis.range]; }"
    )
    spans = [high - low for low, high in ranges]
    assert max(spans) == pytest.approx(min(spans)), "a cube, or lengths differ by direction"
    faces = mesh.flat_faces if surface == "flat" else mesh.faces
    used = mesh.points_mm[surface][np.unique(faces)]
    assert all(
        low - 0.02 <= used[:, a].min() and used[:, a].max() <= high + 0.02 for a, (low, high) in enumerate(ranges)
    )
    reader.choose("inflate", "1")


def test_a_difference_is_that_of_the_two_maps(reader: Reader, study: Folder) -> None:
    params = load_study(study.root)
    reader.choose("measure", "difference")
    reader.choose("subject", "mean")
    reader.choose("model", "vit")
    reader.choose("second", "ast")
    one, attrs = map_values(params, study.root, "score", "vit")
    other, _ = map_values(params, study.root, "score", "ast")
    cortex = cortex_of(one, attrs)
    assert isinstance(cortex, Cortex)
    expected = cortex.show((one - other).values)
    vertex = int(np.nanargmax(np.abs(expected)))
    told = float(re.search(r"= (-?[\d.]+)", reader.told(vertex)).group(1))  # type: ignore[union-attr]
    assert told == pytest.approx(expected[vertex], abs=0.002)


def test_it_turns_by_keys_by_buttons_and_by_the_pointer(reader: Reader) -> None:
    # What the scene is seen from: plotly's layout keeps what it was given.
    eye_now = "document.getElementById('cortex')._fullLayout.scene?._scene?.getCamera().eye"

    def turned() -> None:
        moved = f"was => {{ const eye = {eye_now}; return eye && Math.hypot(eye.x - was.x, eye.y - was.y) > 0.05; }}"
        reader.page.wait_for_function(moved, arg=seen[-1])
        seen.append(reader.ask(f"() => ({{...{eye_now}}})"))

    reader.choose("inflate", "1")
    seen = [reader.ask(f"() => ({{...{eye_now}}})")]
    reader.page.locator("#cortex").focus()
    reader.page.keyboard.press("ArrowRight")
    turned()
    reader.page.locator("button[data-view=back]").click()
    turned()
    reader.page.locator("#cortex").scroll_into_view_if_needed()
    box = reader.page.locator("#cortex").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    reader.page.mouse.move(x, y)
    reader.page.mouse.down()
    reader.page.mouse.move(x + 150, y, steps=2)
    reader.page.mouse.up()
    turned()
    assert len(seen) == 4
    assert reader.said == []


def test_the_keyboard_reaches_every_control(reader: Reader) -> None:
    reader.ask("() => { document.activeElement.blur(); window.scrollTo(0, 0); }")
    wanted = set(
        reader.ask(
            "() => [...document.querySelectorAll('nav a, select, #cortex-controls button, #cortex, summary,"
            " a[data-csv]')].filter((e) => e.checkVisibility({contentVisibilityAuto: true})).map((e, n) => {"
            " e.dataset.stop = n; return String(n); })"
        )
    )
    reached: set[str] = set()
    for _ in range(3 * len(wanted) + 60):
        reader.page.keyboard.press("Tab")
        reached.add(str(reader.ask("() => document.activeElement?.dataset?.stop ?? ''")))
    assert wanted <= reached


def test_a_phone_shows_all_of_it(browser: Any, study: Folder) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 840}, color_scheme="dark")
    reader = Reader(page, study.root / "results/report/index.html")
    _scroll(page)
    page.wait_for_timeout(500)
    assert reader.said == []
    wide = reader.ask(
        "() => [...document.querySelectorAll('.chart svg.main-svg, img, form, h2, p')]"
        ".filter((e) => e.getBoundingClientRect().right > 391).map((e) => e.outerHTML.slice(0, 80))"
    )
    assert wide == []
    small = reader.ask(
        "() => [...document.querySelectorAll('.chart text, td, p, figcaption')]"
        ".map((e) => parseFloat(getComputedStyle(e).fontSize)).filter((px) => px < 9.5)"
    )
    assert small == []
    page.close()


def test_print_cuts_nothing(reader: Reader, tmp_path: Path) -> None:
    _scroll(reader.page)
    reader.page.emulate_media(media="print")
    paper_px = 690  # A4 at 96 dots per inch, less its margins
    wide = reader.ask(
        "px => [...document.querySelectorAll('.chart svg.main-svg, img')].filter((e) => e.checkVisibility() &&"
        " e.offsetParent !== null).filter((e) => e.tagName === 'IMG' ? getComputedStyle(e).maxWidth !== '100%' :"
        " e.getBoundingClientRect().width > px).map((e) => e.id || e.alt)",
        paper_px,
    )
    hidden = reader.ask("() => getComputedStyle(document.getElementById('cortex')).display")
    stills = reader.ask(
        "() => [...document.querySelectorAll('.still img')].filter((e) => e.offsetParent !== null).length"
    )
    reader.page.emulate_media(media="screen")
    assert (wide, hidden) == ([], "none")
    assert stills >= 3


def test_tables_that_were_opened_are_printed_whole(browser: Any, study: Folder) -> None:
    """No wider than the paper, and no number broken."""
    page = browser.new_page(viewport={"width": 700, "height": 1000})  # A4 at 96 dots per inch, less its margins
    page.emulate_media(media="print")
    reader = Reader(page, study.root / "results/report/index.html")
    reader.ask("() => { for (const part of document.querySelectorAll('details')) part.open = true; }")
    wide = reader.ask(
        "() => [...document.querySelectorAll('table, pre')].filter((e) => e.getBoundingClientRect().right > 701)"
        ".map((e) => e.textContent.slice(0, 80))"
    )
    broken = reader.ask(
        "() => [...document.querySelectorAll('td')].filter((e) => /^[-+\\d.%]+$/.test(e.textContent)).filter((e) => {"
        " const range = document.createRange(); range.selectNodeContents(e);"
        " return new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size > 1; })"
        ".map((e) => e.textContent)"
    )
    assert (wide, broken) == ([], [])
    page.close()


def test_without_scripts_there_are_stills_and_tables(browser: Any, study: Folder) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((study.root / "results/report/index.html").as_uri())
    assert page.locator("#brain-section .still img").first.is_visible()
    assert not page.locator("#cortex-controls").is_visible()
    assert (
        page.locator("#models-section table").first.is_visible()
        or page.locator("#models-section summary").first.is_visible()
    )
    context.close()


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_contrast_is_enough_in_both_themes(study: Folder) -> None:
    """AA of the Web Content Accessibility Guidelines: 4.5 to 1."""
    style = (study.root / "results/report/index.html").read_text(encoding="utf-8").split("<style>")[1]
    light, dark = style.split("@media (prefers-color-scheme: dark)")[:2]
    for theme in (light, dark):
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", theme.split("}")[0]))
        for ink in ("ink", "soft", "link", "good", "bad"):
            for ground in ("ground", "raised"):
                low, high = sorted([_luminance(colours[ink]), _luminance(colours[ground])])
                assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground)


@pytest.mark.parametrize("name", ["region-matrix", "above-chance"])
def test_numbers_in_cells_are_legible(reader: Reader, name: str) -> None:
    """In either theme, for cells have the same colours in both."""
    for figure in reader.ask(f"() => data.charts['{name}'].figures").values():
        cells, numbers = figure["data"]
        shades = [(place, to_rgb(colour)) for place, colour in cells["colorscale"]]
        places, parts = [place for place, _ in shades], np.array([shade for _, shade in shades])
        assert len(numbers["text"]) == sum(value is not None for row in cells["z"] for value in row)
        assert all(numbers["text"])
        for column, row, ink in zip(numbers["x"], numbers["y"], numbers["textfont"]["color"], strict=True):
            value = cells["z"][cells["y"].index(row)][cells["x"].index(column)]
            share = (value - cells["zmin"]) / (cells["zmax"] - cells["zmin"])
            ground = to_hex([np.interp(share, places, parts[:, part]) for part in range(3)])
            low, high = sorted([_luminance(ink), _luminance(ground)])
            assert (high + 0.05) / (low + 0.05) >= 4.5, (row, column, value)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_two_streams_look_alike(browser: Any, study: Folder, scheme: str) -> None:
    page = browser.new_page(color_scheme=scheme)
    reader = Reader(page, study.root / "results/report/index.html")
    page.locator("#layers").scroll_into_view_if_needed()
    page.wait_for_selector("#layers .scatterlayer")
    lines = reader.ask("() => document.getElementById('layers').data.map((t) => [t.line.color, t.line.dash].join())")
    assert len(set(lines)) == len(lines) > 7
    names = reader.ask("() => document.getElementById('layers').data.map((t) => t.name)")
    colours = {name: line.split(",")[0] for name, line in zip(names, lines, strict=True)}
    assert len(set(colours.values())) == len({name.split(".")[0] for name in names}) == 7
    assert all(colour == colours[f"{name.split('.')[0]}.joint"] for name, colour in colours.items() if "tvlt" in name)
    page.close()


def test_contents_lead_to_a_section_and_mark_it(browser: Any, study: Folder) -> None:
    """Though charts are drawn on the way there, and the last sections are too short to come up."""
    page = browser.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    Reader(page, study.root / "results/report/index.html")
    names = page.locator("nav a").all_text_contents()
    for name in reversed(names):
        page.locator("nav a", has_text=re.compile(f"^{re.escape(name)}$")).click()
        page.wait_for_timeout(300)
        assert page.locator("nav a.here").all_text_contents() == [name]
        top = page.evaluate("() => document.querySelector(location.hash).getBoundingClientRect().top")
        bar = page.locator("nav").bounding_box()["height"]
        assert bar <= top + 1, name
        if name not in names[-3:]:
            assert top <= bar + 40, name
    page.set_viewport_size({"width": 390, "height": 840})
    for section in ("significance", "models"):
        page.evaluate("id => document.getElementById(id).scrollIntoView()", f"{section}-section")
        page.wait_for_timeout(300)
        box = page.locator(f"nav a.here[href='#{section}-section']").bounding_box()
        assert box["x"] >= 0, section
        assert box["x"] + box["width"] <= 390, section
    page.close()


def test_names_are_text_wherever_they_appear(browser: Any, tmp_path: Path) -> None:
    table = pd.DataFrame({"model": [HOSTILE], "score": [0.5]})
    figure = {
        "data": [{"type": "bar", "name": HOSTILE, "x": [HOSTILE], "y": [0.5], "text": [HOSTILE], "showlegend": True}],
        "layout": {"height": 300},
    }
    chart = Chart("bars", HOSTILE, table, {HOSTILE: figure}, "stream", HOSTILE)
    section = PageSection("models", HOSTILE, HOSTILE, [HOSTILE], [chart], [], [(HOSTILE, table)])

    class Named:
        study = HOSTILE
        simulate = None

    page_html = fill_page([section], None, study=Named(), **_OTHERS)
    path = tmp_path / "index.html"
    path.write_text(page_html, encoding="utf-8")
    page = browser.new_page()
    reader = Reader(page, path)
    page.wait_for_selector("#bars svg.main-svg .legendtext")
    page.wait_for_timeout(300)
    assert reader.said == []
    assert page.locator("#bars .legendtext").first.text_content() == HOSTILE
    assert page.locator("#bars .xtick text").first.text_content() == HOSTILE
    assert page.locator("#choose-bars option").first.text_content() == HOSTILE
    assert page.locator("h1").text_content() == HOSTILE
    assert page.locator("main td.text").first.text_content() == HOSTILE
    assert page.locator("script").count() == 3
    page.close()


def test_names_are_text_on_the_cortex_and_beside_it(browser: Any, study: Folder, tmp_path: Path) -> None:
    """Of parcels, models and subjects, in lists and in what is said; charts escape theirs as they are made."""
    page_html = (study.root / "results/report/index.html").read_text(encoding="utf-8")
    before, data, after = re.split(r'(?<=id="data">)(.*?)(?=</script>)', page_html, maxsplit=1, flags=re.DOTALL)
    told = json.loads(data)
    chosen = next(name for name in told["cortex"]["parcels"]["names"] if name)
    for name in (chosen, "tvlt.joint", "sub-01"):
        data = data.replace(f'"{name}"', json.dumps(name + HOSTILE).replace("<", "\\u003c"))
    path = tmp_path / "index.html"
    path.write_text(before + data + after, encoding="utf-8")
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    reader = Reader(page, path)
    _scroll(page)
    page.wait_for_timeout(500)
    for control, value in (("model", f"tvlt.joint{HOSTILE}"), ("subject", f"sub-01{HOSTILE}")):
        reader.choose(control, value)
    parcel = reader.ask("name => data.cortex.parcels.names.indexOf(name)", chosen + HOSTILE)
    reader.choose("parcel", str(parcel))
    assert page.locator("#cortex-said").inner_text().startswith(chosen + HOSTILE)
    assert chosen + HOSTILE in page.locator("#cortex-controls [name=parcel]").inner_text()
    assert f"tvlt.joint{HOSTILE}" in page.locator("#cortex-controls [name=model]").inner_text()
    assert page.locator("script").count() == 3
    assert reader.said == []
    page.close()


@pytest.mark.parametrize(("scheme", "ink"), [("light", "rgb(27, 31, 36)"), ("dark", "rgb(230, 237, 243)")])
def test_error_bars_of_bars_are_seen_in_either_theme(browser: Any, tmp_path: Path, scheme: str, ink: str) -> None:
    """Plotly draws them dark grey, which the dark ground hides."""
    rows = [("a-b", "V1", measure, 0.2, 0.05) for measure in ("full", "residual")]
    chart = residual_chart(
        pd.DataFrame(rows, columns=["pair", "roi", "measure", "mean", "sem"]), {"a-b": "a without b"}
    )

    class Named:
        study = "bars"
        simulate = None

    path = tmp_path / "index.html"
    section = PageSection("residuals", "Residuals", charts=[chart])
    path.write_text(fill_page([section], None, study=Named(), **_OTHERS), encoding="utf-8")
    page = browser.new_page(color_scheme=scheme)
    reader = Reader(page, path)
    page.wait_for_selector("#residuals .errorbar path")
    drawn = reader.ask("() => [...document.querySelectorAll('#residuals .errorbar path')].map((e) => e.style.stroke)")
    assert drawn == [ink] * 2
    assert reader.said == []
    page.close()


def test_what_would_be_too_large_is_left_out_and_said(study: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more streams than a page has room for the maps of single subjects are not kept."""
    params = load_study(study.root)
    cubes = read_scores(params, study.root)
    cortex = cortex_of(cubes[0]["score"].isel(subject=0, model=0, layer=0, drop=True), cubes[0].attrs)
    assert isinstance(cortex, Cortex)
    whole = cortex_data(params, study.root, cubes, cortex, None)
    monkeypatch.setattr("cinecube.analysis.report.cortex_data._MOST_BYTES", 1)
    small = cortex_data(params, study.root, cubes, cortex, None)
    assert [whole["onlyMeans"], small["onlyMeans"]] == [False, True]
    assert whole["pairs"] == {pair.name: f"{pair.keep} without {pair.remove}" for pair in params.residual}
    for measure, by_name in small["maps"].items():
        assert set(by_name) == set(whole["maps"][measure])
        assert all(list(by_subject) == ["mean"] for by_subject in by_name.values())
    brain = PageSection("brain", "Brain")
    texts = [fill_page([brain], data, study=params, **_OTHERS) for data in (whole, small)]
    assert ["Maps of single subjects are not here" in text for text in texts] == [False, True]


def test_above_chance_on_the_cortex_is_by_permutations(reader: Reader, study: Folder) -> None:
    """Of the mean, in more than half of the subjects; of one, what its own permutations say."""
    params = load_study(study.root)
    level, cube = params.statistics.fdr, open_cube(study.root / "results/significance.zarr").load()
    score, attrs = map_values(params, study.root, "score", "vit")
    cortex = cortex_of(score, attrs)
    assert isinstance(cortex, Cortex)
    q = cube["q"].sel(model="vit").reindex(target=score["target"])
    above = (q <= level).where(q.notnull())
    reader.choose("measure", "score")
    reader.choose("model", "vit")
    for subject, own in (("mean", above.mean("subject") > 0.5), ("sub-02", above.sel(subject="sub-02") > 0.5)):
        reader.choose("subject", subject)
        reader.choose("mask", "yes")
        expected = cortex.show(own.values.astype(float))
        said = {0: ", not above chance", 1: ", above chance"}
        for value in (0, 1):
            vertices = np.flatnonzero(expected == value)[::50][:20]
            assert len(vertices) > 2
            assert all(reader.told(int(vertex)).endswith(said[value]) for vertex in vertices), (subject, value)
        reader.choose("mask", "no")


def test_streams_of_an_imported_model_are_not_said_to_be_of_a_known_network(study: Folder) -> None:
    """ImageBind's never see each other; of a model that `models` lacks nobody here knows."""
    params, paths = load_study(study.root), StudyPaths(study.root)
    names = [name for cube in read_scores(params, study.root) for name in map(str, cube["model"].values)]
    preferred = preferred_layers(layer_table(read_scores(params, study.root)))
    (note,) = models_section(params, paths, preferred, names, None).points
    assert "imagebind" not in note
    models = {name: own for name, own in params.models.items() if name != "imagebind"}
    imported = [Imported(model="imagebind", source="https://example.org/others")]
    others = params.model_copy(update={"models": models, "imported": imported})
    known, unknown = models_section(others, paths, preferred, names, None).points
    assert known == note
    assert re.match(r"(imagebind\.\w+, )+imagebind\.\w+: imported, and this study does not know", unknown)
    assert "TVLT" not in unknown


def test_targets_of_all_are_those_of_every_subject(study: Folder) -> None:
    """As docs/reference/analyses.md says."""
    means = pd.read_csv(study.root / "results/tables/whole_brain_mean.csv")
    by_subject = means[means["subject"] != EVERYONE].groupby("model")["targets"].sum()
    together = means[means["subject"] == EVERYONE].set_index("model")["targets"]
    assert together.to_dict() == by_subject.to_dict()
