"""Foundations of all other folders: errors, labels, paths, fingerprints, files written whole and read within bounds."""
