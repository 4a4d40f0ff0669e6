"""From cubes to scores: design matrices, encoders, statistics, figures and the report."""
