"""The gap: no false alarm at right answers, of any dtype and temperature; and it sees a wrong point."""

import math

import cvxpy as cp
import numpy as np
import pytest
import torch

import polytopes
import sst_cvx as sst
from tests.hulls import k_subset
from tests.hulls import pairs as exclusive_pairs
from tests.inside.table import FAST, NoHostReads

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
SEPARABLE = [p for p in FAST if "ExponentialFamily" not in p.id]
ENTROPIES = (sst.CategoricalEntropy(), sst.BinaryEntropy())


def rounding(u, t, x):
    """What rounding makes of a gap: of u / t, in at least float32, and of x; 1e-12 is what Sinkhorn stops at."""
    computed = torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps
    size = float(u.double().abs().amax())
    return 1e-12 * (1 + size) + 6 * u[0].numel() * (computed * size + t * torch.finfo(x.dtype).eps)


@pytest.mark.parametrize("dtype", [*DTYPES[:3], pytest.param(DTYPES[3], marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize(("structure", "f"), SEPARABLE)
def test_no_false_alarm(structure, f, dtype):
    soft = sst.SoftArgmax(structure, f)
    for scale, t in ((1.0, 0.01), (30.0, 1.0), (1000.0, 0.1)):
        u = (scale * torch.randn(6, *structure.event_shape, dtype=torch.float64)).to(dtype)
        x = soft(u, t)
        assert float(soft.gap(u, x, t).abs().max()) <= rounding(u, t, x)


@pytest.mark.parametrize(("structure", "f"), SEPARABLE)
def test_no_miss(structure, f):
    """The gap of a point moved by 1e-3 towards a vertex is what it lost, and t m / 2 times what it moved, or more."""
    soft, event = sst.SoftArgmax(structure, f), tuple(range(1, 1 + len(structure.event_shape)))
    for scale, t in ((1.0, 1.0), (1.0, 0.01), (1000.0, 0.01)):
        u = scale * torch.randn(6, *structure.event_shape, dtype=torch.float64)
        x = soft(u, t)
        moved = x + 1e-3 * (structure.argmax(-u) - x)
        lost = (u * (x - moved)).sum(event) - t * (f.value(x, len(event)) - f.value(moved, len(event)))
        bound = 0.5 * t * f.strong_convexity(structure) * (x - moved).square().sum(event)
        assert bool((soft.gap(u, moved, t) >= torch.maximum(lost, bound) - rounding(u, t, x)).all())
        assert bool((bound > 1e-9 * t)[(x - moved).abs().amax(event) > 1e-4].all())
        single = u.float()
        assert bool((soft.gap(single, moved.float(), t) >= torch.maximum(lost, bound) - rounding(u, t, single)).all())


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("f", ENTROPIES, ids=repr)
def test_no_false_alarm_at_small_entries_that_a_solver_gives_without_digits(f, dtype):
    """An entry of 1e-11 for one of 4e-11 has a slope that is off by 1.4."""
    soft = sst.SoftArgmax(polytopes.SpanningTree(5), f)
    u = 10 * torch.randn(60, 10, dtype=dtype)
    bound = 1e-6 if dtype == torch.float64 else 1e-4
    assert float(soft.gap(u, soft(u)).max()) < bound


def test_points_close_to_a_corner_lose_what_they_lose():
    """x is a corner but for 1e-15 to 1e-6 of another point: what it loses is known, and the gap is no less."""
    soft, f = sst.SoftArgmax(polytopes.OneHot(6), sst.CategoricalEntropy()), sst.CategoricalEntropy()
    u = 15 * torch.randn(40, 6, dtype=torch.float64)
    share = torch.logspace(-15, -6, 40, dtype=torch.float64)[:, None]
    x = (1 - share) * torch.eye(6, dtype=torch.float64)[torch.randint(6, (40,))] + share * torch.rand(40, 6).softmax(-1)
    best = u.logsumexp(-1)
    gap, lost = soft.gap(u, x), best - (u * x).sum(-1) + f.value(x)
    assert bool((gap >= lost - 1e-9).all())


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("structure", [exclusive_pairs(), k_subset(5, 2)], ids=repr)
@pytest.mark.parametrize("f", [sst.Euclidean(), sst.BinaryEntropy(weights=[2.0])], ids=repr)
def test_solved(structure, f, dtype):
    soft = sst.SoftArgmax(structure, f)
    u = torch.randn(4, *structure.event_shape, dtype=dtype)
    assert float(soft.gap(u, soft(u), 1.0).abs().max()) <= rounding(u, 1.0, u)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("u", [[10.0], [20.0], [36.0], [40.0], [-40.0], [255.0]], ids=str)
def test_saturated(u, dtype):
    """case_25: 1 - x underflows long before x does."""
    soft, u = sst.SoftArgmax(polytopes.Hypercube(1), sst.BinaryEntropy()), torch.tensor(u, dtype=dtype)
    assert 0 <= float(soft.gap(u, soft(u))) <= 8 * torch.finfo(dtype).eps
    assert float(soft.gap(u, 1 - soft(u))) > 5


@pytest.mark.parametrize("t", [1.0, 0.1, 1e-2, 1e-3])
def test_logarithms(t):
    """With log x, the gap is small at any temperature; a wrong log or a wrong point is seen."""
    u = torch.tensor([[0.0, 0.7, -0.3, 0.2]], dtype=torch.float64)
    soft = sst.SoftArgmax(polytopes.OneHot(4), sst.CategoricalEntropy())
    x, log = soft(u, t), (u / t).log_softmax(-1)
    assert float(soft.gap(u, x, t, log=log).abs()) < 1e-12 * t
    assert float(soft.gap(u, x, t, log=log - torch.tensor([0.0, 0.1, 0.0, 0.0])).abs()) > 1e-3 * t
    assert float(soft.gap(u, x.flip(-1), t, log=log)) > 0.1 * t
    weights = torch.tensor([1.0, 2, 3, 0.5], dtype=torch.float64)
    soft = sst.SoftArgmax(polytopes.Hypercube(4), sst.BinaryEntropy(weights=weights))
    log = torch.nn.functional.logsigmoid(u / t / weights)
    assert float(soft.gap(u, soft(u, t), t, log=log).abs()) < 1e-12 * t
    assert float(soft.gap(u, soft(u, t), t, log=2 * log)) > 1e-2 * t


def test_logarithms_where_nothing_is_left():
    """Entries that are 0 everywhere have log -inf, and those that are 1 everywhere log 0."""
    for k, log in ((0, -math.inf), (4, 0.0)):
        u = torch.randn(3, 4, dtype=torch.float64)
        for f in ENTROPIES:
            soft = sst.SoftArgmax(polytopes.KSubset(4, k), f)
            assert float(soft.gap(u, soft(u), log=torch.full_like(u, log)).abs().max()) < 1e-14
    soft, mask = sst.SoftArgmax(polytopes.OneHot(4), ENTROPIES[0]), torch.tensor([True, True, False, True])
    log = u.masked_fill(~mask, -math.inf).log_softmax(-1)
    assert float(soft.gap(u, soft(u, mask=mask), mask=mask, log=log).abs().max()) < 1e-14


def test_logarithms_are_refused_elsewhere():
    soft, u = sst.SoftArgmax(polytopes.OneHot(4), sst.Euclidean()), torch.randn(4)
    with pytest.raises(NotImplementedError, match="leave log= out"):
        soft.gap(u, soft(u), log=u)
    with pytest.raises(ValueError, match="log must be a tensor of the shape"):
        sst.SoftArgmax(polytopes.OneHot(4), ENTROPIES[0]).gap(u, soft(u), log=u[:2])


def test_slopes_of_logarithms():
    log = -torch.tensor([1e-300, 1e-12, 0.3, 1.0, 40.0, 1e5], dtype=torch.float64)
    slope = sst.BinaryEntropy().slope_of_log(log)
    truth = [690.7755278982137, 27.63102111592805, 1.050225, -0.5413248546129182, -40.0, -1e5]
    np.testing.assert_allclose(slope, truth, rtol=1e-6)
    assert torch.equal(sst.CategoricalEntropy().slope_of_log(log), log + 1)


def knapsack():
    x = cp.Variable(4)
    return sst.Structure(x, [x >= 0, x <= 1, 2 * x[0] + 3 * x[1] + 2 * x[2] + 3 * x[3] <= 4], integral=False)


def test_of_a_looser_hull():
    """fault_23: the soft answer is on the declared hull, and so is what it is compared with."""
    structure, u = knapsack(), 3 * torch.rand(8, 4, dtype=torch.float64)
    for f in (sst.Euclidean(), sst.BinaryEntropy()):
        soft = sst.SoftArgmax(structure, f)
        x, vertex = soft(u, 0.1), structure.argmax(u)
        assert soft.feasible is structure.relaxed
        assert float(soft.gap(u, x, 0.1).abs().max()) < 1e-8
        for wrong in (vertex, 0.9 * x + 0.1 * vertex, 0.5 * x):
            lost = (u * (x - wrong)).sum(-1) - 0.1 * (f.value(x) - f.value(wrong))
            assert bool((soft.gap(u, wrong, 0.1) >= lost - 1e-9).all())
        mask = torch.tensor([True, True, False, True])
        assert float(soft.gap(u, soft(u, 0.1, mask=mask), 0.1, mask=mask).abs().max()) < 1e-8
    exact = sst.SoftArgmax(structure, sst.Euclidean(), path="active_set")
    assert exact.feasible is structure
    assert float(exact.gap(u, exact(u, 0.1), 0.1).abs().max()) < 1e-12
    assert float(exact.gap(u, sst.SoftArgmax(structure, sst.Euclidean())(u, 0.1), 0.1).min()) < -0.01  # outside conv(X)


def test_of_a_looser_hull_with_parameters():
    x, room = cp.Variable(3), cp.Parameter(nonneg=True, name="room")
    soft = sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= 1, 2 * cp.sum(x) <= room], integral=False), sst.Euclidean())
    u = torch.rand(4, 3, dtype=torch.float64)
    rooms = torch.tensor([1.0, 2.0, 3.0, 5.0], dtype=torch.float64)
    assert float(soft.gap(u, soft(u, 0.1, room=rooms), 0.1, room=rooms).abs().max()) < 1e-8


