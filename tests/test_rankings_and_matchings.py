"""Permutahedron and Matching, rectangular and partial, against enumeration, SciPy, HiGHS and the generic paths."""

from __future__ import annotations

import itertools

import cvxpy as cp
import numpy as np
import pytest
import torch
from scipy.optimize import isotonic_regression, linear_sum_assignment

import polytopes
import sst_cvx as sst
from polytopes import Matching, Permutahedron
from polytopes.kernels.isotonic import project_on_permutations
from tests.oracles import isotonic, marginals

ENTROPIC = [sst.CategoricalEntropy(), sst.BinaryEntropy(), sst.TsallisEntropy(1.5)]
SHAPES = [(1, 1), (1, 4), (5, 2), (3, 5), (4, 4)]


def fast_and_interior(structure, regularizer, u, v, t):
    """Values, and vector-Jacobian products with v, of both paths."""
    answers = []
    for path in ("fast", "interior_point"):
        w = u.clone().requires_grad_()
        x = sst.SoftArgmax(structure, regularizer, path=path)(w, t)
        answers.append((x.detach(), torch.autograd.grad((x * v).sum(), w)[0]))
    return answers


def by_scipy(u: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Projections of rows on the permutahedron, by SciPy's pool-adjacent-violators."""
    z, order = u.sort(-1, descending=True)
    w = weights.sort(descending=True).values
    v = [isotonic_regression(row, increasing=False).x for row in (z - w).numpy()]
    return torch.zeros_like(u).scatter(-1, order, z - torch.from_numpy(np.array(v)))


class TestPermutahedron:
    @pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0, 1e4])
    @pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 100, 257])
    def test_euclidean_is_scipys_isotonic_regression(self, n, scale):
        weights, u = torch.randn(n).double(), scale * torch.randn(30, n, dtype=torch.float64)
        u[::3] = (u[::3] / scale).round() * scale  # ties
        soft = sst.SoftArgmax(Permutahedron(weights), sst.Euclidean())
        assert soft.path == "fast"
        assert (soft(u) - by_scipy(u, weights)).abs().max() < 1e-11 * (1 + scale)
        assert (soft(u.float()).double() - soft(u.float().double())).abs().max() < 1e-6

    @pytest.mark.parametrize("shape", [lambda q: -(q**2), lambda q: q**2, lambda q: q**3, torch.special.ndtri])
    def test_long_chains_of_pools(self, shape):
        """Utilities whose pools take in one neighbour after the other."""
        n = 1000
        q = torch.linspace(-0.999, 0.999, n, dtype=torch.float64)
        weights = torch.arange(n, dtype=torch.float64).flip(0) / n
        z = shape(q if shape is not torch.special.ndtri else (q + 1) / 2)
        u = torch.stack([scale * z for scale in (0.1, 0.3, 1.0, 3.0)])
        assert (project_on_permutations(u, weights) - by_scipy(u, weights)).abs().max() < 1e-12

    @pytest.mark.parametrize("t", [1.0, 0.1])
    @pytest.mark.parametrize(
        "weights", [[3.0, 2, 1, 0], [1.0, 1, 0, 0, 0], [2.0, 0.3, 1, 1, 0.7, 0], [0.5, 0.5], [2.0]]
    )
    @pytest.mark.parametrize("regularizer", [sst.Euclidean(), sst.CategoricalEntropy()], ids=repr)
    def test_fast_paths_are_the_interior_points(self, regularizer, weights, t):
        u, v = 2 * torch.randn(2, 30, len(weights), dtype=torch.float64)
        (x, g), (y, h) = fast_and_interior(Permutahedron(torch.tensor(weights)), regularizer, u, v, t)
        assert (x - y).abs().max() < 1e-8
        assert t * (g - h).abs().max() < 1e-7

    @pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
    def test_categorical_at_any_scale(self, scale):
        """No weight underflows where its block is large, and zeros are pooled with what is before them."""
        for weights in (torch.rand(8).double(), torch.tensor([3.0, 1, 1, 0.5, 0, 0, 0, 0]).double()):
            u = scale * torch.randn(50, 8, dtype=torch.float64)
            soft = sst.SoftArgmax(Permutahedron(weights), sst.CategoricalEntropy())
            assert (soft(u) - isotonic(u, weights, "CategoricalEntropy")).abs().max() < 1e-11 * (1 + scale)
            assert (soft(u.float()).double() - soft(u.float().double())).abs().max() < 1e-6

    @pytest.mark.parametrize("t", [1.0, 0.05])
    @pytest.mark.parametrize("regularizer", [sst.Euclidean(), sst.CategoricalEntropy()], ids=repr)
    @pytest.mark.parametrize("k", [0, 1, 3, 6])
    def test_of_zeros_and_ones_is_k_subset(self, k, regularizer, t):
        u, v = torch.randn(2, 40, 6, dtype=torch.float64)
        answers = []
        for structure in (Permutahedron((torch.arange(6) < k).double()), polytopes.KSubset(6, k)):
            w = u.clone().requires_grad_()
            x = sst.SoftArgmax(structure, regularizer)(w, t)
            answers.append((x.detach(), torch.autograd.grad((x * v).sum(), w)[0]))
        (x, g), (y, h) = answers
        assert (x - y).abs().max() < 1e-12
        assert t * (g - h).abs().max() < 1e-12

    @pytest.mark.parametrize("regularizer", [sst.Euclidean(), sst.CategoricalEntropy()], ids=repr)
    @pytest.mark.parametrize("weights", [[4.0, 3, 2, 1, 0], [1.0, 1, 0.5, 0.5, 0.2]])
    def test_gradcheck_twice(self, regularizer, weights):
        soft = sst.SoftArgmax(Permutahedron(torch.tensor(weights)), regularizer)
        u = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
        t = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        torch.autograd.gradcheck(soft, (u, t))
        torch.autograd.gradgradcheck(soft, (u, t))
        forward = torch.func.jvp(soft, (u.detach(),), (torch.ones_like(u),))[1]
        assert forward.abs().max() < 1e-12  # a shift of all utilities changes nothing

    def test_ties(self):
        """Equal utilities have equal entries, the mean of their weights; equal weights are not moved by them."""
        soft = sst.SoftArgmax(Permutahedron(torch.tensor([3.0, 2, 2, 0])), sst.Euclidean())
        u = torch.tensor([0.0, 9.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
        x = soft(u)
        assert torch.allclose(x, torch.tensor([4 / 3, 3.0, 4 / 3, 4 / 3], dtype=torch.float64))
        jacobian = torch.autograd.functional.jacobian(soft, torch.tensor([9.0, 2.0, 2.0, -9.0], dtype=torch.float64))
        assert torch.equal(jacobian, torch.zeros(4, 4, dtype=torch.float64))

    @pytest.mark.parametrize("far", [1e6, 1e9, 1e12])
    def test_far_utilities_keep_the_digits_of_the_weights(self, far):
        soft = sst.SoftArgmax(Permutahedron(torch.arange(4.0)), sst.Euclidean())
        near = torch.tensor([0.0, 1.0, 1.5, -far], dtype=torch.float64)
        assert torch.equal(soft(near + far * torch.tensor([1, 1, 1, 0])), soft(near))

    def test_many_items_of_few_values(self):
        """190 elements, among 20! orders of the places."""
        structure = Permutahedron((torch.arange(20) < 2).double())
        assert torch.equal(structure.vertices().sort(0).values, polytopes.KSubset(20, 2).vertices().sort(0).values)
        assert structure.vertices().unique(dim=0).shape == (190, 20)

    @pytest.mark.parametrize("regularizer", ENTROPIC[1:], ids=repr)
    def test_other_regularizers_by_the_interior_point(self, regularizer):
        u = torch.randn(10, 4, dtype=torch.float64)
        soft = sst.SoftArgmax(Permutahedron(torch.tensor([0.1, 0.9, 0.5, 0.4])), regularizer)
        assert soft.path == "interior_point"
        assert soft.gap(u, soft(u)).abs().max() < 1e-8

    def test_weighted_by_the_active_set(self):
        u = torch.randn(10, 5, dtype=torch.float64)
        soft = sst.SoftArgmax(Permutahedron(torch.arange(5)), sst.Euclidean(weights=[1.0, 2, 3, 4, 5]))
        assert soft.path == "active_set"
        assert soft.gap(u, soft(u)).abs().max() < 1e-9

    @pytest.mark.parametrize("ties", [False, True])
    def test_argmax_is_scipys_assignment(self, ties):
        weights = torch.randn(6).double().round() if ties else torch.randn(6).double()
        structure = Permutahedron(weights)
        u = torch.randn(1000, 6, dtype=torch.float64)
        u = u.round() if ties else u
        x = structure.argmax(u)
        assert torch.equal(x.sort(-1, descending=True).values, structure.weights.expand_as(x))
        for utilities, chosen in zip(u, x, strict=True):
            worth = torch.outer(utilities, weights).numpy()
            best = worth[linear_sum_assignment(worth, maximize=True)].sum()
            assert float(utilities @ chosen) == pytest.approx(best)

    def test_vertices_and_log_partition(self):
        weights = [1.0, 0.5, 0.5, -2.0, 1.0]
        structure = Permutahedron(torch.tensor(weights))
        distinct = sorted(set(itertools.permutations(weights)))
        assert sorted(map(tuple, structure.vertices().tolist())) == distinct
        u = torch.randn(20, 5, dtype=torch.float64)
        x = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())(u, 0.1)
        assert (x - marginals(structure, u / 0.1)).abs().max() < 1e-10

    def test_guard_is_majorization(self):
        structure = Permutahedron(torch.tensor([3.0, 2, 1]))
        inside = torch.tensor([[2.0, 2, 2], [3, 2, 1], [1, 2.5, 2.5]], dtype=torch.float64)
        outside = torch.tensor([[3.1, 1.9, 1], [2.5, 2.6, 0.9], [2, 2, 1.9]], dtype=torch.float64)
        assert structure.violation(inside).max() <= 1e-12
        assert structure.violation(outside).min() > 1e-3

    def test_errors(self):
        with pytest.raises(TypeError, match="weights must be a real tensor"):
            Permutahedron([3, 2, 1])  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match=r"weights must be \(n,\)"):
            Permutahedron(torch.zeros(2, 2))
        with pytest.raises(ValueError, match=r"weights must be finite, but entry \(1,\)"):
            Permutahedron(torch.tensor([1.0, torch.nan]))
        with pytest.raises(ValueError, match="too many to list"):
            Permutahedron(torch.arange(20)).vertices()
        with pytest.raises(ValueError, match="permanent, out of reach beyond n = 12"):
            sst.SoftArgmax(Permutahedron(torch.arange(13)), sst.ExponentialFamilyEntropy())
        with pytest.raises(ValueError, match="permanent"):
            Permutahedron(torch.arange(13)).log_partition(torch.zeros(13))
        with pytest.raises(ValueError, match="is finite only for"):
            sst.SoftArgmax(Permutahedron(torch.tensor([-1.0, 2.0])), sst.CategoricalEntropy())
        with pytest.raises(ValueError, match="0/1 arrays"):
            sst.SoftArgmax(Permutahedron(torch.arange(3)), sst.Euclidean())(torch.zeros(3), mask=torch.ones(3) > 0)

    def test_large_ones_need_no_hull(self):
        n = 5000
        u = torch.randn(2, n, requires_grad=True)
        x = sst.SoftArgmax(Permutahedron(torch.arange(n) / n), sst.Euclidean())(u, 0.5)
        x.square().sum().backward()
        assert torch.allclose(x.sum(-1), torch.full((2,), (n - 1) / 2))

    def test_soft_ranks_of_a_thousand_numbers(self):
        structure = Permutahedron(torch.arange(1000))
        soft = sst.SoftArgmax(structure, sst.Euclidean())
        u = 300 * torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
        x = soft(u)
        assert x.dtype == torch.float32
        assert float(structure.violation(x.double()).max()) < 1e-6
        assert bool((x.gather(1, u.argsort(1)).diff(dim=1) >= 0).all())
        gap = soft.gap(u.double(), soft(u.double()))
        assert float(gap.abs().max()) < 1e-9 * float(u.abs().sum(1).max()) * 1000
        with pytest.raises(ValueError, match="permanent"):
            sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 3), (2, 4), (4, 2), (1, 3), (3, 1)])
