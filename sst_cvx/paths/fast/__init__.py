"""Closed-form and combinatorial algorithms, registered for a pair of structure and regularizer."""
