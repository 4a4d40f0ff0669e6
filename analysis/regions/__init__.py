"""Regions of interest: scores in sets of parcels, and which layers they prefer."""
