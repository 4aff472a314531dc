"""Numerical kernels that several structures share: batched tensor code that knows no structure."""
