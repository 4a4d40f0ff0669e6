"""Making studies: from templates, scans or another study's cubes; and records of the files that they read."""
