"""The cubes: their schema, reading, writing and fingerprints, and importers of brain data."""
