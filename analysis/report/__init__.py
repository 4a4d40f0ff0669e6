"""The study's page: its charts, cortex, tables, findings and metrics."""

VERSION = 10
"""Of figures, findings and metrics: raise it when a change of code changes them."""
