"""The study's page: one HTML file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr
import yaml

from cinecube.analysis.cubes import tables
from cinecube.analysis.cubes.results import of_scored, read_scores
from cinecube.analysis.cubes.unscored import ceiling_notes, notes
from cinecube.analysis.encoders.oota2025 import WHAT
from cinecube.analysis.figures.paper_figures import groups
from cinecube.analysis.regions.roi_tables import SCORE_COLUMNS, over_subjects, with_means
from cinecube.analysis.regions.stage import twins
from cinecube.analysis.report.brain_maps import brain_maps
from cinecube.analysis.report.charts import FilmPictures
from cinecube.analysis.report.findings import findings, oracle_tables
from cinecube.analysis.report.headline import design, headline
from cinecube.analysis.report.methods import write_methods
from cinecube.analysis.report.metrics import study_metrics
from cinecube.analysis.report.page import fill_page
from cinecube.analysis.report.report_tables import table_grid
from cinecube.analysis.report.sections import (
    delays_section,
    layers_section,
    models_section,
    quality_section,
    time_section,
    with_all_values,
)
from cinecube.analysis.truth.planted import Comparison, compare_study
from cinecube.store.base.atomic import staged, write_text
from cinecube.store.base.paths import StudyPaths
from cinecube.store.base.writing import one_writer
from cinecube.store.clock.films_table import read_films_table
from cinecube.store.cube.cubes import open_cube
from cinecube.store.cube.heads import stored_spec
from cinecube.store.dvc.remotes import shown_address
from cinecube.store.params.asked import becomes
from cinecube.store.params.document import Study


def write_report(study: Study, root: Path, pictures: FilmPictures | None = None) -> None:
    """Write `results/report/index.html` and `results/metrics.json`.

    Parameters
    ----------
    study : Study
    root : Path
        The study's folder.
    pictures : callable, optional
        See `FilmPictures`; for studies whose films may be shown.

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
            (folder / "index.html").write_text(
                render(study, root, truth, metrics, pictures), encoding="utf-8", newline="\n"
            )
        write_text(paths.metrics, json.dumps(metrics, indent=1, sort_keys=True) + "\n")


def render(
    study: Study,
    root: Path,
    truth: Comparison | None,
    metrics: Mapping[str, Any],
    pictures: FilmPictures | None = None,
) -> str:
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
    pictures : callable, optional
        See `FilmPictures`.

    Returns
    -------
    str
    """
    paths, cubes, scored = StudyPaths(root), read_scores(study, root), of_scored(study, root)
    table = tables.read_table(paths.tables / "layerwise.csv", *tables.LAYER_COLUMNS)
    preferred = tables.preferred_layers(table)
    models = [str(model) for cube in cubes for model in cube["model"].values]
    films = read_films_table(paths.films)
    maps = brain_maps(scored, root, cubes, metrics["best_model"])
    sections = [
        models_section(scored, paths, preferred, models, metrics["best_model"]),
        maps.section,
        *findings(scored, root),
        quality_section(study, paths, films),
    ]
    at = next(place for place, section in enumerate(sections) if section.key == "regions") + 1
    along = time_section(scored, root, preferred, pictures)
    sections[at:at] = [
        layers_section(table, preferred, truth, cubes, _networks(study, table, models)),
        *([along] if along else []),
        delays_section(study, paths),
    ]
    scores = with_means(tables.read_table(paths.tables / "roi.csv", *SCORE_COLUMNS), groups(study))
    together = with_all_values(over_subjects(scores, study.statistics.seed))
    minutes, n_rows = float(films["duration_s"].sum() / 60), int(films["rows"].sum())
    return fill_page(
        sections,
        cortex=maps.cortex,
        study=study,
        finding=headline(together, groups(study), metrics["best_model"], study),
        design=design(study, minutes, n_rows, len(models)),
        hero=maps.hero,
        choices=_choices(study),
        imported=_imported(study, paths),
        unscored=list(dict.fromkeys([*(line for cube in cubes for line in notes(cube)), *_of_ceilings(study, paths)])),
        methods=write_methods(study),
        tables=sorted(path.name for path in paths.tables.glob("*.csv")),
        truth=_truth(study, root, truth, metrics) if truth else None,
        provenance=table_grid(_provenance(study, paths, cubes)),
        versions=table_grid(_versions(cubes)),
        params=yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, width=100),
    )


def _networks(study: Study, table: pd.DataFrame, models: Sequence[str]) -> dict[str, str]:
    """Network of each stream; that of an untrained twin is the trained one."""
    fresh = {twin: study.owner(stream) for stream, twin in twins(study, table).items()}
    return {stream: fresh.get(stream, study.owner(stream)) for stream in models}


def _of_ceilings(study: Study, paths: StudyPaths) -> list[str]:
    """Lines on the rows and sources of ceilings across subjects, where scores are divided by them."""
    return ceiling_notes(open_cube(paths.ceiling)) if study.ceiling.use == "cross_subject" else []


def _truth(study: Study, root: Path, truth: Comparison, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The truth of a simulated study beside what was found, as the page shows them."""
    return {
        "summary": truth.summary,
        "cards": _distances(metrics),
        "table": table_grid(truth.table, good=truth.flags),
        "agreement": table_grid(truth.agreement),
        "oracle": [(caption, table_grid(grid)) for caption, grid in oracle_tables(study, root)],
    }


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
