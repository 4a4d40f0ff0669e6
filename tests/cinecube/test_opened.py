"""`cc.open()` as a scientist uses it: a revision, names that are not there, pages; its own page names all there is."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from tests.conftest import REPOSITORY, Folder, dvc, dvc_environment

import cinecube as cc
from cinecube.opened.analysed import AnalysedStudy
from cinecube.opened.summaries import study_page
from cinecube.store.base.paths import StudyPaths

pytestmark = pytest.mark.slow

DOCS = REPOSITORY / "docs" / "reference" / "python.md"
EVIL = "<script>alert(1)</script>&\"'"


@pytest.fixture(scope="module")
def kept(study: Folder, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The finished study with weights of one model."""
    folder = study.copy(tmp_path_factory.mktemp("kept") / "study")
    folder.change(lambda params: params.update(keep_weights=[{"model": "vit", "layer": "best"}]))
    folder.must("weights", "vit")
    return folder


@pytest.fixture(scope="module")
def opened(kept: Folder) -> AnalysedStudy:
    return cc.open(kept.root)


def _git(root: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=root, check=True, env=dvc_environment())


@pytest.fixture(scope="module")
def revision(kept: Folder, tmp_path_factory: pytest.TempPathFactory) -> AnalysedStudy:
    """A commit that tracks some of it, and whose working tree is gone."""
    root = tmp_path_factory.mktemp("revision")
    shutil.copy(kept.root / "params.yaml", root)
    places = ["features/vit", "brain/sub-01.zarr", "ceiling.zarr"]
    tracked = [f"data/{place}" for place in places]
    tracked += [f"results/{place}.zarr" for place in ("scores/vit", "predictions/vit", "weights/vit", "significance")]
    tracked += ["results/tables/roi.csv", "results/tables/residual_check"]
    for place in tracked:
        source, to = kept.root / place, root / place
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, to) if source.is_dir() else shutil.copy(source, to)
    _git(root, "init", "-q")
    dvc(root, "init", "-q")
    dvc(root, "add", "-q", *tracked)
    _git(root, "add", "-A")
    _git(root, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "results")
    for place in ("data", "results"):
        shutil.rmtree(root / place)
    return cc.open(root, rev="HEAD")


def test_the_page_names_all_that_is_public() -> None:
    text = DOCS.read_text(encoding="utf-8")
    methods = {name for name in dir(AnalysedStudy) if not name.startswith("_")}
    assert not {name for name in methods if f"study.{name}" not in text and f"`.{name}" not in text}
    assert not {name for name in cc.__all__ if f"cc.{name}" not in text}


def test_names_are_plain_lists(opened: AnalysedStudy, kept: Folder) -> None:
    params = kept.params()
    assert opened.models == list(params["models"])
    assert opened.subjects == params["brain"]["subjects"]
    assert opened.films == list(params["films"])
    written = (kept.root / "results/tables").rglob("*.csv")
    assert opened.tables == sorted(path.relative_to(kept.root / "results/tables").as_posix()[:-4] for path in written)


def test_every_table_is_read_by_its_short_name(opened: AnalysedStudy, kept: Folder) -> None:
    for name in opened.tables:
        plain = pd.read_csv(kept.root / f"results/tables/{name}.csv", keep_default_na=False, dtype=str)
        assert opened.table(name).shape == plain.shape
    assert opened.table("roi")["score"].dtype == float
    assert opened.table("roi.csv").equals(opened.table("roi"))


def test_predictions_of_all_models_are_joined(opened: AnalysedStudy) -> None:
    joined = opened.predictions()
    parts = [opened.predictions(name) for name in opened.params.encoded]
    assert joined["model"].values.tolist() == [name for part in parts for name in part["model"].values]
    assert joined["measured"].dims == ("subject", "time", "parcel")
    stream = opened.predictions("tvlt.joint")
    xr.testing.assert_equal(stream["predicted"], joined["predicted"].sel(model=["tvlt.joint"]))


def test_predicted_parcels_follow_what_was_measured(opened: AnalysedStudy) -> None:
    """Parcels with a planted signal; the report draws these."""
    films = opened.predictions().load()
    r = xr.corr(films["predicted"], films["measured"], "time").max("model").mean("subject")
    driven = [name for name, parcel in opened.truth()["parcels"].items() if parcel["sources"]]
    assert r.sel(parcel=driven).median() > 0.5


def test_maps_are_those_that_export_writes(opened: AnalysedStudy, kept: Folder, tmp_path: Path) -> None:
    for kind, words, subject in (("score", ["--model", "vit"], "sub-01"), ("ceiling", [], "mean")):
        kept.must("export", kind, str(tmp_path / "map.csv"), *words, "--subject", subject)
        written = pd.read_csv(tmp_path / "map.csv")["value"]
        np.testing.assert_allclose(opened.map(kind, *words[1:], subject=subject), written, atol=1e-6)  # type: ignore[arg-type]


