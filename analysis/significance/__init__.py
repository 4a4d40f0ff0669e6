"""Significance: which scores are above chance, and which differ between models."""

from cinecube.analysis import cubes, encoders, ridge, statistics
from cinecube.store.base.fingerprint import above_first

VERSION = 1
"""Of tests: raise it when a change of code in this folder changes their numbers."""
VERSIONS = {
    "significance": VERSION,
    "cubes": cubes.VERSION,
    "ridge": ridge.VERSION,
    "statistics": statistics.VERSION,
    **above_first({"encoders": encoders.VERSION}),
}
"""Of this folder and of the shared ones that decide these numbers too."""