@pytest.mark.parametrize("structure", [polytopes.KSubset(5, 2), knapsack()], ids=repr)
def test_without_the_host(structure):
    f = sst.BinaryEntropy()
    soft, u = sst.SoftArgmax(structure, f), torch.randn(3, *structure.event_shape, dtype=torch.float64)
    x = soft(u)
    expected = soft.gap(u, x)
    with sst.guard("nan"):
        torch.testing.assert_close(soft.gap(u, x), expected, atol=1e-12, rtol=0)
        if structure.argmax_on_device:
            with NoHostReads():
                soft.gap(u, x)
    found = torch.compile(soft.gap, backend="eager")(u, x)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.func.vmap(soft.gap)(u, x), expected, atol=1e-12, rtol=0)


FAMILIES = [p for p in FAST if "ExponentialFamily" in p.id]


@pytest.mark.parametrize(("structure", "f"), FAMILIES)
def test_of_exponential_families(structure, f):
    """Zero at the marginals, of any dtype; at moved points no less than t m / 2 times the distance."""
    soft, event = sst.SoftArgmax(structure, f), tuple(range(1, 1 + len(structure.event_shape)))
    for dtype, bound in ((torch.float64, 1e-11), (torch.float32, 1e-8), (torch.float16, 1e-4)):
        for scale, t in ((1.0, 1.0), (30.0, 0.1)):
            u = (scale * torch.randn(2, *structure.event_shape, dtype=torch.float64)).to(dtype)
            x = soft(u, t)
            assert 0 <= float(soft.gap(u, x, t).max()) <= bound * t
            if dtype == torch.float64:
                moved = x + 1e-3 * (structure.argmax(-u) - x)
                least = 0.5 * t * f.strong_convexity(structure) * (x - moved).square().sum(event)
                assert bool((soft.gap(u, moved, t) >= least * (1 - 1e-6) - 1e-14).all())


