"""Planted signals of a simulated study beside what was found."""

from cinecube.analysis import cubes, partition, ridge
from cinecube.store.base.fingerprint import above_first

VERSION = 1
"""Of what plain fits find: raise it when a change of code in this folder changes it."""
VERSIONS = {
    "truth": VERSION,
    "cubes": cubes.VERSION,
    "ridge": ridge.VERSION,
    **above_first({"partition": partition.VERSION}),
}
"""Of this folder and of the shared ones that decide these numbers too."""
