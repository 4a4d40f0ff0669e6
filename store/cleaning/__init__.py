"""Cleaning: what is taken out of a run, which volumes are left out, and the regression that does it."""
