"""Sharing of studies: a card, a citation, the address for others, and what is kept private."""
