"""Dynamic programs over directed acyclic graphs: long chains, extreme utilities, exact samples, derivatives."""

from __future__ import annotations

import pytest
import torch

import polytopes
import sst_cvx as sst
from polytopes.kernels.dag_sums import PathGraph

SAMPLED = [
    polytopes.CorrelatedKSubset(6, 3),
    polytopes.Path(torch.tensor([[0, 0, 1, 1, 2], [1, 2, 2, 3, 3]]), 0, 3),
    polytopes.Segment(6, 2, 4),
    polytopes.OneHot(4),
    polytopes.Hypercube(4),
    polytopes.KSubset(6, 3),
    polytopes.AtMostKSubset(5, 3),
    polytopes.SpanningTree(5),
    polytopes.SpanningTree(torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 0, 2]])),
    polytopes.Arborescence(4, root=2),
    polytopes.Arborescence(4, root=0, single_root=True),
    polytopes.Arborescence(4, root=None),
]


@pytest.mark.parametrize("structure", SAMPLED, ids=str)
def test_samples_have_the_probabilities_of_the_exponential_family(structure):
    generator, draws = torch.Generator().manual_seed(0), 40_000
    vertices = structure.vertices()
    u = torch.randn(structure.event_shape, dtype=torch.float64, generator=generator)
    exact = (vertices @ u).softmax(0)
    x = structure.sample(u.expand(draws, -1), generator)
    which = (x[:, None] == vertices).all(-1)
    assert bool((which.sum(1) == 1).all())
    error = (which.double().mean(0) - exact).abs() / (exact * (1 - exact) / draws).sqrt()
    assert float(error.max()) < 5  # standard errors
    again = structure.sample(u.expand(5, -1), torch.Generator().manual_seed(3))
    torch.testing.assert_close(again, structure.sample(u.expand(5, -1), torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("structure", [*SAMPLED, polytopes.KSubset(4, 4), polytopes.KSubset(4, 0)], ids=str)
def test_cold_samples_are_the_best_elements(structure):
    for dtype in (torch.float64, torch.float32):
        u = torch.randn(2, 3, *structure.event_shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
        x = structure.sample(1e5 * u, torch.Generator().manual_seed(2))
        assert x.dtype == dtype
        assert torch.equal(x, structure.argmax(u))
    assert structure.sample(u[:0]).shape == u[:0].shape
    with pytest.raises(ValueError, match="finite"):
        structure.sample(u * torch.nan)


@pytest.mark.parametrize("structure", [polytopes.KSubset(200, 40), polytopes.SpanningTree(20)], ids=str)
def test_samples_of_sets_too_large_to_list(structure):
    generator, draws = torch.Generator().manual_seed(0), 2000
    u = torch.randn(structure.event_shape, dtype=torch.float64, generator=generator)
    x = sst.ExponentialFamily(structure, u).sample((draws,), generator=generator)
    exact = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())(u)
    assert float(((x.mean(0) - exact).abs() / (exact * (1 - exact) / draws).sqrt()).max()) < 5
    assert float((sst.ExponentialFamily(structure, u).log_prob(x)).max()) < 0  # elements all


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0, 1000.0])
def test_marginals_in_float32_at_every_scale(scale):
    structure = polytopes.CorrelatedKSubset(60, 7)
    u = scale * torch.randn(4, 119, generator=torch.Generator().manual_seed(1))
    x = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())(u)
    exact = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())(u.double())
    assert x.dtype == torch.float32
    torch.testing.assert_close(x[:, :60].sum(-1), torch.full((4,), 7.0), rtol=0, atol=1e-5)
    torch.testing.assert_close(x.double(), exact, rtol=0, atol=1e-5)


def test_without_pair_utilities_it_is_the_k_subset():
    u = torch.randn(3, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    padded = torch.nn.functional.pad(u, (0, 39))
    expected = polytopes.KSubset(40, 6).log_partition(u)
    torch.testing.assert_close(polytopes.CorrelatedKSubset(40, 6).log_partition(padded), expected)


def test_log_sum_has_derivatives_of_higher_order():
    graph = PathGraph(torch.tensor([0, 0, 1, 1, 2]).numpy(), torch.tensor([1, 2, 2, 3, 3]).numpy(), 0, 3)
    scores = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(graph.log_sum, scores)
    torch.autograd.gradgradcheck(graph.log_sum, scores)

    def curvature(s: torch.Tensor) -> torch.Tensor:
        (first,) = torch.autograd.grad(graph.log_sum(s).sum(), s, create_graph=True)
        return torch.autograd.grad((first**2).sum(), s, create_graph=True)[0]

    torch.autograd.gradcheck(curvature, scores)


@pytest.mark.parametrize(
    ("n", "shortest", "longest"), [(1, 1, 1), (9, 1, 9), (9, 9, 9), (10, 3, 5), (11, 1, 2), (12, 4, 11)]
)
def test_windows_of_every_width(n, shortest, longest):
    structure = polytopes.Segment(n, shortest, longest)
    u, vertices = 3 * torch.randn(20, n, dtype=torch.float64), structure.vertices()
    assert len(vertices) == sum(n - length + 1 for length in range(shortest, longest + 1))
    torch.testing.assert_close(structure.log_partition(u), (u @ vertices.T).logsumexp(-1))
    torch.testing.assert_close((u * structure.argmax(u)).sum(-1), (u @ vertices.T).amax(-1))
    assert bool((structure.argmax(u)[:, None] == vertices).all(-1).any(-1).all())
    torch.autograd.gradgradcheck(structure.log_partition, u[:2].requires_grad_())


def test_second_derivatives_of_far_utilities_are_finite():
    u = 1000 * torch.randn(4, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    hessian = torch.autograd.functional.hessian(polytopes.Segment(30, 3, 17).log_partition, u[0])
    assert bool(torch.isfinite(hessian).all())  # pyright: ignore


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="k must"):
        polytopes.CorrelatedKSubset(4, 5)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_many_edges_into_one_vertex(scale):
    """Parallel edges and wide levels: 5 ways to the middle, 7 on to the end, and 3 past it."""
    tails, heads = [0] * 5 + [1] * 7 + [0] * 3, [1] * 5 + [2] * 7 + [2] * 3
    structure = polytopes.Path(torch.tensor([tails, heads]), 0, 2)
    u, vertices = scale * torch.randn(20, 15, dtype=torch.float64), structure.vertices()
    assert len(vertices) == 5 * 7 + 3
    scores = u @ vertices.T
    torch.testing.assert_close(structure.log_partition(u), scores.logsumexp(-1))
    torch.testing.assert_close((u * structure.argmax(u)).sum(-1), scores.amax(-1))
    x = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())(u)
    torch.testing.assert_close(x, scores.softmax(-1) @ vertices, rtol=0, atol=1e-10)
    torch.autograd.gradgradcheck(structure.log_partition, (u[:2] / scale).requires_grad_())
