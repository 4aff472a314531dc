"""Dynamic programs over directed hypergraphs against lists of their derivations."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from polytopes.kernels.hypergraph_order import NONE
from polytopes.kernels.hypergraph_sums import Hypergraph
from sst_cvx import native
from tests.native.test_hypergraph import hypergraphs


def listed(graph: Hypergraph) -> torch.Tensor:
    """How often each derivation has each item: by hand, from the root down."""
    arcs, rows = graph.arcs, []
    waiting = [([graph.vertices - 1], [0.0] * graph.items)]
    while waiting:
        vertices, row = waiting.pop()
        if not vertices:
            rows.append(row)
            continue
        v, rest = vertices[0], vertices[1:]
        for arc in np.flatnonzero(arcs.heads == v):
            tails, after = [t for t in (arcs.first[arc], arcs.second[arc]) if t < graph.vertices], list(row)
            if arcs.item[arc] < graph.items:
                after[arcs.item[arc]] += 1
            waiting.append(([*tails, *rest], after))
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("compiled", [True, False])
def test_sums_maxima_and_marginals_are_those_of_the_list(compiled):
    with native.switched(compiled):
        for graph in hypergraphs(4, seed=1):
            rows = listed(graph)
            u = 2 * torch.randn(5, graph.items, dtype=torch.float64)
            scores = u @ rows.T
            assert graph.count() == len(rows) == len(graph.derivations())
            torch.testing.assert_close(graph.log_sum(u), scores.logsumexp(-1), rtol=0, atol=1e-11)
            torch.testing.assert_close(graph.marginals(u), scores.softmax(-1) @ rows, rtol=0, atol=1e-11)
            best, drawn = graph.best(u), graph.sample(u)
            torch.testing.assert_close((best * u).sum(-1), scores.amax(-1), rtol=0, atol=1e-11)
            for x in (best, drawn, graph.sample(1e6 * u)):
                assert bool((x[:, None] == rows).all(-1).any(-1).all())
            torch.testing.assert_close((x * u).sum(-1), scores.amax(-1), rtol=0, atol=1e-11)
            assert sorted(graph.derivations().tolist()) == sorted(rows.tolist())


@pytest.mark.parametrize("compiled", [True, False])
def test_derivatives_of_any_order(compiled):
    with native.switched(compiled):
        graph = min(hypergraphs(8, seed=2), key=lambda g: (g.vertices < 6, g.items, g.arcs.count))
        u = torch.randn(2, graph.items, dtype=torch.float64, requires_grad=True)
        for function in (graph.log_sum, graph.marginals):
            torch.autograd.gradcheck(function, u, check_forward_ad=True, check_batched_grad=True)
            torch.autograd.gradgradcheck(function, u)


def test_transforms():
    """vmap, jacrev and jacfwd, of one row and of many."""
    graph = hypergraphs(4, seed=4)[3]
    u = torch.randn(3, graph.items, dtype=torch.float64)
    torch.testing.assert_close(torch.func.vmap(graph.log_sum)(u), graph.log_sum(u))
    torch.testing.assert_close(torch.func.vmap(graph.marginals)(u), graph.marginals(u))
    torch.testing.assert_close(torch.func.vmap(graph.best)(u), graph.best(u))
    hessian = torch.func.hessian(graph.log_sum)(u[0])
    torch.testing.assert_close(torch.func.jacrev(graph.marginals)(u[0]), hessian)
    torch.testing.assert_close(torch.func.jacfwd(graph.marginals)(u[0]), hessian)


def test_a_copy_is_the_same_and_a_pickle_answers_the_same():
    graph = hypergraphs(1, seed=6)[0]
    u = torch.randn(2, graph.items)
    assert copy.deepcopy(graph) is graph
    torch.testing.assert_close(pickle.loads(pickle.dumps(graph)).log_sum(u), graph.log_sum(u))


@pytest.mark.parametrize(
    ("arcs", "why"),
    [
        ([(0, NONE, NONE, 0), (1, 1, NONE, 0)], "before its head"),
        ([(0, 1, NONE, 0), (1, NONE, NONE, 0)], "before its head"),
        ([(0, NONE, NONE, 0), (2, 0, NONE, 0)], "every vertex"),
        ([(0, NONE, NONE, 0), (1, NONE, NONE, 0), (2, 1, NONE, 0)], "every vertex"),
    ],
)
def test_what_is_no_hypergraph_of_this_kind_is_refused(arcs, why):
    with pytest.raises(ValueError, match=why):
        Hypergraph(*np.array(arcs).T, items=1)
