"""The interior-point path: right on hulls of every shape, at every temperature; honest where it gives up."""

from unittest import mock

import cvxpy as cp
import numpy as np
import pytest
import torch

import polytopes
import sst_cvx as sst
from sst_cvx.paths.base import Options, Refused
from sst_cvx.paths.interior_point.dense import CondensedFactor, Rows, SchurFactor
from sst_cvx.paths.interior_point.path import InteriorPointPath
from sst_cvx.paths.interior_point.solver import BRISK, InteriorPoint
from sst_cvx.paths.interior_point.sparse import SparseRows, prefers_sparse
from sst_cvx.paths.interior_point.standard_form import standard_form
from tests.hulls import (
    birkhoff,
    grid_paths,
    k_subset,
    pairs,
    random_polytope,
    trees_by_martin,
    trees_by_subtours,
)
from tests.oracles import RESPONSES, SLOPES, bisection, pullback, sinkhorn

REGULARIZERS = (sst.Euclidean(), sst.CategoricalEntropy(), sst.BinaryEntropy(), sst.TsallisEntropy(1.5))


def absolute_ball() -> sst.Structure:
    """Auxiliary variables without bounds of their own, negative coordinates, and no fixed sum."""
    x = cp.Variable(4)
    return sst.Structure(x, [cp.norm1(x) <= 1.5, cp.norm_inf(x) <= 1])


def half_fixed() -> sst.Structure:
    """Implicit equalities: two coordinates can only be 0, one only 1, in a matrix."""
    x = cp.Variable((2, 3))
    return sst.Structure(x, [x >= 0, x[0, :2] <= 0, cp.sum(x) <= 2.5, cp.sum(x) >= 2.5, x[1, 1] >= 1, x <= 1])


HULLS = {
    "k-subset": lambda: k_subset(12, 4),
    "pairs": lambda: pairs(12, 4),
    "Birkhoff": lambda: birkhoff(4),
    "subtours": lambda: trees_by_subtours(5),
    "Martin, dense": lambda: trees_by_martin(4),
    "Martin, sparse": lambda: trees_by_martin(6),
    "paths": lambda: grid_paths(4),
    "random": random_polytope,
    "random, many rows": lambda: random_polytope(10, 1, 40, seed=1),
    "half fixed": half_fixed,
}


