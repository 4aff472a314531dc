"""Products of independent structures: every factor by its own path."""