def test_every_figure_of_the_paper_is_axes(opened: AnalysedStudy) -> None:
    drops = [f"figure5.{pair.name}" for pair in opened.params.residual]
    for number, names in ((2, ["figure2"]), (3, ["figure3"]), (4, ["figure4"]), (5, drops)):
        drawn = opened.figure(number)
        assert list(drawn) == names
        assert all(type(axes[0].figure.canvas).__name__ == "FigureCanvasBase" for axes in drawn.values())
    bars = opened.figure(2)["figure2"][0].get_xticklabels()
    assert {bar.get_text() for bar in bars} <= set(opened.table("roi")["model"])
    with pytest.raises(cc.StudyError, match="found no kind of map 'normalized'.*did you mean 'normalised'"):
        opened.map("normalized", "vit")  # type: ignore[arg-type]
    assert list(opened.figure("3")) == ["figure3"]
    for number in (6, "6", "three"):
        with pytest.raises(cc.StudyError, match=f"figure: found {number!r}, expected 2, 3, 4 or 5"):
            opened.figure(number)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda study: study.map("score"), "map score: found no model, .*; name it with `model=`$"),
        (lambda study: study.map("ceiling", "vit"), "leave out `model=`$"),
        (lambda study: study.map("score", "vit", "sub-01"), "the subject sub-01 as .*; name it with `subject=sub-01`$"),
        (lambda study: study.map("depth", "vit", layer=3), "leave out `layer=`$"),
        (lambda study: study.map("q", "vit"), "name one with `subject=`, or take group_q$"),
        (lambda study: study.draw("group_q", "vit", subject="sub-01"), "leave out `subject=`, or take q$"),
        (lambda study: cc.open(str(study.paths.root), rev="-1"), "correct `rev=`$"),
    ],
)
def test_an_error_names_an_argument_as_python_has_it(opened: AnalysedStudy, ask: Any, message: str) -> None:
    with pytest.raises(cc.StudyError, match=message):
        ask(opened)


def test_pictures_need_a_folder(revision: AnalysedStudy) -> None:
    for ask in (lambda: revision.map("score", "vit"), lambda: revision.draw("ceiling"), lambda: revision.figure(2)):
        with pytest.raises(cc.StudyError, match="found a study at a revision, expected one in a folder"):
            ask()


def test_a_new_film_is_predicted_from_its_features(opened: AnalysedStudy) -> None:
    film = opened.predict("amber", "vit")
    rows = opened.features("vit", "amber")
    assert film.dims == ("subject", "time", "target")
    assert film.sizes["time"] == rows.sizes["time"]
    for name in ("segment", "onset_s"):
        np.testing.assert_array_equal(film[name], rows[name])
    one = opened.predict("amber", "vit", subject="sub-02")
    np.testing.assert_array_equal(one, film.sel(subject="sub-02", target=one["target"]))
    np.testing.assert_array_equal(film, opened.predict("amber"))  # by the one model whose weights are kept


def test_without_one_model_whose_weights_are_kept_a_model_is_asked_for(study: Folder) -> None:
    """The simulated study keeps none."""
    with pytest.raises(cc.StudyError, match="found no model, expected one whose weights are kept, and none are"):
        cc.open(study.root).predict("amber")


def test_a_notebook_completes_what_is_for_it() -> None:
    assert dir(cc) == sorted(cc.__all__)


def test_a_revision_reads_what_a_folder_does(opened: AnalysedStudy, revision: AnalysedStudy) -> None:
    for read in ("ceiling", "significance"):
        xr.testing.assert_identical(getattr(revision, read)().load(), getattr(opened, read)().load())
    for read in ("scores", "predictions", "weights"):
        xr.testing.assert_identical(getattr(revision, read)("vit").load(), getattr(opened, read)("vit").load())
    assert revision.table("roi").equals(opened.table("roi"))
    pairs = [name for name in opened.tables if name.startswith("residual_check/")]
    assert revision.tables == [*pairs, "roi"]
    assert revision.table(pairs[0]).equals(opened.table(pairs[0]))
    np.testing.assert_array_equal(revision.predict("dune", "vit"), opened.predict("dune", "vit"))
    with pytest.raises(cc.StudyError, match="pairs: found a study at a revision, expected one in a folder"):
        revision.pairs("vit", 1, "sub-01")
    there, own = (study.contents().set_index("path")["bytes"] for study in (revision, opened))
    # Of a folder with several cubes in it, too, DVC's record has one size.
    assert set(there.index) >= {"results/predictions/vit.zarr", "data/features/vit/dune.zarr"}
    assert there.to_dict() == own[there.index].to_dict()
    assert "predictions" in revision._repr_html_()


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda study: study.table("roy"), "results/tables: found no table 'roy', .*; did you mean 'roi'?"),
        (lambda study: study.scores("tvlt.jont"), "found no stream 'tvlt.jont', .*; did you mean 'tvlt.joint'?"),
        (lambda study: study.scores("vitt"), "did you mean 'vit'?"),
        (lambda study: study.brain("sub-1"), "did you mean 'sub-01'?"),
        (lambda study: study.features("vit", "ambre"), "did you mean 'amber'?"),
        (lambda study: study.features("vit", "amber", "blok03"), "did you mean 'block03'?"),
        (lambda study: study.pairs("vit", "blok03", "sub-01"), "did you mean 'block03'?"),
        (lambda study: study.pairs("tvlt", 1, "sub-01"), "found no stream 'tvlt', expected one of tvlt.video"),
        (lambda study: study.weights("ast"), "keep_weights: found no model 'ast', expected one of vit"),
        (lambda study: study.weights("vit", 99), "found no layer 99"),
        (lambda study: study.predict("dunes", "vit"), "did you mean 'dune'?"),
    ],
)
def test_a_name_that_is_not_there_is_answered_with_the_nearest(opened: AnalysedStudy, ask: Any, message: str) -> None:
    with pytest.raises(cc.StudyError, match=message.replace("?", "[?]")):
        ask(opened)


