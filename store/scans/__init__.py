"""Scans: sources of runs in any space, averaged, cleaned and labelled as brain cubes."""

VERSION = 3
"""Of brain cubes: raise it when a change of code changes their numbers. It enters their spec from 2 on, for cubes that
earlier versions made are those of version 1."""
