"""Networks as this room sees them, and the parts that they are made of."""

READING_VERSION = 3
"""Of what networks are given: raise it when a change of code changes decoding, windows or batches. A network's own
version covers the rest."""
