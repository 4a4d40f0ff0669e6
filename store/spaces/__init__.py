"""Spaces: where targets are, which parcels they belong to, and whether two cubes may be compared."""
