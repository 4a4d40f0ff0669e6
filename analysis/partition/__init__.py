"""Variance partitioning: what two or three streams explain alone, and what they share."""