@pytest.mark.parametrize("n", [2, 4, 9])
def test_of_one_hot_is_relative_entropy(n):
    u, x = torch.randn(500, n, dtype=torch.float64), torch.rand(500, n, dtype=torch.float64).softmax(-1)
    truth = (x * (x.log() - (u / 0.7).log_softmax(-1))).sum(-1) * 0.7
    soft, t = sst.SoftArgmax(polytopes.OneHot(n), sst.ExponentialFamilyEntropy()), truth.new_full((500,), 0.7)
    gap = torch.cat([soft.gap(*parts) for parts in zip(u.split(5), x.split(5), t.split(5), strict=True)])
    torch.testing.assert_close(gap, truth, rtol=1e-9, atol=1e-12)


def test_of_exponential_families_with_masks():
    for structure in (polytopes.KSubset(5, 2), polytopes.SpanningTree(4)):
        u = torch.randn(3, *structure.event_shape, dtype=torch.float64)
        mask = torch.ones(structure.event_shape, dtype=torch.bool)
        mask[1] = False
        soft = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())
        x = soft(u, mask=mask)
        assert float(soft.gap(u, x, mask=mask).max()) < 1e-11
        assert float(soft.gap(u, soft(u + u.flip(-1) * mask, mask=mask), mask=mask).max()) > 1e-3
        gap, error = sst.ExponentialFamily(structure, u, mask=mask).gap(x)
        assert float(gap.max()) < 1e-11
        assert not error.any()


def test_of_exponential_families_from_samples():
    """Too many vertices to enumerate: right marginals have about the standard error, wrong ones many times that."""
    structure, u = polytopes.KSubset(30, 7), torch.randn(2, 30, dtype=torch.float64)
    family, generator = sst.ExponentialFamily(structure, u), torch.Generator().manual_seed(0)
    with pytest.raises(NotImplementedError, match="estimate the gap from exact samples"):
        family.gap(family.mean)
    gap, error = family.gap(family.mean, samples=2000, generator=generator)
    assert bool((gap < 2 * error).all())
    wrong = sst.ExponentialFamily(structure, 0.7 * u).mean
    gap, error = family.gap(wrong, samples=2000, generator=generator)
    assert bool((gap > 10 * error).all())
    truth = sst.ExponentialFamily(structure, 0.7 * u).kl_divergence(family)
    torch.testing.assert_close(gap, truth, rtol=0.3, atol=0)
