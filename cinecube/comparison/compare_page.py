"""The page of a comparison: one file without scripts, which escapes what it shows."""

from __future__ import annotations

from collections.abc import Sequence

from cinecube.comparison.compare import Compared, Numbers, changed_numbers
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
        found=found,
        span=_span,
        place=_place,
        differing=[cube for cube in found.cubes if cube.state != "same"],
        changed=changed_numbers,
    )


def number_text(value: float | None, signed: bool = False) -> str:
    """Three decimals, as scores and shares are told; a minus where there is none.

    Parameters
    ----------
    value : float or None
    signed : bool
        Put a plus before what is above 0.

    Returns
    -------
    str
    """
    return "-" if value is None else f"{value:{'+' if signed else ''}.3f}"


# Of a row's picture, 130 wide: half a dot is left free on both sides.
_LEFT, _RIGHT = 5.0, 125.0


def _span(rows: Sequence[Numbers]) -> tuple[float, float]:
    """The least and largest number of both sides, 0 among them."""
    known = [value for row in rows for value in (row.a, row.b) if value is not None]
    return min([0.0, *known]), max([0.0, *known])


def _place(value: float | None, low: float, high: float) -> float | None:
    """Place at which a number is drawn; None where there is none."""
    if value is None:
        return None
    return round(_LEFT + (_RIGHT - _LEFT) * (value - low) / ((high - low) or 1.0), 1)