def draw(structure: sst.Structure, count: int = 3, batch: int = 12, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((count, batch, *structure.event_shape), dtype=torch.float64, generator=generator)


@pytest.fixture(params=HULLS)
def hull(request):
    return HULLS[request.param]()


@pytest.fixture
def never_the_layer():
    with mock.patch.object(InteriorPointPath, "_hand_over", side_effect=AssertionError("went to the layer")):
        yield


@pytest.mark.usefixtures("never_the_layer")
class TestTruth:
    @pytest.mark.parametrize("t", [1.0, 0.1, 0.01])
    @pytest.mark.parametrize("f", REGULARIZERS[:1] + REGULARIZERS[3:], ids=repr)
    def test_optimality_gap(self, hull, f, t):
        (u,) = draw(hull, 1)
        soft = sst.SoftArgmax(hull, f)
        assert soft.path == "interior_point"
        assert float(soft.gap(u, soft(u, t), t).max()) < 1e-10

    @pytest.mark.parametrize("f", REGULARIZERS[1:3], ids=repr)
    def test_optimality_gap_of_entropies(self, hull, f):
        (u,) = draw(hull, 1)
        soft = sst.SoftArgmax(hull, f)
        assert float(soft.gap(u, soft(u, 1.0), 1.0).max()) < 1e-9

    @pytest.mark.parametrize("t", [1.0, 0.1, 0.01])
    @pytest.mark.parametrize("f", REGULARIZERS, ids=repr)
    def test_gradient_is_the_slope_of_the_value(self, hull, f, t):
        u, v, d = draw(hull)
        soft, leaf = sst.SoftArgmax(hull, f), u.clone().requires_grad_()
        (g,) = torch.autograd.grad((soft(leaf, t) * v).sum(), leaf)
        with torch.no_grad():
            coarse, fine = (
                ((soft(u + h * d, t) - soft(u - h * d, t)) * v).flatten(1).sum(1) / (2 * h)
                for h in (1e-4 * t, 5e-5 * t)
            )
        slope, kink = (4 * fine - coarse) / 3, t * (fine - coarse).abs() > 1e-6 * (1 + t * fine.abs())
        assert int(kink.sum()) <= 2
        error = t * (slope - (g * d).flatten(1).sum(1)).abs()
        assert float(torch.where(kink, 0.0, error).max()) < 1e-7

    @pytest.mark.parametrize("t", [1.0, 0.1, 0.01, 1e-3, 1e-4])
    @pytest.mark.parametrize("f", REGULARIZERS, ids=repr)
    def test_closed_form(self, f, t):
        u, v = draw(k_subset(20, 5), 2, 32)
        name = type(f).__name__
        leaf = u.clone().requires_grad_()
        x = sst.SoftArgmax(k_subset(20, 5), f)(leaf, t)
        (g,) = torch.autograd.grad((x * v).sum(), leaf)
        truth = bisection(u / t, 5, name)
        assert name in RESPONSES
        assert name in SLOPES
        assert float((x - truth).abs().max()) < 1e-9
        assert float((t * g - pullback(truth, v, name)).abs().max()) < 1e-7

    def test_sinkhorn(self):
        u = draw(birkhoff(5), 1)[0]
        x = sst.SoftArgmax(birkhoff(5), sst.CategoricalEntropy())(u, 0.3)
        assert float((x - sinkhorn(u / 0.3)).abs().max()) < 1e-9

    @pytest.mark.parametrize("f", REGULARIZERS, ids=repr)
    def test_same_hull_three_ways(self, f):
        """Trees by subtours (condensed), by Martin (dense on 4 vertices, sparse on 6)."""
        for n in (4, 6):
            u = draw(trees_by_subtours(n), 1)[0]
            x, y = (sst.SoftArgmax(make(n), f)(u, 0.2) for make in (trees_by_subtours, trees_by_martin))
            assert float((x - y).abs().max()) < 1e-8

    @pytest.mark.parametrize("f", REGULARIZERS, ids=repr)
    def test_a_box_has_no_rows(self, f):
        x = cp.Variable(3)
        soft, u = sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= 1]), f), draw(k_subset(3, 1), 1)[0]
        assert float(soft.gap(u, soft(u, 0.7), 0.7).max()) < 1e-9
        assert torch.autograd.gradcheck(soft, u[:2].clone().requires_grad_())

    def test_a_common_offset_matters_unless_the_sum_is_fixed(self):
        x = cp.Variable(4)
        loose = sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) <= 2]), sst.Euclidean())
        u = draw(k_subset(4, 2), 1)[0]
        assert float(loose.gap(u - 1, loose(u - 1)).max()) < 1e-10
        exact = sst.SoftArgmax(k_subset(4, 2), sst.Euclidean())
        assert float((exact(u + 2.0**20) - exact(u)).abs().max()) < 1e-9

    def test_coordinates_of_any_sign(self):
        soft, u = sst.SoftArgmax(absolute_ball(), sst.Euclidean()), draw(absolute_ball(), 1)[0]
        for t in (1.0, 0.1):
            assert float(soft.gap(u, soft(u, t), t).max()) < 1e-9
        leaf = u[:2].clone().requires_grad_()
        assert torch.autograd.gradcheck(soft, leaf)

    @pytest.mark.parametrize("f", REGULARIZERS, ids=repr)
    def test_weights(self, f):
        weights = torch.rand(12).double() + 0.5
        f = type(f)(weights=weights)
        soft, u = sst.SoftArgmax(polytopes.KSubset(12, 4), f), draw(k_subset(12, 4), 1)[0]
        assert soft.path == "interior_point"
        assert "fast paths take no weights" in repr(soft)
        x = soft(u, 0.7)
        assert float(soft.gap(u, x, 0.7).max()) < 1e-9
        assert float((x - soft.reference()(u, 0.7)).abs().max()) < 1e-6

    @pytest.mark.parametrize("f", REGULARIZERS, ids=repr)
    def test_twice_differentiable(self, f):
        soft, u = sst.SoftArgmax(pairs(6, 2), f), draw(pairs(6, 2), 1, 2)[0].requires_grad_()
        t = torch.tensor([1.0, 0.6], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(soft, (u, t))
        assert torch.autograd.gradgradcheck(soft, (u, t))

    def test_whole_batch_at_once(self):
        """Elements of very different difficulty do not disturb one another."""
        u = draw(pairs(12, 4), 1, 40)[0] * torch.logspace(-3, 4, 40).double()[:, None]
        soft = sst.SoftArgmax(pairs(12, 4), sst.BinaryEntropy())
        together, alone = soft(u), torch.stack([soft(v) for v in u])
        assert float((together - alone).abs().max()) < 1e-9


class TestParameters:
    def test_vectors_and_scalars(self):
        x, c, k = cp.Variable(5), cp.Parameter(5, nonneg=True, name="c"), cp.Parameter(name="k")
        budget = sst.Structure(x, [x >= 0, x <= c, cp.sum(x) == k])
        c_value, k_value = torch.rand(3, 5).double() + 0.4, torch.tensor([1.2, 1.0, 0.9]).double()
        for f in REGULARIZERS:
            soft, u = sst.SoftArgmax(budget, f), draw(budget, 1, 3)[0]
            assert soft.path == "interior_point"
            difference = soft(u, c=c_value, k=k_value) - soft.reference()(u, c=c_value, k=k_value)
            assert float(difference.abs().max()) < 1e-6
            inputs = [v.clone().requires_grad_() for v in (u, c_value, k_value)]
            assert torch.autograd.gradcheck(lambda u, c, k, soft=soft: soft(u, 0.5, c=c, k=k), inputs, atol=1e-6)

    def test_matrix_with_auxiliary_and_pinned_columns(self):
        x, z = cp.Variable((2, 3)), cp.Variable(4)
        q, r = cp.Parameter((2, 3), name="q"), cp.Parameter(name="r")
        rows = [x >= 0, x <= q, cp.sum(x, axis=0) <= z[:3], cp.sum(z) == r, z >= 0, z <= 2, x[0, 0] == q[0, 0] / 2]
        structure = sst.Structure(x, rows)
        q_value, r_value = torch.rand(2, 2, 3).double() + 0.4, torch.tensor([1.5, 3.0]).double()
        for f in REGULARIZERS:
            soft, u = sst.SoftArgmax(structure, f), draw(structure, 1, 2)[0]
            difference = soft(u, q=q_value, r=r_value) - soft.reference()(u, q=q_value, r=r_value)
            assert float(difference.abs().max()) < 1e-6
            inputs = [v.clone().requires_grad_() for v in (u, q_value, r_value)]
            assert torch.autograd.gradcheck(lambda u, q, r, soft=soft: soft(u, 0.5, q=q, r=r), inputs, atol=1e-6)

    def test_empty_hull_is_an_error(self):
        x, k = cp.Variable(3), cp.Parameter(name="k")
        soft = sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) == k]), sst.Euclidean())
        with pytest.raises(sst.SolveError, match="batch element 1: Infeasible") as caught:
            soft(torch.zeros(3, 3), k=torch.tensor([1.0, 4.0, 2.0]))
        assert caught.value.elements == ((1,),)

    def test_rows_over_pinned_columns_are_checked(self):
        x, z, c = cp.Variable(3), cp.Variable(), cp.Parameter(name="c")
        pinned = sst.Structure(x, [x >= 0, x <= 1, x[0] == c, z == c, x[0] + z <= 1, cp.sum(x) <= 2])
        soft = sst.SoftArgmax(pinned, sst.Euclidean())
        assert soft(torch.zeros(3), c=torch.tensor(0.4)).tolist() == pytest.approx([0.4, 0, 0])
        with pytest.raises(sst.SolveError, match="Infeasible"):
            soft(torch.zeros(3), c=torch.tensor(0.9))

    @pytest.mark.parametrize("f", REGULARIZERS, ids=repr)
    def test_a_bound_that_leaves_no_room(self, f):
        """As right as if the same coordinate were fixed by a constant."""
        x, h = cp.Variable(4), cp.Parameter(4, name="h")
        limits = np.array([0.0, 0.875, 1.0, 0.75])
        moving = sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= h, cp.sum(x) == 1]), f)
        fixed = sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= limits, cp.sum(x) == 1]), f)
        u, v = 3 * draw(fixed.structure, 2, 50)
        answers = []
        for soft, values in ((moving, {"h": torch.as_tensor(limits)}), (fixed, {})):
            leaf = u.clone().requires_grad_()
            y = soft(leaf, 1.0, **values)
            answers.append((y, *torch.autograd.grad((y * v).sum(), leaf)))
        for one, other in zip(*answers, strict=True):
            assert float((one - other).detach().abs().max()) < 1e-7

    def test_symmetric_parameters_go_by_the_layer(self):
        x, C = cp.Variable((2, 2)), cp.Parameter((2, 2), name="C", symmetric=True)
        soft = sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= C, cp.sum(x) <= 2]), sst.Euclidean())
        value = torch.tensor([[0.9, 0.3], [0.3, 0.5]])
        assert soft.path == "layer"
        assert float((soft(torch.full((2, 2), 5.0), C=value) - value).abs().max()) < 1e-5

    def test_parameters_that_multiply_go_by_the_layer(self):
        x, a = cp.Variable(3), cp.Parameter(3, nonneg=True, name="a")
        soft = sst.SoftArgmax(sst.Structure(x, [x >= 0, a @ x <= 1, x <= 1]), sst.Euclidean())
        assert soft.path == "layer"
        assert "parameters multiply variables" in repr(soft)


