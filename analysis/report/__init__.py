"""The study's page: its figures, tables, findings and metrics."""

VERSION = 2
"""Of figures, findings and metrics: raise it when a change of code changes them."""
