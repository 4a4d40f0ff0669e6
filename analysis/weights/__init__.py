"""Weights of encoders: kept at one layer of each stream, and applied to films."""

from cinecube.analysis import cubes, encoders, ridge

VERSION = 1
"""Of cubes of weights: raise it when a change of code in this folder changes their numbers."""
VERSIONS = {"weights": VERSION, "encoders": encoders.VERSION, "cubes": cubes.VERSION, "ridge": ridge.VERSION}
"""Of this folder and of the shared ones that decide these numbers too."""
