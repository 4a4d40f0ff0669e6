"""Making studies: from templates, from scans, and from another study's cubes."""
