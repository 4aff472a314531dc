"""The interior-point path in compiled loops: small hulls on the CPU, one element after the other.

tables      what the loops read: M as sparse rows and columns, barriers, f's number, tolerances; and who is served
answers     from tensors to loops and back
layout      what goes between the loops, by names
inner       how they are compiled
phi         the regularizers
systems     M, its Schur complement, its condensed system;   active: the KKT system of an active set
interior    Mehrotra's method;   polish: Newton's method on the active set
batch       the loops over elements

Steps, tolerances and order are those of the tensor code (``..interior``, ``..polish``, ``..kkt``, ``..derivative``),
which explains them and answers for what the loops give up. Modules from ``inner`` on import Numba: ``answers`` imports
them when it is asked. They take most of a minute to compile, and serve from then on: ``python -m sst_cvx.precompile``.
"""
