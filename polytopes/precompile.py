"""``python -m polytopes.precompile``: compile all kernels once for this machine and version, and keep them on disk.

Without it each is compiled at its first call, which then takes seconds, but for the interior point's loops: these serve
only once they are compiled.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import torch

import polytopes
import sst_cvx as sst
from sst_cvx import native


def _pairs() -> Iterator[tuple[sst.Structure, sst.Regularizer]]:
    """Small instances that ask for every kernel."""
    euclidean, family, categorical = sst.Euclidean(), sst.ExponentialFamilyEntropy(), sst.CategoricalEntropy()
    chain = torch.tensor([[0, 0, 1, 1, 2], [1, 2, 2, 3, 3]])
    for structure in (polytopes.OneHot(5), polytopes.KSubset(5, 2), polytopes.AtMostKSubset(5, 2)):
        for f in (euclidean, sst.TsallisEntropy(1.5), sst.TsallisEntropy(torch.tensor(1.3)), sst.BinaryEntropy()):
            yield structure, f
    yield from ((polytopes.Permutahedron(torch.arange(1.0, 6.0)), f) for f in (euclidean, categorical))
    yield polytopes.Matching(4), categorical
    for structure in (
        polytopes.SpanningTree(5),
        polytopes.Arborescence(4),
        polytopes.Arborescence(4, single_root=True),
    ):
        yield structure, family
        yield structure, euclidean
    yield polytopes.Path(chain, 0, 3), family
    yield polytopes.Chain(3, 2), family
    yield polytopes.BinaryTree(3), family


def precompile() -> None:
    """Values, gradients and their derivatives, best elements and log-partitions, of both dtypes."""
    for structure, f in _pairs():
        soft = sst.SoftArgmax(structure, f)
        for dtype in (torch.float64, torch.float32):
            u = torch.linspace(-1, 1, 2 * structure.event_size, dtype=dtype).reshape(2, *structure.event_shape)
            u.requires_grad_()
            (g,) = torch.autograd.grad(soft(u).square().sum(), u, create_graph=True)
            if g.requires_grad:
                g.sum().backward()
            structure.argmax(u)
            if structure.has_log_partition():
                structure.log_partition(u).sum().backward()
                structure.log_partition(u.detach())


def main() -> None:
    engine = subprocess.Popen([sys.executable, "-m", "sst_cvx.precompile"])
    if native.is_on():
        print("Compiling the library's kernels, which takes as long ...", flush=True)
        began = time.perf_counter()
        precompile()
        print(f"The library's: done in {time.perf_counter() - began:.0f} s.")
    if engine.wait():
        raise SystemExit("The interior point's loops were not compiled: see above.")


if __name__ == "__main__":
    main()
