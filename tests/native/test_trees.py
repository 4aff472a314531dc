"""Compiled trees and their twins in tensors, one against the other; and what only one of them could get wrong."""

from __future__ import annotations

import networkx as nx
import pytest
import torch

import polytopes
import sst_cvx as sst
from polytopes.kernels.best_tree import best_tree
from polytopes.kernels.log_weights import ABSENT
from polytopes.kernels.tree_elimination import eliminated_marginals
from polytopes.kernels.tree_log_elimination import log_domain_marginals, log_domain_sum
from polytopes.kernels.tree_native import compiled_marginals, compiled_sum
from sst_cvx import native

pytest.importorskip("numba")
SPARSE = torch.stack([torch.arange(40), (torch.arange(40) + 1) % 40])


def weights(scale, n, batch, missing=0.0):
    """Some edges are missing, but none of a path through all vertices."""
    w = scale * torch.randn(batch, n, n, dtype=torch.float64)
    path = torch.diag(torch.ones(n - 1), 1) > 0
    return torch.where(path | (torch.rand(batch, n, n) >= missing), w, ABSENT)


def is_tree(structure, edges):
    directed = isinstance(structure, polytopes.Arborescence)
    graph = (nx.DiGraph if directed else nx.Graph)(edges)
    return len(graph) == structure.n and (nx.is_arborescence if directed else nx.is_tree)(graph)


def along(function, w, v):
    w = w.clone().requires_grad_()
    (x,) = torch.autograd.grad((function(w) * v).sum(), w)
    return x


@pytest.mark.parametrize("single_root", [False, True])
@pytest.mark.parametrize("missing", [0.0, 0.5])
@pytest.mark.parametrize("scale", [0.1, 3.0, 300.0, 1e5])
@pytest.mark.parametrize("n", [3, 9])
def test_sums_marginals_and_products(n, scale, missing, single_root):
    w, v = weights(scale, n, 24, missing), torch.randn(24, n, n, dtype=torch.float64)
    digits = 1e-12 * (1 + scale / 100)
    total, expected = compiled_sum(w, single_root), log_domain_sum(w, single_root)
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-10)
    x = compiled_marginals(w, single_root)
    torch.testing.assert_close(x, log_domain_marginals(w, single_root), rtol=0, atol=10 * digits)
    by_sum = along(lambda u: compiled_sum(u, single_root), w, torch.ones(24, dtype=torch.float64))
    torch.testing.assert_close(by_sum, x, rtol=0, atol=0)
    mine = along(lambda u: compiled_marginals(u, single_root), w, v)
    other = along(lambda u: log_domain_marginals(u, single_root), w, v)
    torch.testing.assert_close(mine, other, rtol=0, atol=100 * digits)


@pytest.mark.parametrize("single_root", [False, True])
def test_derivatives_of_every_order(single_root):
    w = weights(1.0, 4, 2).requires_grad_()
    torch.autograd.gradcheck(lambda u: compiled_marginals(u, single_root), w)
    torch.autograd.gradgradcheck(lambda u: compiled_sum(u, single_root), w)
    torch.autograd.gradgradcheck(lambda u: compiled_marginals(u, single_root), w)


def test_closed_products_where_the_first_vertex_is_far_behind():
    """The weight that is left is large, its inverse small, and the square of this 0: it must not be formed."""
    w = torch.zeros(1, 5, 5, dtype=torch.float64)
    w[:, :, 0] = ABSENT
    w.diagonal(dim1=1, dim2=2).fill_(ABSENT)
    w[:, 0, 1], w[:, 1, 2:] = 0.0, -450.0
    v = torch.randn(1, 5, 5, dtype=torch.float64)
    expected = along(lambda u: log_domain_marginals(u, True), w, v)
    for function in (eliminated_marginals, compiled_marginals):
        mine = along(lambda u, f=function: f(u, True), w, v)
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("n", [2, 3, 24])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("structure", [polytopes.SpanningTree, polytopes.Arborescence])
def test_answers_on_and_off(structure, dtype, n):
    """Of soft argmax and its derivatives, in batches of any shape, also with gradients that are batched."""
    soft = sst.SoftArgmax(structure(n), sst.ExponentialFamilyEntropy())
    for shape in ((0,), (3, 2)):
        u = 3 * torch.randn(*shape, *soft.structure.event_shape, dtype=dtype)
        found = []
        for on in (True, False):
            with native.switched(on):
                v = u.clone().requires_grad_()
                x = soft(v)
                (slope,) = torch.autograd.grad((x * x).sum(), v, create_graph=True)
                (turned,) = torch.autograd.grad((slope * u).sum(), v)
                assert turned.dtype == dtype
                found.append([x.detach(), slope.detach(), turned])
        for mine, other in zip(*found, strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=1e-9 if dtype == torch.float64 else 1e-5)


def test_batched_gradients():
    soft = sst.SoftArgmax(polytopes.Arborescence(5), sst.ExponentialFamilyEntropy())
    u = torch.randn(20 - 4, dtype=torch.float64)
    rows = torch.autograd.functional.jacobian(soft, u)
    torch.testing.assert_close(torch.autograd.functional.jacobian(soft, u, vectorize=True), rows, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1e30, "ties"])
@pytest.mark.parametrize(
    "structure",
    [
        polytopes.SpanningTree(2),
        polytopes.SpanningTree(9),
        polytopes.SpanningTree(SPARSE),
        polytopes.Arborescence(2),
        polytopes.Arborescence(9, root=4),
        polytopes.Arborescence(8, root=None),
        polytopes.Arborescence(9, single_root=True),
    ],
    ids=repr,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_argmax_on_and_off(structure, scale, dtype):
    u = torch.randn(4, 8, *structure.event_shape, dtype=dtype)
    u = u.round() if scale == "ties" else 0 * u if scale == "all equal" else scale * u
    found = []
    for on in (True, False):
        with native.switched(on):
            found.append(structure.argmax(u))
    mine, other = found
    assert mine.dtype == dtype
    assert torch.equal(mine, other)  # of equals too
    for x in mine.flatten(0, 1)[:5]:
        assert is_tree(structure, structure.edge_index[:, x > 0].T.tolist())
    assert structure.argmax(u[:0]).shape == u[:0].shape


@pytest.mark.parametrize("single_root", [False, True])
@pytest.mark.parametrize("n", [2, 3, 6, 17])
def test_best_trees_with_missing_edges(n, single_root):
    for rounds in (False, True):
        w = weights(1.0, n, 60, 0.6)
        w = torch.where(w > ABSENT / 2, w.round() if rounds else w, -torch.inf)
        found = []
        for on in (True, False):
            with native.switched(on):
                parent = best_tree(w, single_root)
            found.append(parent)
            reached = parent
            for _ in range(n):
                reached = parent.gather(1, reached)
            assert not bool(reached.any())
            assert not single_root or bool(((parent[:, 1:] == 0).sum(1) == 1).all())
        assert torch.equal(*found)


@pytest.mark.parametrize("single_root", [False, True])
def test_default_devices_change_nothing(single_root):
    """In range, and out of it."""
    structure = polytopes.Arborescence(6, single_root=single_root)
    u = 1e4 * torch.randn(5, 25, dtype=torch.float64)
    found = [f(u) for f in (structure.argmax, structure.marginals, structure.log_partition)]
    parents = best_tree(torch.zeros(1, 4, 4), single_root)
    with torch.device("meta"):
        for f, x in zip((structure.argmax, structure.marginals, structure.log_partition), found, strict=True):
            assert torch.equal(f(u), x)
        assert torch.equal(best_tree(torch.zeros(1, 4, 4, device="cpu"), single_root), parents)