class TestSelection:
    def test_refusals(self):
        ball = cp.Variable(3)
        with pytest.raises(Refused, match="other cones"):
            InteriorPointPath(sst.Structure(ball, [cp.norm(ball) <= 1]), sst.Euclidean(), Options())
        own = sst.Regularizer(lambda x: cp.sum_squares(x))
        with pytest.raises(Refused, match="not separable"):
            InteriorPointPath(pairs(4, 1), own, Options())

    def test_own_separable_regularizer(self):
        class Quartic(sst.SeparableRegularizer):
            def terms(self, variable):
                return cp.square(variable) / 2 + cp.power(variable, 4) / 4

            def elementwise(self, x):
                return x**2 / 2 + x**4 / 4

        soft, u = sst.SoftArgmax(pairs(6, 2), Quartic()), draw(pairs(6, 2), 1)[0]
        assert soft.path == "interior_point"
        assert float(soft.gap(u, soft(u, 0.5), 0.5).max()) < 1e-10
        assert torch.autograd.gradcheck(soft, u[:2].clone().requires_grad_())

    def test_elements_that_do_not_converge_go_to_the_layer(self):
        soft, u = sst.SoftArgmax(pairs(6, 2), sst.Euclidean()), draw(pairs(6, 2), 1, 4)[0]
        expected, solve = soft(u), InteriorPoint.solve

        def half(self, problem, start):
            answer, converged = solve(self, problem, start)
            answer.w[::2] = torch.nan
            converged[::2] = False
            return answer, converged

        leaf = u.clone().requires_grad_()
        with mock.patch.object(InteriorPoint, "solve", half):
            x = soft(leaf)
            (g,) = torch.autograd.grad(x.square().sum(), leaf)
        assert float((x - expected).abs().max()) < 1e-6
        leaf = u.clone().requires_grad_()
        (truth,) = torch.autograd.grad(soft(leaf).square().sum(), leaf)
        assert float((g - truth).abs().max()) < 1e-5

    def test_too_cold_for_the_layer(self):
        """What the interior-point solver gives up is refused where the layer's answers have too few digits."""
        soft, u = sst.SoftArgmax(pairs(6, 2), sst.Euclidean()), draw(pairs(6, 2), 1, 4)[0]

        def never(self, problem, start):
            answer, converged = InteriorPoint._run(self, problem, start, BRISK)
            return answer, torch.zeros_like(converged)

        with (
            mock.patch.object(InteriorPoint, "solve", never),
            pytest.raises(sst.SolveError, match="did not converge for batch elements 0, 1, 2, 3") as caught,
        ):
            soft(u, 1e-5)
        assert len(caught.value.elements) == 4


