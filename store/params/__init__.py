"""`params.yaml`: what its sections hold, how it is read once and how it is edited."""
