"""Labelled inputs of every analysis: rows, feature spaces, responses, parcels, and tables of what came out."""

VERSION = 1
"""Of how rows, features and responses are matched, by `store/clock` and `store/cube/reclock` too: raise it when a
change of code there changes results."""