def test_matchings_against_enumeration(n, m, partial):
    structure = Matching(n, m, partial=partial)
    vertices = structure.vertices()
    assert len({tuple(v.flatten().tolist()) for v in vertices}) == len(vertices)
    assert bool((vertices.sum(1) <= 1).all())
    assert bool((vertices.sum(2) <= 1).all())
    assert partial or bool((vertices.sum((1, 2)) == min(n, m)).all())
    u = 3 * torch.randn(20, n, m, dtype=torch.float64)
    scores = u.flatten(1) @ vertices.flatten(1).T
    torch.testing.assert_close(structure.log_partition(u), scores.logsumexp(1))
    torch.testing.assert_close((u * structure.argmax(u)).sum((1, 2)), scores.amax(1))


@pytest.mark.parametrize(("n", "m"), [(6, 6), (4, 9), (9, 4)])
def test_assignments_against_scipy(n, m):
    u = torch.randn(340, n, m, dtype=torch.float64).round(decimals=1)
    values = (u * Matching(n, m).argmax(u)).sum((1, 2))
    for matrix, value in zip(u.numpy(), values.tolist(), strict=True):
        assert value == pytest.approx(matrix[linear_sum_assignment(matrix, maximize=True)].sum())


def test_partial_matchings_leave_out_what_loses():
    structure = Matching(3, partial=True)
    u = torch.tensor([[2.0, -1.0, -1.0], [-1.0, -5.0, 1.0], [-1.0, -1.0, -9.0]])
    expected = torch.zeros(3, 3)
    expected[0, 0] = expected[1, 2] = 1.0
    torch.testing.assert_close(structure.argmax(u), expected)
    torch.testing.assert_close(sst.SoftArgmax(structure, sst.Euclidean())(u, 0.01), expected)


