"""Studies opened for reading: cubes by name, in a folder or at a revision."""
