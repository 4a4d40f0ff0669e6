"""The page as one HTML file: its template, style and scripts, and a policy by hash for what may run in it."""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import io
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from cinecube.analysis.report.charts import Chart
from cinecube.analysis.report.report_tables import table_grid
from cinecube.analysis.report.sections import PageSection

_SCRIPTS = ("report.js", "cortex.js")


def fill_page(sections: Sequence[PageSection], cortex: Mapping[str, Any] | None, **values: Any) -> str:
    """The page's HTML; what comes from files is text in it, never markup.

    Parameters
    ----------
    sections : sequence of PageSection
        In the order of the page.
    cortex : mapping, optional
        See `cortex_data`.
    **values
        What else the template shows.

    Returns
    -------
    str
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["grid"] = table_grid
    template = environment.from_string(_asset("report.html.j2"))
    plotly, own = _plotly(), "\n".join(map(_asset, _SCRIPTS))
    charts = [chart for section in sections for chart in section.charts]
    data = json.dumps(
        {"charts": {chart.name: _chart(chart) for chart in charts}, "cortex": cortex},
        allow_nan=False,
        separators=(",", ":"),
    )
    return template.render(
        sections=sections,
        has_cortex=cortex is not None,
        steps=_rounding(cortex or {}),
        only_means=cortex is not None and cortex["onlyMeans"],
        # Inside a script element only this could end it or begin a comment.
        data=data.replace("<", "\\u003c"),
        style=_asset("report.css"),
        scripts=[plotly, own],
        policy=(
            f"default-src 'none'; script-src {_hash(plotly)} {_hash(own)}; style-src 'unsafe-inline'; img-src data:"
            " blob:"
        ),
        **values,
    )


def _rounding(cortex: Mapping[str, Any]) -> dict[str, float]:
    """Words of each measure, and the steps that its values are kept in."""
    words = {measure: one["words"] for measure, one in cortex.get("measures", {}).items()}
    return {words[measure]: step for measure, step in cortex.get("steps", {}).items() if measure in words}


def _chart(chart: Chart) -> dict[str, Any]:
    text = io.StringIO()
    chart.table.to_csv(text, index=False, lineterminator="\n", float_format="%.6g")
    return {
        "figures": {name: _as_text(own) for name, own in chart.figures.items()},
        "chooser": chart.chooser,
        "first": chart.first,
        "film": chart.film,
        "csv": text.getvalue(),
    }


def _as_text(part: Any) -> Any:
    """A figure whose labels plotly shows as they are: it takes `<b>` and links in them for markup."""
    if isinstance(part, str):
        return html.escape(part, quote=False)
    if isinstance(part, Mapping):
        return {key: own if key == "hovertemplate" else _as_text(own) for key, own in part.items()}
    if isinstance(part, list | tuple):
        return [_as_text(own) for own in part]
    return part


def _asset(name: str) -> str:
    return files("cinecube.analysis.report").joinpath("templates", name).read_text(encoding="utf-8")


@functools.cache
def _plotly() -> str:
    """Plotly's script, which comes with its Python package."""
    script = files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")
    return script.replace("</script", "<\\/script")


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
