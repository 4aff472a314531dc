"""``python -m sst_cvx.precompile``: compile the interior point's loops, once for this machine and version.

Other compiled kernels take a second or two, and are compiled where they are first asked. These take most of a minute:
they serve once they are kept on disk, and until then the tensor code answers.
"""

from __future__ import annotations

import time

import torch

from sst_cvx import native
from sst_cvx.once import later
from sst_cvx.paths.interior_point.native.tables import are_kept
from sst_cvx.regularizers import BinaryEntropy
from sst_cvx.soft_argmax import SoftArgmax
from sst_cvx.structure.base import Structure

cp = later("cvxpy")


def precompile() -> bool:
    """Whether there is something to compile: without Numba (extra ``native``) there is not."""
    if not native.is_on():
        return False
    x = cp.Variable(3)
    soft = SoftArgmax(Structure(x, [x >= 0, x[0] + x[1] <= 1, cp.sum(x) == 1]), BinaryEntropy(), path="interior_point")
    with native.patiently():
        u = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
        (g,) = torch.autograd.grad(soft(u).square().sum(), u, create_graph=True)
        g.sum().backward()
    are_kept.cache_clear()
    return True


def main() -> None:
    if native.is_on() and are_kept():
        print("The interior point's loops are compiled.")
        return
    print("Compiling the interior point's loops, which takes most of a minute ...", flush=True)
    began = time.perf_counter()
    if precompile():
        print(f"Done in {time.perf_counter() - began:.0f} s; kept on disk.")
    else:
        print("There is nothing to compile with: pip install 'sst-cvx[native]', and leave SST_CVX_NATIVE unset.")


if __name__ == "__main__":
    main()
