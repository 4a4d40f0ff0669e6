"""Variance partitioning: what two or three streams explain alone, and what they share."""

from cinecube.analysis import cubes, encoders, ridge
from cinecube.store.base.fingerprint import above_first

VERSION = 1
"""Of partitions: raise it when a change of code in this folder changes their numbers."""
TABLES_VERSION = 1
"""Of the tables of their averages: raise it when a change of code changes them and leaves the cube as it is."""
VERSIONS = {
    "partition": VERSION,
    "cubes": cubes.VERSION,
    "ridge": ridge.VERSION,
    **above_first({"encoders": encoders.VERSION}),
}
"""Of this folder and of the shared ones that decide these numbers too."""
