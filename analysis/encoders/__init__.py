"""Encoding models: a model's layers fitted to every subject's responses, and the score cube that comes out."""

from cinecube.analysis import cubes, ridge

VERSION = 1
"""Of score cubes: raise it when a change of code in this folder changes their numbers."""
VERSIONS = {"encoders": VERSION, "cubes": cubes.VERSION, "ridge": ridge.VERSION}
"""Of this folder and of the shared ones that decide these numbers too."""
