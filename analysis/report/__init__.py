"""The study's page: its figures, tables, findings and metrics."""
