"""Scans: fMRIPrep derivatives cleaned, averaged and labelled as brain cubes."""
