"""A lab's own features as cubes like any other."""
