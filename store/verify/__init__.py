"""Verifying cubes: their files, labels, numbers and DVC's records, and how broken files are repaired."""
