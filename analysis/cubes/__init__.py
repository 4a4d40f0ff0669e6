"""Labelled inputs of every analysis: rows, feature spaces, responses, parcels, and tables of what came out."""
