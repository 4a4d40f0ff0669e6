"""Setup of a simulated study: the parameters it is made by, and its random generators."""
