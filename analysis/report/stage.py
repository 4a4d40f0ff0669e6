"""The study's page: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import yaml

from cinecube.analysis.cubes import tables
from cinecube.analysis.cubes.results import read_scores
from cinecube.analysis.cubes.unscored import notes
from cinecube.analysis.encoders.oota2025 import WHAT
from cinecube.analysis.maps.map_values import map_values
from cinecube.analysis.report import figures
from cinecube.analysis.report.brain_pictures import draw_map, undrawn
from cinecube.analysis.report.metrics import study_metrics
from cinecube.analysis.report.report_findings import findings, oracle_tables
from cinecube.analysis.report.report_tables import table_grid
from cinecube.analysis.truth.planted import Comparison, compare_study
from cinecube.store.base.atomic import staged, write_text
from cinecube.store.base.errors import StudyError, some_of
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer
from cinecube.store.clock.films_table import read_films_table
from cinecube.store.cube.cubes import open_cube
from cinecube.store.cube.heads import stored_spec
from cinecube.store.dvc.pulling import PulledCubes
from cinecube.store.dvc.remotes import shown_address
from cinecube.store.params.asked import becomes
from cinecube.store.params.document import Study


def write_report(study: Study, root: Path) -> None:
    """Write `results/report/index.html` and `results/metrics.json`.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.

    Raises
    ------
    StudyError
        If a score cube or table is missing.
    """
    paths = StudyPaths(root)
    with one_writer(paths, paths.report.parent, paths.metrics):
        truth = compare_study(study, root)
        metrics = study_metrics(study, root, truth)
        with staged(paths.report.parent) as folder:
            folder.mkdir()
            (folder / "index.html").write_text(render(study, root, truth, metrics), encoding="utf-8", newline="\n")
        write_text(paths.metrics, json.dumps(metrics, indent=1, sort_keys=True) + "\n")


def render(study: Study, root: Path, truth: Comparison | None, metrics: Mapping[str, Any]) -> str:
    """The page as HTML; everything that comes from files is escaped.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    truth : Comparison, optional
        Of a simulated study.
    metrics : Mapping
        See `study_metrics`.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(
        files("cinecube.analysis.report").joinpath("templates", "report.html.j2").read_text(encoding="utf-8")
    )
    paths, cubes = StudyPaths(root), read_scores(study, root)
    table = tables.read_table(paths.tables / "layerwise.csv", *tables.LAYER_COLUMNS)
    preferred = tables.preferred_layers(table)
    models = [str(model) for cube in cubes for model in cube["model"].values]
    films, whole_brain = read_films_table(paths.films), _whole_brain_rows(preferred, models)
    quality = _quality(study, paths)
    return template.render(
        study=study,
        lead=_lead(study, films, cubes),
        cards=_scores(whole_brain),
        truth_cards=_distances(metrics),
        choices=_choices(study),
        imported=_imported(study, paths),
        maps=_maps(study, root, cubes),
        whole_brain=table_grid(whole_brain),
        unscored=list(dict.fromkeys(line for cube in cubes for line in notes(cube))),
        layer_curves=_inline(figures.draw_layer_curves(_curves(table, models), "mean test r over parcels")),
        layer_caption=(
            f"Mean test r over parcels and {len(study.brain.subjects)} subjects, a panel per stream with all others in "
            "grey; the band is the standard error over subjects. A cross marks a layer without a score: its features "
            "do not vary."
        ),
        heatmap=_inline(_heatmap(table, preferred, truth, models)),
        lag_curves=_inline(figures.draw_lag_curves(_lags(paths))),
        findings=[
            vars(part) | {"grids": [(caption, table_grid(grid)) for caption, grid in part.grids]}
            for part in findings(study, root)
        ],
        oracle=[(caption, table_grid(grid)) for caption, grid in oracle_tables(study, root)] if truth else [],
        truth=table_grid(truth.table, good=truth.flags) if truth else None,
        truth_lead=truth.summary if truth else "",
        agreement=table_grid(truth.agreement) if truth else None,
        quality=table_grid(quality),
        missing_runs=_missing_runs(study, quality),
        films=table_grid(films),
        provenance=table_grid(_provenance(study, paths, cubes)),
        versions=table_grid(_versions(cubes)),
        params=yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, width=100),
    )


def _lead(study: Study, films: pd.DataFrame, cubes: Sequence[xr.Dataset]) -> str:
    minutes = films["duration_s"].sum() / 60
    n_models, n_streams = len(cubes), sum(cube.sizes["model"] for cube in cubes)
    models = f"{n_models} {'model' if n_models == 1 else 'models'}" + (
        f" in {n_streams} streams" if n_streams > n_models else ""
    )
    return (
        f"{len(study.films)} films ({minutes:.1f} minutes, {int(films['rows'].sum())} rows of {study.clock.tr_s} s), "
        f"{len(study.brain.subjects)} subjects, {models}. Fitted on "
        f"{', '.join(study.split.train)}; tested on {', '.join(study.split.test)}."
    )


