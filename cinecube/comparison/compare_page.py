"""The page of a comparison: one file without scripts, which escapes what it shows."""

from __future__ import annotations

from cinecube.comparison.compare import Compared, changed_numbers
from cinecube.studies.pipelines import template_text


def render_comparison(found: Compared) -> str:
    """HTML of a comparison.

    Parameters
    ----------
    found : Compared
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = number_text
    return environment.from_string(template_text("compare.html.j2")).render(
        found=found, differing=[cube for cube in found.cubes if cube.state != "same"], changed=changed_numbers
    )


def number_text(value: float | None, signed: bool = False) -> str:
    """Three decimals, as scores and shares are told; a minus where there is none."""
    return "-" if value is None else f"{value:{'+' if signed else ''}.3f}"
