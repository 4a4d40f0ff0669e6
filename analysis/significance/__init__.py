"""Significance: which scores are above chance, and which differ between models."""