def _imported(study: Study, paths: StudyPaths) -> list[str]:
    """Lines on the source of models that were not extracted here, and on what became of their rows."""
    told = []
    for entry in study.imported:
        rev = f" at {entry.rev}" if entry.rev else ""
        rows = becomes(study, entry, stored_spec(paths.features(entry.model, study.split.test[0])))
        told.append(f"{entry.model}: from {shown_address(entry.source)}{rev}" + (f"; {rows}" if rows else ""))
    return told


def _choices(study: Study) -> list[tuple[str, str]]:
    """Keys of published choices that are on, and the meaning of each."""
    found = [(f"encode.compat: {name}", WHAT[name]) for name in study.encode.compat]
    if study.ceiling.compat:
        found.append((f"ceiling.compat: {study.ceiling.compat}", "ceilings by the authors' procedure"))
    return found + [
        (f"models.{name}.compat: {params.compat}", "features extracted as the authors' code does")
        for name, params in study.models.items()
        if params.compat and name in study.compute.models
    ]


def _scores(rows: pd.DataFrame) -> list[dict[str, str]]:
    """The whole brain's score of each stream, from the table below: rounded twice, the metrics may end otherwise."""
    everyone = zip(rows["model"], rows[tables.EVERYONE], strict=True)
    return [
        {"name": f"test r, {model}", "value": f"{value:z.3f}" if np.isfinite(value) else "no score"}
        for model, value in everyone
    ]


