"""Where the host is not asked, what fails is NaN, value and gradient alike, and the error that names it follows."""

import cvxpy as cp
import pytest
import torch

import polytopes
import sst_cvx as sst
from polytopes.kernels.threshold import threshold_map
from sst_cvx.paths.fast.registry import _REGISTRY
from tests.inside.table import T, utilities, value_and_gradient


@pytest.fixture(autouse=True)
def _nothing_left():
    torch._dynamo.reset()
    yield
    sst.synchronize()


class TwoOfFive(sst.Structure):
    def __init__(self):
        x = cp.Variable(5)
        super().__init__(x, [x >= 0, x <= 1, cp.sum(x) == 2])


@pytest.fixture
def garbage():
    """A fast path that is wrong where the first utility is positive."""

    @sst.fast_path(TwoOfFive, sst.Euclidean)
    def wrong(structure, regularizer, u):
        right = threshold_map(u, 2, regularizer)
        return torch.where(u[..., :1] > 0, 2 * right, right)

    yield sst.SoftArgmax(TwoOfFive(), sst.Euclidean())
    del _REGISTRY[TwoOfFive, sst.Euclidean]


def knapsack():
    x, capacity = cp.Variable(3), cp.Parameter(nonneg=True, name="capacity")
    return sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) <= capacity, x[0] + x[1] >= 1])


SOME = [
    sst.SoftArgmax(polytopes.OneHot(4), sst.CategoricalEntropy()),
    sst.SoftArgmax(polytopes.KSubset(5, 2), sst.Euclidean()),
    sst.SoftArgmax(polytopes.SpanningTree(4), sst.ExponentialFamilyEntropy()),
    sst.SoftArgmax(polytopes.Matching(3), sst.CategoricalEntropy()),
    sst.SoftArgmax(polytopes.Permutahedron(torch.tensor([2.0, 1.0, 0.0])), sst.Euclidean()),
    sst.SoftArgmax(polytopes.SpanningTree(4), sst.Euclidean()),
    sst.SoftArgmax(polytopes.Matching(3), sst.BinaryEntropy()),
]


def test_a_wrong_fast_path(garbage):
    u = utilities(garbage.structure, 3)
    u[:, 0] = torch.tensor([-1.0, 1.0, -1.0])
    with sst.guard("nan"):
        x, g = value_and_gradient(lambda v: garbage(v, T), u)
    assert x[1].isnan().all()
    assert g[1].isnan().all()
    assert torch.isfinite(x[[0, 2]]).all()
    assert torch.isfinite(g[[0, 2]]).all()
    with pytest.raises(sst.SolveError, match="outside the hull was found for batch element 1") as caught:
        sst.synchronize()
    assert caught.value.elements == ((1,),)
    compiled = torch.compile(lambda v: garbage(v, T), fullgraph=True, backend="aot_eager")
    x, g = value_and_gradient(compiled, u)
    assert x[1].isnan().all()
    assert g[1].isnan().all()
    assert torch.isfinite(x[[0, 2]]).all()


@pytest.mark.parametrize("soft", SOME, ids=lambda s: f"{s.structure!r}-{s.regularizer!r}-{s.path}")
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])  # -inf forbids an item
def test_utilities_that_are_not_finite(soft, bad):
    u = utilities(soft.structure, 2, 2)
    expected = value_and_gradient(lambda v: soft(v, T), u)
    u[0, 1].view(-1)[1] = bad
    with sst.guard("nan"):
        found = value_and_gradient(lambda v: soft(v, T), u)
    for ours, truth in zip(found, expected, strict=True):
        assert ours[0, 1].isnan().all()
        torch.testing.assert_close(ours[1], truth[1])
        torch.testing.assert_close(ours[0, 0], truth[0, 0])
    with pytest.raises(sst.SolveError, match=r"\(0, 1\)"):
        sst.synchronize()


def test_the_next_call_raises():
    soft = sst.SoftArgmax(polytopes.OneHot(3), sst.Euclidean(), guard="nan")
    assert soft(torch.tensor([torch.nan, 0.0, 1.0])).isnan().all()
    with pytest.raises(sst.SolveError, match="must be finite"):
        soft(torch.zeros(3))
    assert soft(torch.zeros(3)).sum() == 1


@pytest.mark.parametrize("t", [0.0, -1.0, torch.nan, torch.inf])
def test_temperatures(t):
    soft = sst.SoftArgmax(polytopes.KSubset(4, 2), sst.Euclidean(), guard="nan")
    x = soft(torch.randn(2, 4), torch.tensor([t, 0.5]))
    assert x[0].isnan().all()
    assert torch.isfinite(x[1]).all()
    with pytest.raises(sst.SolveError, match="temperatures must be positive"):
        sst.synchronize()


def test_parameters_without_a_hull():
    soft, u = sst.SoftArgmax(knapsack(), sst.Euclidean()), torch.randn(4, 3, dtype=torch.float64)
    capacity = torch.tensor([1.5, 0.5, -1.0, 2.0], dtype=torch.float64)
    right = soft(u[[0, 3]], T, capacity=capacity[[0, 3]])

    def ask(v, c):
        return soft(v, T, capacity=c)

    with sst.guard("nan"):
        eager = ask(u, capacity)
    with pytest.raises(sst.SolveError):
        sst.synchronize()
    compiled = torch.compile(ask, fullgraph=True, backend="aot_eager")(u, capacity)
    for x in (eager, compiled, torch.func.vmap(ask)(u, capacity)):
        assert x[[1, 2]].isnan().all()
        torch.testing.assert_close(x[[0, 3]], right, atol=1e-9, rtol=0)


@pytest.mark.parametrize("seed", [*range(20), *(pytest.param(s, marks=pytest.mark.exhaustive) for s in range(20, 100))])
def test_fuzz(seed):
    """2,000 elements (10,000 by make exhaustive) of all scales, some of them not finite: NaN, or right."""
    generator = torch.Generator().manual_seed(seed)
    soft = SOME[seed % len(SOME)]
    scale = 10 ** (6 * torch.rand(100, *[1] * len(soft.structure.event_shape), generator=generator) - 3)
    u = scale * torch.randn(100, *soft.structure.event_shape, generator=generator)
    broken = torch.rand(100, generator=generator) < 0.2
    u[broken.nonzero().flatten(), 0] = float([torch.nan, torch.inf][seed % 2])
    u = u.double()
    with sst.guard("nan"):
        found = soft(u, T)
    assert found[broken].isnan().all()
    expected = soft(u[~broken], T)
    right = ((found[~broken] - expected).abs() < 1e-7).flatten(1).all(1)
    assert (right | found[~broken].flatten(1).isnan().all(1)).all()
    assert right.double().mean() > 0.98
    with pytest.raises(sst.SolveError) as caught:
        sst.synchronize()
    assert {(int(i),) for i in broken.nonzero()} <= {*caught.value.elements} | {(int(i),) for i in (~right).nonzero()}
