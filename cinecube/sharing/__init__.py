"""What a study shows others: its card, its citation, where it is found, and what is kept private."""
