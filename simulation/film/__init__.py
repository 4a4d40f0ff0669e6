"""Simulated films: script, picture, sound and files."""
