"""Residual analyses: how far scores drop without what another model explains."""

from cinecube.analysis import cubes, encoders, ridge
from cinecube.store.base.fingerprint import above_first

VERSION = 1
"""Of residual feature cubes: raise it when a change of code in this folder changes their numbers."""
TABLES_VERSION = 1
"""Of the tables of drops: raise it when a change of code changes them and leaves the cubes as they are."""
SHARED_VERSIONS = {"cubes": cubes.VERSION, "ridge": ridge.VERSION, **above_first({"encoders": encoders.VERSION})}
"""Of the shared folders that decide the cubes' numbers too."""
