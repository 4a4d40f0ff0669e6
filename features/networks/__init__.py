"""What a network is to this room, and the parts that networks are made of."""

READING_VERSION = 3
"""Of what networks are given: raise it when a change of code changes decoding, windows or batches. A network's own
version covers the rest."""