PARTIAL = [Matching(2, 3, partial=True), Matching(3, partial=True)]


def feasible(structure, rows, columns):
    if structure.partial or not (rows and columns):
        return True
    n, m = structure.event_shape
    return (n > m or rows <= columns) and (n < m or columns <= rows)


LONG = [pytest.param(s, marks=pytest.mark.slow) for s in (Matching(3), Matching(2, 5), PARTIAL[1])]


@pytest.mark.parametrize("structure", [Matching(2, 3), Matching(4, 2), PARTIAL[0], *LONG], ids=repr)
def test_padded_matchings_are_small_matchings(structure):
    """On every path, for every pair of lengths; or, where more are to be matched than there are partners, refused."""
    n, m = structure.event_shape
    u = torch.randn(2, n, m, dtype=torch.float64)
    softs = [
        sst.SoftArgmax(structure, f, path=path)
        for f in (sst.Euclidean(), sst.CategoricalEntropy(), sst.ExponentialFamilyEntropy())
        for path in ("auto", "interior_point", "active_set", "layer")
        if applies(path, f)
    ]
    for rows, columns in itertools.product(range(n + 1), range(m + 1)):
        mask = structure.length_mask(torch.tensor(rows), torch.tensor(columns))
        if not feasible(structure, rows, columns):
            for ask in (softs[0], structure.masked_argmax, structure.masked_log_partition):
                with pytest.raises(sst.SolveError, match=r"are to be matched, but fewer (rows|columns) have one"):
                    ask(u, mask=mask)
            continue
        small, part = Matching(rows, columns, structure.partial) if rows and columns else None, u[:, :rows, :columns]
        found = [structure.masked_argmax(u, mask), *(soft(u, 0.5, mask=mask) for soft in softs)]
        expected = [torch.zeros(2, rows, columns, dtype=torch.float64)] * len(found)
        log_partition = torch.zeros(2, dtype=torch.float64)
        if small is not None:
            expected = [small.argmax(part), *(sst.SoftArgmax(small, soft.regularizer)(part, 0.5) for soft in softs)]
            log_partition = small.log_partition(part)
        for path, x, y in zip(["argmax", *(soft.path for soft in softs)], found, expected, strict=True):
            padded = torch.nn.functional.pad(y, (0, m - columns, 0, n - rows))
            torch.testing.assert_close(x, padded, rtol=0, atol=1e-6 if path == "layer" else 1e-8)
        torch.testing.assert_close(structure.masked_log_partition(u, mask), log_partition, rtol=0, atol=1e-12)


