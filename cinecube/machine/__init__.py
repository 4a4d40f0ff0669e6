"""This machine: what a study needs of it, what it lacks, and the line that fixes it."""
