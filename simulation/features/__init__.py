"""Simulated networks: checkpoints with random weights, and what they say of films as drawn."""
