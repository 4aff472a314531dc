"""The interior-point path in compiled loops: small hulls on the CPU, one element after the other.

tables      what the loops read: M as sparse rows and columns, barriers, f's number, tolerances; and who is served
answers     from tensors to loops and back, with the tensor code for what these give up
types       what goes between the loops
phi         the regularizers
systems     M, its Schur complement, its condensed system
interior    Mehrotra's method;   polish: Newton's method on the active set;   implicit: the derivative
batch       the loops over elements

The steps, their tolerances and their tests are those of the tensor code (``..interior``, ``..polish``, ``..kkt``), which
explains them. Modules from ``phi`` on are compiled where they are imported: ``answers`` does, when it is asked.
"""
