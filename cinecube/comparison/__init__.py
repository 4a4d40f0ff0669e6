"""Comparison of two studies, or of two revisions of one: parameters, cubes, scores and findings."""
