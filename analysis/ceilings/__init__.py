"""Noise ceilings: from films shown again and from other subjects."""
