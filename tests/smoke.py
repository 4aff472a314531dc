"""An installed package works, by itself: ``python smoke.py`` in any folder."""

import contextlib
import io
import time

import torch

begin = time.perf_counter()
import sst_cvx as sst
from sst_cvx.polytopes import KSubset, SpanningTree

seconds = time.perf_counter() - begin
import cvxpy as cp

printed = io.StringIO()
u = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
with contextlib.redirect_stdout(printed):
    x = cp.Variable(4)
    own = sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) == 2])
    for regularizer in (sst.Euclidean(), sst.CategoricalEntropy(), sst.BinaryEntropy()):
        mine, ours = sst.SoftArgmax(own, regularizer), sst.SoftArgmax(KSubset(4, 2), regularizer)
        (g,) = torch.autograd.grad(mine(u, 0.5).square().sum(), u)
        (h,) = torch.autograd.grad(ours(u, 0.5).square().sum(), u)
        assert torch.allclose(mine(u, 0.5), ours(u, 0.5), atol=1e-7), regularizer
        assert torch.allclose(g, h, atol=1e-5), regularizer
        layer = mine.reference()
        assert torch.allclose(layer(u, 1.0), ours(u, 1.0), atol=1e-5), regularizer
    assert (own.argmax(u) == KSubset(4, 2).argmax(u)).all()
    trees = sst.SoftArgmax(SpanningTree(4), sst.ExponentialFamilyEntropy())
    assert torch.allclose(trees(torch.zeros(6)).sum(), torch.tensor(3.0))
assert not printed.getvalue()
try:
    import matplotlib  # noqa: F401
    import networkx  # noqa: F401
except ImportError:
    pass
else:
    tree = SpanningTree(4)
    sst.plot.event(tree, tree.argmax(torch.randn(6))).figure.savefig("tree.png")
    sst.plot.path(mine, torch.tensor([1.0, 0.5, 0.2, -1.0])).figure.savefig("path.png")
print(f"sst_cvx {sst.__version__}, torch {torch.__version__}: works; imported in {seconds:.2f} s on top of torch")
