"""Sets of regions that come with this package, by name; whoever looks at a study asks, so it loads no pandas."""

from __future__ import annotations

from importlib.resources import files


def shipped_rois() -> list[str]:
    """Names of the sets that come with this package."""
    folder = files("cinecube.analysis.regions").joinpath("roi_sets")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
