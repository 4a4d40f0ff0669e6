"""Where a study stands: what is done, what is stale and why, and what can go."""
