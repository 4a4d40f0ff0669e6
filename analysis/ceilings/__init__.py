"""Noise ceilings: from films shown again and from other subjects."""

from cinecube.analysis import cubes, ridge

VERSION = 1
"""Of ceilings: raise it when a change of code in this folder changes their numbers."""
VERSIONS = {"ceilings": VERSION, "cubes": cubes.VERSION, "ridge": ridge.VERSION}
"""Of this folder and of the shared ones that decide these numbers too."""
