"""The study's page: its charts, cortex, tables, findings and metrics."""

VERSION = 8
"""Of figures, findings and metrics: raise it when a change of code changes them."""
