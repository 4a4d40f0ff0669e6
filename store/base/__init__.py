"""What every other folder uses: errors, labels, paths, fingerprints, and files written whole and read within bounds."""
