"""The pipeline finds what was planted; and when time or order is broken on purpose, that shows.

Sizes: three subjects, six segments of 60 s, noise 0.2 (tests/conftest.py), seed 0.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner
from tests.conftest import Folder
from tests.simulation.burned import read_frame_number

from cinecube.analysis.truth.ceiling_errors import ceiling_error
from cinecube.analysis.truth.planted import planted_truth
from cinecube.analysis.truth.stage import ceiling_table
from cinecube.cli import main
from cinecube.features.extraction.windows import frame_numbers
from cinecube.features.films.pictures import sampled_frames
from cinecube.features.films.probing import probe
from cinecube.store.base.paths import StudyPaths
from cinecube.study_params import load

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def metrics(study: Folder) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((study.root / "results/metrics.json").read_text(encoding="utf-8"))
    return loaded


def test_layers_are_found(metrics: dict[str, Any]) -> None:
    assert metrics["truth"]["layer_found"] >= 0.9
    assert metrics["truth"]["layer_found_or_next"] >= 0.9
    assert metrics["truth"]["layer_chance"] < 0.1


def test_delays_are_found(metrics: dict[str, Any]) -> None:
    assert metrics["truth"]["delay_error"] == 0


def test_what_follows_nothing_scores_nothing(metrics: dict[str, Any]) -> None:
    assert metrics["truth"]["idle_score"] < 0.05


def test_decoded_features_are_those_of_the_drawn_frames(metrics: dict[str, Any]) -> None:
    assert metrics["truth"]["feature_agreement"] > 0.95


def test_ceilings_of_the_default_study_are_those_that_were_planted() -> None:
    truth = json.loads((REPOSITORY / "results/metrics.json").read_text(encoding="utf-8"))["truth"]
    assert truth["ceiling_error"] < 0.03


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 6))
def test_ceilings_of_other_seeds_are_those_that_were_planted(seed: int, tmp_path: Path) -> None:
    root = tmp_path / "study"
    assert CliRunner().invoke(main, ["init", str(root)]).exit_code == 0
    folder = Folder(root)
    folder.change(lambda params: params["simulate"].update(seed=seed))
    for words in (["simulate"], ["films"], *(["brain", f"sub-{n:02d}"] for n in range(1, 5)), ["ceiling"]):
        folder.must(*words)
    assert ceiling_error(ceiling_table(load(root), root, planted_truth(StudyPaths(root)))) < 0.03


def test_the_study_plants_enough(study: Folder) -> None:
    parcels = json.loads((study.root / "data/truth/truth.json").read_text(encoding="utf-8"))["parcels"]
    driven = [parcel for parcel in parcels.values() if parcel["sources"]]
    assert len(driven) >= 24
    assert len(parcels) - len(driven) >= 6
    planted = {source["layer"] for parcel in driven for source in parcel["sources"]}
    assert len(planted) >= 8


def test_sampled_frames_are_the_ones_the_clock_asks_for(study: Folder) -> None:
    """The number burned into each picture equals floor(t * rate): one frame off would show."""
    from cinecube.features.extraction.record import read_record
    from cinecube.features.extraction.spec import make_reading
    from cinecube.store.params.document import load_study

    params = load_study(study.root)
    reading = make_reading(params, "videomae", read_record(params, "videomae", study.root))
    info = probe(study.root / "data/stimuli/birch/birch02.mp4", "birch02")
    onsets = params.clock.onsets_s(params.clock.n_rows(info.duration_s))
    seen = [frame_numbers(info, row, float(onset), reading) for row, onset in enumerate(onsets)]
    wanted = sorted({number for numbers in seen for number in numbers})
    burned = [read_frame_number(rgb) for _, rgb in sampled_frames(info, wanted)]
    assert burned == wanted
    times = [float(onset) + (j + 0.5) * 1.49 / 16 for onset in onsets for j in range(16)]
    by_hand = sorted({min(int(np.floor(t * 24000 / 1001 + 1e-9)), info.n_frames - 1) for t in times})
    assert wanted == by_hand


def _slip_cubes(folder: Folder, rows: int) -> None:
    """Move every segment's features by some rows, and nothing else."""
    from cinecube.store.cube.cubes import write_feature_cube

    for path in sorted((folder.root / "data/features").rglob("*.zarr")):
        cube = xr.open_zarr(path).load()
        values = cube["features"].values.copy()
        for segment in np.unique(cube["segment"].values):
            inside = np.flatnonzero(cube["segment"].values == segment)
            values[inside] = np.roll(values[inside], rows, axis=0)
        for name in cube.variables:
            cube[name].encoding.clear()
        width = cube["width"].values
        write_feature_cube(path, cube, lambda m, k, values=values, width=width: values[:, : width[m, k], m, k])


@pytest.mark.long
def test_a_slipped_row_is_seen(scratch: Folder) -> None:
    """FIR delays hide a slip of one row from the score; the best single delay does not."""
    models = {"vit", "videomae", "wav2vec2"}
    planted = json.loads((scratch.root / "data/truth/truth.json").read_text(encoding="utf-8"))["parcels"]
    driven = [name for name, parcel in planted.items() if {source["model"] for source in parcel["sources"]} <= models]
    driven = [name for name in driven if planted[name]["sources"]]
    assert len(driven) >= 10
    scratch.change(lambda params: params["compute"].update(models=sorted(models)))
    scratch.must("layerwise")
    before = _delays(scratch.root)
    _slip_cubes(scratch, 1)
    for model in models:
        scratch.must("encode", model)
    scratch.must("layerwise")
    after = _delays(scratch.root)
    assert [before[name] for name in driven] == [planted[name]["delay_tr"] for name in driven]
    assert [after[name] for name in driven] == [planted[name]["delay_tr"] - 1 for name in driven]


def _delays(root: Path) -> dict[str, int]:
    """Best single delay of each parcel at the model where it scores highest."""
    lags = pd.read_csv(root / "results/tables/lag.csv")
    best = lags.loc[lags.groupby("parcel")["lag_score"].idxmax()]
    return {str(row.parcel): int(row.lag) for row in best.itertuples()}


def test_a_swapped_frame_is_seen(study: Folder, tmp_path: Path) -> None:
    """Two neighbouring frames exchanged in the picture: the burned numbers tell."""
    import av

    source = study.root / "data/stimuli/amber/amber01.mp4"
    swapped = tmp_path / "amber01.mp4"
    with av.open(str(source)) as film, av.open(str(swapped), "w") as sink:
        stream = sink.add_stream("libx264", rate=film.streams.video[0].average_rate)
        stream.width, stream.height, stream.pix_fmt = (
            film.streams.video[0].width,
            film.streams.video[0].height,
            "yuv420p",
        )
        pictures = [frame.to_ndarray(format="rgb24") for _, frame in zip(range(60), film.decode(video=0), strict=False)]
        pictures[30], pictures[31] = pictures[31], pictures[30]
        for rgb in pictures:
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        sink.mux(stream.encode(None))
    info = probe(swapped, "amber01")
    burned = [read_frame_number(rgb) for _, rgb in sampled_frames(info, list(range(60)))]
    assert [i for i, number in enumerate(burned) if number != i] == [30, 31]
