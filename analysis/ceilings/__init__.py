"""Noise ceilings: from films shown again and from other subjects."""

from cinecube.analysis import cubes, encoders, ridge
from cinecube.store.base.fingerprint import above_first

VERSION = 1
"""Of ceilings: raise it when a change of code in this folder changes their numbers."""
VERSIONS = {
    "ceilings": VERSION,
    "cubes": cubes.VERSION,
    "ridge": ridge.VERSION,
    **above_first({"encoders": encoders.VERSION}),
}
"""Of this folder and of the shared ones that decide these numbers too."""
