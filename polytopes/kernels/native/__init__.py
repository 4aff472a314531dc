"""Kernels that Numba compiles, imported where ``sst_cvx.native.serves`` says so and nowhere else.

Each module has loops over numpy arrays alone. Their twins in tensors stand one folder up; ``tests/native`` holds one
against the other.
"""