def applies(path, regularizer):
    if path == "active_set":
        return isinstance(regularizer, sst.Euclidean)
    return path != "interior_point" or not isinstance(regularizer, sst.ExponentialFamilyEntropy)


def test_samples_and_probabilities_of_padded_matchings():
    structure = Matching(2, 3)
    u = torch.randn(2, 3, dtype=torch.float64)
    family = sst.ExponentialFamily(structure, u, mask=structure.length_mask(torch.tensor(1), torch.tensor(3)))
    x = family.sample((4000,), generator=torch.Generator().manual_seed(0))
    assert bool((x[:, 1] == 0).all())
    torch.testing.assert_close(x[:, 0].mean(0), u[0].softmax(-1), rtol=0, atol=0.03)
    torch.testing.assert_close(family.mean[0], u[0].softmax(-1))
    torch.testing.assert_close(family.log_prob(x[:5]).exp(), (x[:5, 0] * u[0].softmax(-1)).sum(-1))
    with pytest.raises(ValueError, match="must be"):
        family.log_prob(torch.zeros(2, 3, dtype=torch.float64))


def test_own_regularizers_of_padded_matchings():
    """Twice the Euclidean one, which no path but the layer knows: half the temperature."""
    structure, own = Matching(2, 3), sst.Regularizer(lambda x: cp.sum_squares(x))
    mask = structure.length_mask(torch.tensor(1), torch.tensor(3))
    u = torch.randn(2, 2, 3, dtype=torch.float64)
    x = sst.SoftArgmax(structure, own)(u, 0.5, mask=mask)
    expected = sst.SoftArgmax(structure, sst.Euclidean())(u, 1.0, mask=mask)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-6)


