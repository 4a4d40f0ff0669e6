"""Extraction: checkpoints, windows, fingerprints, and the loop from a film to its feature cube."""
