"""Leftovers of killed and finished work."""
