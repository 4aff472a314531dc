"""Projections onto intersections of hulls, by the projections onto each."""
