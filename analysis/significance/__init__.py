"""Significance: which scores are above chance, and which differ between models."""

from cinecube.analysis import cubes, ridge, statistics

VERSION = 1
"""Of tests: raise it when a change of code in this folder changes their numbers."""
VERSIONS = {"significance": VERSION, "cubes": cubes.VERSION, "ridge": ridge.VERSION, "statistics": statistics.VERSION}
"""Of this folder and of the shared ones that decide these numbers too."""
