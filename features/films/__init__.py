"""Films: which streams a file has, whether all of it decodes, its pictures and its sound."""
