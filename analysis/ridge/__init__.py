"""Ridge regression of arrays: designs, folds, factors and the choice of penalties. Knows no path and no label."""

VERSION = 1
"""Of the solvers: raise it when a change of code changes what they find."""
