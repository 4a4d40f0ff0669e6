"""Statistics of scores: chance, comparisons, intervals, shares of a ceiling."""

VERSION = 1
"""Of these statistics: raise it when a change of code changes their numbers."""