@pytest.mark.parametrize(
    "ask",
    [
        lambda study: study.brain(1),
        lambda study: study.features(5),
        lambda study: study.features("vit", 3),
        lambda study: study.features("vit", "amber", layer=[1, 2]),
        lambda study: study.scores(["vit"]),
        lambda study: study.pairs("vit", [1, 2], "sub-01"),
        lambda study: study.map("score", model="vit", layer=[1, 2]),
        lambda study: study.table(["roi"]),
        lambda study: cc.describe("vit"),  # type: ignore[arg-type]
        lambda study: cc.open(5),  # type: ignore[arg-type]
        lambda study: cc.open(study.paths.root, rev=5),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_name_is_refused_in_words(opened: AnalysedStudy, ask: Any) -> None:
    with pytest.raises(cc.StudyError, match=r"expected .*; \w+"):
        ask(opened)


def test_films_may_be_several_and_numbers_numpys(opened: AnalysedStudy) -> None:
    assert opened.features(["vit", "videomae"], film="dune").chunks is not None, "lazy, as one model is"
    several = opened.features("vit", film=["amber", "dune"], layer=np.int64(3))  # type: ignore[arg-type]
    parts = [opened.features("vit", film, layer="block03") for film in ("amber", "dune")]
    np.testing.assert_array_equal(several, np.concatenate(parts))


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def _shown(page: str) -> _Tags:
    tags = _Tags()
    tags.feed(page)
    return tags


def test_a_page_of_a_study_says_what_is_in_it(opened: AnalysedStudy) -> None:
    page = _shown(opened._repr_html_())
    rows = opened.features("vit", "amber").sizes["time"]
    for text in ("tvlt.joint", f"amber ({rows} rows", "sub-03", "tested on dune", "results/scores/vit.zarr"):
        assert text in page.text, text


def test_pages_show_foreign_names_as_text(opened: AnalysedStudy) -> None:
    contents = opened.contents()
    contents.loc[:, "name"] = EVIL
    contents["models"] = [[EVIL]] * len(contents)
    study = opened.params.model_copy(update={"study": EVIL})
    cube = opened.scores("vit").isel(model=[0]).assign_coords(model=[EVIL]).assign_attrs(licence=EVIL)
    for page in (study_page(study, contents), cc.describe(cube)._repr_html_()):
        shown = _shown(page)
        assert "script" not in shown.tags
        assert EVIL in shown.text


def test_a_cube_is_described(opened: AnalysedStudy) -> None:
    cube = opened.features("vit", "amber")
    facts = cc.describe(cube).facts
    assert facts["model"] == "vit"
    assert facts["fingerprint"] == cube.attrs["fingerprint"][:12]
    assert all(f"{segment} (" in facts["segments"] for segment in opened.params.films["amber"])
    assert len(str(cc.describe(cube)).splitlines()) == len(facts)


def test_labels_are_plain_text(opened: AnalysedStudy) -> None:
    """Methods of `str` work on labels, by themselves and by xarray's accessor."""
    cubes = [opened.features("vit", "amber"), opened.scores("vit"), opened.predictions("vit"), opened.brain("sub-01")]
    for cube in cubes:
        for name in {"model", "layer", "parcel", "segment", "subject", "hemi"} & set(map(str, cube.coords)):
            assert all(type(label) is str for label in cube[name].values.ravel())
            assert cube[name].str.upper().values.ravel()[0] == cube[name].values.ravel()[0].upper()


def test_opening_writes_nothing(kept: Folder) -> None:
    def everything() -> set[Path]:
        return set(kept.root.rglob("*"))

    before = everything()
    study = cc.open(kept.root)
    study.table("roi")
    study._repr_html_()
    assert everything() == before
    assert StudyPaths(kept.root).weights("vit").is_dir()
