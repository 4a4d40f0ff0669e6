"""A study as a scientist opens it in Python: cubes, tables, pairs to fit, films predicted, and what is in it."""