def test_divergence_between_padded_matchings():
    """Finite exactly where the other has all elements, whatever stands in for rows and columns that are not there."""
    structure = Matching(2, 3)
    u, v = torch.randn(2, 2, 3, dtype=torch.float64)

    def family(utilities, rows, columns):
        mask = structure.length_mask(torch.tensor(rows), torch.tensor(columns))
        return sst.ExponentialFamily(structure, utilities, mask=mask)

    p, q = u[0, :2].log_softmax(-1), v[0].log_softmax(-1)[:2]
    small = family(u, 1, 2)
    torch.testing.assert_close(small.kl_divergence(family(v, 1, 3)), (p.exp() * (p - q)).sum())
    assert family(u, 2, 2).kl_divergence(family(v, 2, 3)).isfinite()
    for other in (family(v, 1, 1), family(v, 2, 3), family(v, 2, 2)):
        assert small.kl_divergence(other) == torch.inf


def test_a_batch_of_matchings_of_all_sizes():
    """Elements that are paired, and those that may be paired with any column, beside each other; whole rows or columns
    anywhere, and single items, forbidden."""
    structure = Matching(3, 5)
    mask = torch.ones(40, 3, 5, dtype=torch.bool)
    mask[::2, 1], mask[5:8] = False, False
    mask[::3, :, [0, 4]] = False
    planted = structure.masked_argmax(torch.randn(40, 3, 5), mask) > 0
    mask = planted | (mask & (torch.rand(40, 3, 5) < 0.7))
    left = [(m.any(-1), m.any(-2)) for m in mask]
    u = torch.randn(40, 3, 5, dtype=torch.float64)
    fast = sst.SoftArgmax(structure, sst.CategoricalEntropy())
    x, best = fast(u, 0.3, mask=mask), structure.masked_argmax(u, mask)
    for i, (rows, columns) in enumerate(left):
        assert bool((x[i][~mask[i]] == 0).all())
        assert bool((best[i][~mask[i]] == 0).all())
        torch.testing.assert_close(x[i].sum(-1), rows.double(), rtol=0, atol=1e-12)
        assert bool((x[i].sum(-2) <= columns.double() + 1e-12).all())
    assert fast.gap(u, x, 0.3, mask=mask).abs().max() < 1e-9
    slow = sst.SoftArgmax(structure, sst.CategoricalEntropy(), path="interior_point")
    torch.testing.assert_close(x, slow(u, 0.3, mask=mask), rtol=0, atol=1e-8)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 3), (2, 5), (4, 3)])
