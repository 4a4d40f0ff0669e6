"""Ridge regression of arrays: designs, folds, factors and the choice of penalties. Knows no path and no label."""
