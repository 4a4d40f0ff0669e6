"""Cubes in DVC repositories: which there are at a revision, and their bytes by range from cache or remote."""
