"""Statistics of scores: chance, comparisons, intervals, shares of a ceiling."""