def _distances(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """Differences between what was found and what was planted; empty if nothing was."""
    names = {
        "layer_found": ("of driven parcels show their planted layer", "{:.0%}"),
        "layer_found_or_next": ("… or the next one, parcel by parcel and subject by subject", "{:.0%}"),
        "delay_error": ("mean error of the delay", "{:.2f} TR"),
        "idle_score": ("largest |test r| of a parcel that follows nothing", "{:.3f}"),
        "feature_agreement": ("lowest r of decoded features with drawn ones", "{:.3f}"),
        "ceiling_error": ("mean error of the ceiling from repeats (r)", "{:.3f}"),
        "residual_error": ("mean error of residual scores (r)", "{:.4f}"),
        "variance_partition_error": ("mean error of variance parts (R²)", "{:.4f}"),
    }
    truth = metrics.get("truth", {})
    return [{"name": words, "value": form.format(truth[key])} for key, (words, form) in names.items() if key in truth]


def _maps(study: Study, root: Path, cubes: Sequence[xr.Dataset]) -> list[dict[str, str]]:
    """A map of each stream; of one without scores there is a sentence instead."""
    models = [str(model) for cube in cubes for model in cube["model"].values]
    found = {model: map_values(study, root, "score", model) for model in models}
    # One scale for all, or eyes could not compare them.
    tops = [float(np.abs(values.values[np.isfinite(values.values)]).max(initial=0.0)) for values, _ in found.values()]
    drawn = {model: draw_map(*where, model, "test r", max(tops, default=0.0) or None) for model, where in found.items()}
    subjects = f"mean over {len(study.brain.subjects)} subjects"
    if said := undrawn(cubes[0].attrs if cubes else {}):
        return [{"png": "", "caption": said}]
    return [
        {
            "png": _inline(png or b""),
            "caption": f"{model}: Pearson r, {subjects}" if own else f"No map of {model}: it has no score anywhere.",
        }
        for (model, png), own in zip(drawn.items(), tops, strict=True)
        if png is not None or not own
    ]


def _whole_brain_rows(preferred: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    means = tables.whole_brain_means(preferred)
    wide = means.pivot(index="model", columns="subject", values="score")
    return _as_in_study(wide.reset_index(), models, ["model"])


def _as_in_study(rows: pd.DataFrame, models: Sequence[str], by: list[str]) -> pd.DataFrame:
    """Rows sorted by columns, models as the study has them: tables have them by the alphabet."""
    if unknown := sorted(set(rows["model"]) - set(models)):
        raise StudyError(
            where="results/tables",
            found=f"scores of {some_of(unknown)}",
            expected=f"those of {', '.join(models)}, the models of params.yaml",
            do="run `dvc repro`, which makes the tables of these models",
        )
    return rows.sort_values(by, key=lambda column: column.map(models.index) if column.name == "model" else column)


def _curves(table: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """Mean over parcels per model and layer, with the standard error over subjects."""
    each, by = table[table["subject"] != tables.EVERYONE], ["model", "depth", "layer"]
    grouped = each.groupby([*by, "subject"], sort=True)["score"].mean().groupby(by)
    curves = grouped.mean().to_frame("score")
    curves["sem"] = grouped.sem().fillna(0.0)
    return _as_in_study(curves.reset_index(), models, by)


def _heatmap(table: pd.DataFrame, preferred: pd.DataFrame, truth: Comparison | None, models: Sequence[str]) -> bytes:
    everyone, by = table[table["subject"] == tables.EVERYONE], ["model", "depth", "layer"]
    order = _as_in_study(everyone[by].drop_duplicates(), models, by)
    columns = list(zip(order["model"], order["layer"], strict=True))
    scores = everyone.pivot(index="parcel", columns=["model", "layer"], values="score").reindex(columns=columns)
    best = preferred[(preferred["subject"] == tables.EVERYONE) & preferred["best_model"]]
    found = {str(row.parcel): (str(row.model), str(row.layer)) for row in best.itertuples()}
    return figures.parcel_heatmap(scores, found, truth.planted if truth else {})


def _lags(paths: StudyPaths) -> pd.DataFrame:
    """Curves of each parcel at its best model: the one whose best delay scores highest."""
    lags = tables.read_table(paths.tables / "lag_curve.csv", "parcel", "model", "lag", "lag_score")
    top = lags.groupby(["parcel", "model"])["lag_score"].max().dropna().reset_index()
    best = top.loc[top.groupby("parcel")["lag_score"].idxmax(), ["parcel", "model"]]
    return lags.merge(best, on=["parcel", "model"]).pivot_table(index="parcel", columns="lag", values="lag_score")


def _quality(study: Study, paths: StudyPaths) -> pd.DataFrame:
    parts, pulled = [], PulledCubes(paths.root)
    for subject in study.brain.subjects:
        path = paths.brain_qc(subject)
        pulled.refuse_kept_back(path, paths.relative(path))
        table = tables.read_table(path, "segment", "repeat")
        table.insert(0, "subject", subject)
        # In words above the table, with showings that other subjects have.
        parts.append(table.drop(columns="missing_segments", errors="ignore"))
    timing = tables.read_table(paths.tables / "run_timing.csv", "subject", "segment", "repeat", "verdict", "shift_s")
    timing = timing.rename(columns={"verdict": "timing"})[["subject", "segment", "repeat", "timing", "shift_s"]]
    return pd.concat(parts, ignore_index=True).merge(timing, on=["subject", "segment", "repeat"], how="left")


def _missing_runs(study: Study, quality: pd.DataFrame) -> list[str]:
    """Lines on the runs that a subject lacks: showings that another has, and segments that nobody has."""
    found = set(quality[["subject", "segment", "repeat"]].itertuples(index=False, name=None))
    segments = study.segments()  # tables may be of more
    shown = {(segment, repeat) for _, segment, repeat in found if segment in segments}
    shown |= {(segment, 1) for segment in segments if segment not in {one for one, _ in shown}}
    in_order = sorted(shown, key=lambda run: (segments.index(run[0]), run[1]))
    lines = []
    for subject in study.brain.subjects:
        missing = [
            segment if repeat == 1 else f"{segment} (repeat {repeat})"
            for segment, repeat in in_order
            if (subject, segment, repeat) not in found
        ]
        lines += [f"{subject}: no scan of {', '.join(missing)}"] if missing else []
    return lines


def _provenance(study: Study, paths: StudyPaths, cubes: Sequence[xr.Dataset]) -> pd.DataFrame:
    rows = []
    for model in study.encoded:
        for film in study.films:
            path = paths.features(model, film)
            if path.exists():
                rows.append(_origin(path, paths))
    rows += [_origin(paths.brain(subject), paths) for subject in study.brain.subjects]
    rows += [_origin(paths.scores(model), paths) for model in study.encoded]
    return pd.DataFrame(rows)


def _origin(path: Path, paths: StudyPaths) -> dict[str, Any]:
    with open_cube(path) as cube:
        spec = json.loads(cube.attrs["spec"])
        return {
            "cube": paths.relative(path),
            "fingerprint": cube.attrs["fingerprint"][:12],
            "weights": str(spec.get("weights_digest", ""))[:12],
            "licence": cube.attrs.get("licence", ""),
        }


def _versions(cubes: Sequence[xr.Dataset]) -> pd.DataFrame:
    versions: dict[str, str] = {}
    for cube in cubes:
        versions |= json.loads(cube.attrs["created_by"])
    return pd.DataFrame(sorted(versions.items()), columns=["package", "version"])


def _inline(png: bytes) -> str:
    return base64.b64encode(png).decode("ascii")
