"""Regions of interest: scores in sets of parcels, and which layers they prefer."""

from cinecube.analysis import cubes, statistics

VERSION = 2
"""Of tables of regions and layers: raise it when a change of code in this folder changes their numbers."""
VERSIONS = {"regions": VERSION, "cubes": cubes.VERSION, "statistics": statistics.VERSION}
"""Of this folder and of the shared ones that decide these numbers too."""
