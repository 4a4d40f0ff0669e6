"""What was planted in a simulated study beside what was found."""
