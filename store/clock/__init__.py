"""The clock: which stretch of a film each row sees, how many rows a segment has, and one clock made of another."""
