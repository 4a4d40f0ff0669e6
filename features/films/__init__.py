"""Films: which streams a file has, whether all of it decodes, its pictures and its sound."""

VERSION = 1
"""Of the table of films: raise it when a change of code changes it."""
PROBED_VERSION = 1
"""Of what is known of a film once it has been decoded: raise it when `probe` learns to see what it has not seen."""
VERSIONS = {"films": VERSION, "probed": PROBED_VERSION}
"""Of all that decides the table of films."""
