"""State of a study: what is done, what is stale and why, and what can go."""
