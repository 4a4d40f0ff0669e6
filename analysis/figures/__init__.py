"""Figures: the paper's 2 to 5 for any study, and maps drawn on brains."""
