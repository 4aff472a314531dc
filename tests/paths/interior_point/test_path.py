"""The interior-point path: right on hulls of every shape, at every temperature; honest where it gives up."""

from unittest import mock

import cvxpy as cp
import pytest
import torch

import polytopes
import sst_cvx as sst
from sst_cvx import native
from sst_cvx.paths.base import Options, Refused
from sst_cvx.paths.interior_point import interior, tolerances
from sst_cvx.paths.interior_point.path import InteriorPointPath
from sst_cvx.paths.layer.path import LayerPath
from tests.hulls import birkhoff, k_subset, pairs, trees_by_martin, trees_by_subtours
from tests.oracles import RESPONSES, SLOPES, bisection, pullback, sinkhorn
from tests.paths.interior_point.table import REGULARIZERS, absolute_ball, draw


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

    @pytest.mark.parametrize("t", [1.0, pytest.param(0.1, marks=pytest.mark.slow), 0.01])
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
        expected, solve = soft(u), interior.solve

        def half(model, problem, start):
            answer, converged = solve(model, problem, start)
            answer.w[::2] = torch.nan
            converged[::2] = False
            return answer, converged

        leaf = u.clone().requires_grad_()
        with native.switched(False), mock.patch.object(interior, "solve", half):
            x = soft(leaf)
            (g,) = torch.autograd.grad(x.square().sum(), leaf)
        assert float((x - expected).abs().max()) < 1e-6
        leaf = u.clone().requires_grad_()
        (truth,) = torch.autograd.grad(soft(leaf).square().sum(), leaf)
        assert float((g - truth).abs().max()) < 1e-5

    def test_what_the_layer_gets_wrong_is_not_returned(self):
        """Rows and weights over many decades: a point of the hull, and not the best one."""
        soft, u = sst.SoftArgmax(pairs(6, 2), sst.Euclidean()), draw(pairs(6, 2), 1, 4)[0]

        def never(model, problem, start):
            answer, converged = interior.run(model, problem, start, tolerances.BRISK)
            return answer, torch.zeros_like(converged)

        def middle(path, batch):
            return torch.full_like(batch.u, 2 / 6)

        with (
            native.switched(False),
            mock.patch.object(interior, "solve", never),
            mock.patch.object(LayerPath, "__call__", middle),
            pytest.raises(sst.SolveError, match="gap of the latter has not vanished") as caught,
        ):
            soft(u)
        assert len(caught.value.elements) == 4

    def test_too_cold_for_the_layer(self):
        """What the interior-point solver gives up is refused where the layer's answers have too few digits."""
        soft, u = sst.SoftArgmax(pairs(6, 2), sst.Euclidean()), draw(pairs(6, 2), 1, 4)[0]

        def never(model, problem, start):
            answer, converged = interior.run(model, problem, start, tolerances.BRISK)
            return answer, torch.zeros_like(converged)

        with (
            native.switched(False),
            mock.patch.object(interior, "solve", never),
            pytest.raises(sst.SolveError, match="did not converge for batch elements 0, 1, 2, 3") as caught,
        ):
            soft(u, 1e-5)
        assert len(caught.value.elements) == 4
