"""Maps: one value per target, painted onto voxels or vertices and written as files of other tools."""
