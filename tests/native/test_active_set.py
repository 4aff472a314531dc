"""The min-norm-point algorithm by compiled loops and by tensors, one against the other."""

from __future__ import annotations

import pytest
import torch

import polytopes
import sst_cvx as sst
from sst_cvx import native

pytest.importorskip("numba")
STRUCTURES = [
    polytopes.KSubset(40, 20),  # wider than what is reserved at first
    polytopes.SpanningTree(7),
    polytopes.Arborescence(6, root=None),
]


@pytest.mark.parametrize("kind", ["random", "ties", "far"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
def test_answers_on_and_off(structure, weighted, kind):
    weights = 0.5 + torch.rand(structure.event_shape, dtype=torch.float64) if weighted else None
    soft = sst.SoftArgmax(structure, sst.Euclidean(weights=weights), path="active_set")
    u, v = torch.randn(2, 3, *structure.event_shape, dtype=torch.float64)
    u = {"random": u, "ties": u.round(), "zero": 0 * u, "far": 1e4 * u, "tiny": 1e-9 * u}[kind]
    found = []
    for on in (True, False):
        with native.switched(on):
            w = u.clone().requires_grad_()
            x = soft(w)
            (slope,) = torch.autograd.grad((x * v).sum(), w)
            with torch.no_grad():
                torch.testing.assert_close(soft(u), x, rtol=0, atol=1e-11)
            found.append((x.detach(), slope))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-10)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=1e-7)


@pytest.mark.parametrize("on", [True, False])
def test_errors_name_the_element(on):
    exact = polytopes.OneHot(4).argmax
    structure = sst.Structure.from_argmax(4, lambda u: exact(u))
    structure._function = lambda u: exact(u - 10.0 * (torch.arange(4) == 0) * (u.amax() < 1.5))  # pyright: ignore[reportAttributeAccessIssue]
    u = torch.tensor([[0.9, 0.1, 0.0, -1.0], [2.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    with native.switched(on), pytest.raises(sst.SolveError, match="argmax is not exact for batch element 1"):
        sst.SoftArgmax(structure, sst.Euclidean())(u)


@pytest.mark.parametrize("on", [True, False])
def test_an_empty_batch(on):
    soft = sst.SoftArgmax(polytopes.SpanningTree(5), sst.Euclidean(), path="active_set")
    with native.switched(on):
        assert soft(torch.zeros(0, 10)).shape == (0, 10)


def test_default_devices_change_nothing():
    soft = sst.SoftArgmax(polytopes.Arborescence(5), sst.Euclidean(), path="active_set")
    u = torch.zeros(3, 16, dtype=torch.float64, requires_grad=True)
    x = soft(u)
    with torch.device("meta"):
        assert torch.equal(soft(u), x)
