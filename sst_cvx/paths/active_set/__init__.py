"""Euclidean soft argmax by the hard argmax alone: the min-norm-point algorithm (SparseMAP)."""