class TestLinearAlgebra:
    @pytest.mark.parametrize("make", [HULLS[n] for n in ("pairs", "subtours", "Martin, sparse", "random, many rows")])
    def test_factors_solve_the_same_system(self, make):
        form = standard_form(make().hull.at(), (0.0, 1.0))
        device, generator = torch.device("cpu"), torch.Generator().manual_seed(0)
        rows, sparse = Rows(form, device), SparseRows(form, device)
        d, p, q = (
            torch.randn(5, n, dtype=torch.float64, generator=generator)
            for n in (form.lower.size, form.lower.size, form.right.size)
        )
        d = d.exp()
        factors = [SchurFactor(rows, d), sparse.factor(d)]
        factors += [CondensedFactor(rows, d)] if form.slacks else []
        for factor in factors:
            dw, dy = factor.solve(p, q)
            for _ in range(3):  # the sparse one is regularised
                more, dy_more = factor.solve(torch.zeros_like(p), q - rows.times(dw))
                dw, dy = dw + more, dy + dy_more
            assert float((rows.times(dw) - q).abs().max()) < 1e-9
            assert float((dw / d + rows.transposed(dy) - p).abs().max()) < 1e-9
            assert float((sparse.times(dw) - rows.times(dw)).abs().max()) < 1e-12

    def test_crossover(self):
        assert not prefers_sparse(standard_form(trees_by_martin(4).hull.at(), (0.0, 1.0)))
        assert prefers_sparse(standard_form(trees_by_martin(6).hull.at(), (0.0, 1.0)))

    def test_presolve(self):
        form = standard_form(half_fixed().hull.at(), (0.0, np.inf))
        assert form.curved == 3
        assert form.constant.tolist() == [0, 0, 0, 0, 1, 0]
        assert form.equalities == 1
        assert form.slacks == 0
        assert standard_form(birkhoff(4).hull.at(), (0.0, np.inf)).equalities == 7