def test_partial_argmax_is_the_best_vertex(n, m):
    structure = Matching(n, m, partial=True)
    u = torch.randn(1000, n, m, dtype=torch.float64) - 0.5
    u[::2] = u[::2].round()
    x = structure.argmax(u)
    best = (u.flatten(1) @ structure.vertices().flatten(1).T).amax(1)
    assert torch.allclose((u * x).flatten(1).sum(1), best)
    assert bool((x.sum(-1) <= 1).all() and (x.sum(-2) <= 1).all())
    assert not bool((x.bool() & (u <= 0)).any())


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize(("n", "m"), SHAPES)
def test_marginals(n, m, partial):
    structure = Matching(n, m, partial=partial)
    u = torch.randn(20, n, m, dtype=torch.float64)
    soft = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())
    for t in (1.0, 0.1):
        assert (soft(u, t) - marginals(structure, u / t)).abs().max() < 1e-10
    assert (soft(u.float(), 0.1).double() - soft(u.float().double(), 0.1)).abs().max() < 1e-5


def test_counts():
    """m! / (m - n)! matchings of n with m; sum_k C(n, k) C(m, k) k! partial ones."""
    zeros = torch.zeros(4, 30, dtype=torch.float64)
    assert float(Matching(4, 30).log_partition(zeros).exp()) == pytest.approx(30 * 29 * 28 * 27)
    assert float(Matching(30, 4).log_partition(zeros.T).exp()) == pytest.approx(30 * 29 * 28 * 27)
    partial = Matching(3, 5, partial=True)
    assert float(partial.log_partition(zeros[:3, :5]).exp()) == pytest.approx(1 + 15 + 60 + 60)


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("regularizer", [sst.Euclidean(), *ENTROPIC], ids=repr)
@pytest.mark.parametrize(("n", "m"), [(3, 4), (4, 2)])
def test_every_regularizer_is_optimal_and_differentiable(n, m, regularizer, partial):
    soft = sst.SoftArgmax(Matching(n, m, partial=partial), regularizer)
    assert soft.path == ("fast" if isinstance(regularizer, sst.CategoricalEntropy) else "interior_point")
    u = torch.randn(8, n, m, dtype=torch.float64)
    assert soft.gap(u, soft(u)).abs().max() < 1e-8
    torch.autograd.gradcheck(soft, u[:2].clone().requires_grad_(), eps=1e-5, atol=1e-5)


def test_scaling_alone_would_not_be_exact():
    """A dummy row with entropy of its own (Sinkhorn on the padded square) is another map."""
    u = torch.randn(4, 2, 3, dtype=torch.float64)
    x = sst.SoftArgmax(Matching(2, 3), sst.CategoricalEntropy())(u)
    padded = torch.cat([u, torch.zeros(4, 1, 3, dtype=torch.float64)], 1)
    y = sst.SoftArgmax(Matching(3), sst.CategoricalEntropy())(padded)[:, :2]
    assert (x - y).abs().amax((1, 2)).min() > 1e-3
