"""The study's page: its charts, cortex, tables, findings and metrics."""

VERSION = 11
"""Of figures, findings and metrics: raise it when a change of code changes them."""
