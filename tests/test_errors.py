"""Every bad input has a message that names the argument and the fix; nothing wrong is returned in silence."""

import cvxpy as cp
import numpy as np
import pytest
import torch
from cvxpylayers.interfaces.base import SolverInterface

import polytopes
import sst_cvx as sst
from sst_cvx.paths.fast import registry
from sst_cvx.paths.layer.diffcp_engine import DiffcpSolver
from tests.hulls import pairs

SUBSET = polytopes.KSubset(6, 2)


@pytest.fixture(params=["fast", "layer"])
def soft(request):
    return sst.SoftArgmax(SUBSET, sst.Euclidean(), path=request.param)


class TestUtilities:
    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_not_finite(self, soft, bad):
        u = torch.zeros(2, 3, 6)
        u[1, 2, 4] = bad
        with pytest.raises(ValueError, match=r"utilities must be finite, but entry \(1, 2, 4\)"):
            soft(u)
        with pytest.raises(ValueError, match=r"utilities must be finite"):
            SUBSET.argmax(u)

    @pytest.mark.parametrize("shape", [(), (5,), (3, 7), (6, 1)])
    def test_shape(self, soft, shape):
        with pytest.raises(ValueError, match=r"utilities must have shape \(\*batch, 6\)"):
            soft(torch.zeros(shape))

    def test_type(self, soft):
        with pytest.raises(TypeError, match=r"utilities must be a torch\.Tensor, got list"):
            soft([0.0] * 6)
        with pytest.raises(TypeError, match=r"floating-point tensor, got torch\.int64"):
            soft(torch.zeros(6, dtype=torch.long))

    def test_overflow(self):
        with pytest.raises(ValueError, match=r"utilities / temperature overflows torch\.float32"):
            sst.SoftArgmax(SUBSET, sst.Euclidean())(torch.full((6,), 3e38), 0.1)


class TestTemperature:
    @pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf"), torch.tensor([1.0, 0.0])])
    def test_not_positive(self, soft, bad):
        with pytest.raises(ValueError, match="temperature must be positive and finite"):
            soft(torch.zeros(2, 6), bad)

    def test_type(self, soft):
        for bad in ("1", None, True, torch.tensor(True), 1j):
            with pytest.raises(TypeError, match="temperature must be"):
                soft(torch.zeros(6), bad)

    def test_shape(self, soft):
        with pytest.raises(ValueError, match=r"temperature has shape \(3,\), which does not broadcast"):
            soft(torch.zeros(2, 6), torch.ones(3))
        with pytest.raises(ValueError, match="does not broadcast"):
            soft(torch.zeros(6), torch.ones(4))

    def test_too_cold_for_the_layer(self):
        soft = sst.SoftArgmax(SUBSET, sst.Euclidean(), path="layer")
        with pytest.raises(sst.SolveError, match="conic solver cannot resolve") as caught:
            soft(torch.randn(2, 2, 6) * torch.tensor([1.0, 1e9])[:, None, None], 1.0)
        assert caught.value.elements == ((1, 0), (1, 1))


class TestHull:
    def test_empty(self):
        x = cp.Variable(3)
        with pytest.raises(sst.EmptySet, match="the hull is empty"):
            sst.Structure(x, [x >= 1, cp.sum(x) == 2])

    @pytest.mark.parametrize("make", [lambda x: [x >= 0], lambda x: [cp.sum(x) == 1], lambda x: [x[0] == 1, x[1] == 1]])
    def test_unbounded(self, make):
        x = cp.Variable(3)
        with pytest.raises(ValueError, match="the hull is unbounded"):
            sst.Structure(x, make(x))

    def test_no_constraints(self):
        with pytest.raises(ValueError, match="the hull is unbounded"):
            sst.Structure(cp.Variable(3), [])

    def test_not_dcp(self):
        x = cp.Variable(3)
        with pytest.raises(ValueError, match="not DCP"):
            sst.Structure(x, [cp.sum_squares(x) >= 1, x <= 1, x >= 0])

    def test_not_dpp(self):
        x, a, b = cp.Variable(3), cp.Parameter(name="a"), cp.Parameter(name="b")
        with pytest.raises(ValueError, match="not DPP"):
            sst.Structure(x, [x >= 0, cp.sum(x) <= a * b])

    def test_not_cvxpy(self):
        x = cp.Variable(3)
        with pytest.raises(TypeError, match=r"variable must be a cvxpy\.Variable"):
            sst.Structure(torch.zeros(3), [])
        with pytest.raises(TypeError, match="constraints must be a list of CVXPY constraints: put it into brackets"):
            sst.Structure(x, x >= 0)  # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError, match="constraints must be CVXPY constraints"):
            sst.Structure(x, [True, x >= 0])

    def test_boolean(self):
        x = cp.Variable(3, boolean=True)
        with pytest.raises(ValueError, match="declare the convex hull"):
            sst.Structure(x, [cp.sum(x) == 1])

    def test_loose_cone(self):
        x = cp.Variable(3)
        with pytest.raises(ValueError, match="integral=False needs a linear hull"):
            sst.Structure(x, [cp.norm(x) <= 1], integral=False).argmax(torch.zeros(3))


class TestHullParameters:
    @pytest.fixture
    def structure(self):
        x, capacity = cp.Variable(3), cp.Parameter(nonneg=True, name="capacity")
        return sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) == capacity])

    def test_missing_or_unknown(self, structure):
        soft = sst.SoftArgmax(structure, sst.Euclidean())
        with pytest.raises(TypeError, match=r"missing \['capacity'\]"):
            soft(torch.zeros(3))
        with pytest.raises(TypeError, match=r"unknown \['capacty'\]"):
            soft(torch.zeros(3), capacity=torch.ones(()), capacty=torch.ones(()))
        with pytest.raises(TypeError, match=r"unknown \['capacity'\]"):
            sst.SoftArgmax(SUBSET, sst.Euclidean())(torch.zeros(6), capacity=1.0)

    def test_bad_values(self, structure):
        soft = sst.SoftArgmax(structure, sst.Euclidean())
        with pytest.raises(ValueError, match=r"capacity violates its CVXPY attributes \(nonneg\)"):
            soft(torch.zeros(3), capacity=torch.tensor(-1.0))
        with pytest.raises(ValueError, match=r"parameter capacity has shape \(2,\)"):
            soft(torch.zeros(3), capacity=torch.ones(2))
        with pytest.raises(ValueError, match="parameter capacity must be finite"):
            soft(torch.zeros(3), capacity=torch.tensor(float("nan")))

    def test_infeasible_elements_are_named(self, structure):
        soft = sst.SoftArgmax(structure, sst.Euclidean())
        capacity = torch.tensor([[1.0, 2.0], [7.0, 1.0]])
        for call in (soft, structure.argmax):
            with pytest.raises(sst.SolveError, match=r"[Ii]nfeasible") as caught:
                call(torch.zeros(2, 2, 3), capacity=capacity)
            assert caught.value.elements == ((1, 0),)

    def test_names(self):
        x = cp.Variable(2)
        a, b = cp.Parameter(nonneg=True, name="a"), cp.Parameter(nonneg=True, name="a")
        with pytest.raises(ValueError, match="distinct names"):
            sst.Structure(x, [x >= 0, x[0] <= a, x[1] <= b])


class TestRegularizer:
    def test_type(self):
        with pytest.raises(TypeError, match=r"regularizer must be an sst\.Regularizer.*an instance"):
            sst.SoftArgmax(SUBSET, sst.Euclidean)
        with pytest.raises(TypeError, match=r"structure must be an sst\.Structure.*not the class"):
            sst.SoftArgmax(polytopes.KSubset, sst.Euclidean())

    def test_domain_must_cover_the_hull(self):
        x = cp.Variable(2)
        box = sst.Structure(x, [x >= -1, x <= 2])
        for f in (sst.CategoricalEntropy(), sst.BinaryEntropy(), sst.TsallisEntropy(1.5)):
            with pytest.raises(ValueError, match="reaches from -1 to 2"):
                sst.SoftArgmax(box, f)
        with pytest.raises(ValueError, match="not finite on the whole hull"):
            sst.SoftArgmax(SUBSET, sst.Regularizer(lambda x: -cp.sum(cp.log(x))))

    @pytest.mark.parametrize("path", ["interior_point", "layer"])
    @pytest.mark.parametrize(
        ("hull", "f", "inside", "beyond"),
        [
            (lambda x, c: [x >= 0, x <= c], sst.BinaryEntropy(), 1.0, 2.0),
            (lambda x, c: [x >= c, x <= 1], sst.CategoricalEntropy(), 0.0, -1.0),
            (lambda x, c: [x >= c, x <= 3], sst.TsallisEntropy(1.5), 0.5, -0.5),
            (lambda x, c: [x >= 0, cp.sum(x) == c[0]], sst.BinaryEntropy(), 1.0, 1.5),  # by the sum alone
            (lambda x, c: [x >= 0, cp.multiply(c, x) <= 1], sst.BinaryEntropy(), 2.0, 0.5),
            (lambda x, c: [x >= c, x <= c + 0.5], sst.BinaryEntropy(), 0.5, 2.0),  # no point of the domain at all
        ],
    )
    def test_domain_must_cover_the_hull_at_parameters(self, hull, f, inside, beyond, path):
        x, c = cp.Variable(2), cp.Parameter(2, name="c")
        soft, u = sst.SoftArgmax(sst.Structure(x, hull(x, c)), f, path=path), torch.randn(2, 2, dtype=torch.float64)
        fine, wrong = torch.full((2, 2), inside), torch.tensor([[inside] * 2, [beyond] * 2])
        assert torch.isfinite(soft(u, c=fine)).all()
        for _ in range(2):  # what is kept of the first call is not what lets the second pass
            with pytest.raises(sst.SolveError, match=r"finite only for .* beyond for batch element 1.*parameters") as e:
                soft(u, c=wrong)
            assert e.value.elements == ((1,),)
        assert soft(u, c=wrong, on_failure="nan").isnan().tolist() == [[False] * 2, [True] * 2]

    def test_loose_bounds_are_no_reason_to_refuse(self):
        """x >= -1 is declared, but the hull stays in [0, 1]."""
        x = cp.Variable(2)
        structure = sst.Structure(x, [x >= -1, x <= 1, cp.sum(x) == 1])
        u = torch.zeros(2, dtype=torch.float64)
        assert torch.allclose(sst.SoftArgmax(structure, sst.BinaryEntropy())(u), u + 0.5, atol=1e-6)

    @pytest.mark.parametrize(
        ("f", "message"),
        [
            (lambda x: cp.sum(cp.sqrt(x)), "not convex by CVXPY's rules"),
            (lambda x: cp.sum(x), "not strongly convex"),
            (lambda x: cp.square(x[0]), "not strongly convex"),
            (lambda x: cp.square(x), "must be a scalar CVXPY expression"),
            (lambda x: cp.sum_squares(x) * cp.Parameter(nonneg=True), "contains parameters"),
            (lambda x: cp.sum_squares(cp.Variable(6)), "contains other variables"),
            (lambda x: 3.0, "must be a scalar CVXPY expression"),
        ],
    )
    def test_own(self, f, message):
        with pytest.raises(ValueError, match=message):
            sst.SoftArgmax(SUBSET, sst.Regularizer(f))

    def test_tsallis_order(self):
        for alpha in (1.0, 0.0, -0.5, float("inf"), float("nan")):
            with pytest.raises(ValueError, match="alpha must be positive, and not 1"):
                sst.TsallisEntropy(alpha)

    def test_exponential_family_out_of_reach(self):
        with pytest.raises(ValueError, match="permanent, out of reach beyond 12 rows"):
            sst.SoftArgmax(polytopes.Matching(13), sst.ExponentialFamilyEntropy())
        with pytest.raises(ValueError, match="permanent"):
            polytopes.Matching(13).log_partition(torch.zeros(13, 13))
        with pytest.raises(ValueError, match="needs vertices"):
            sst.SoftArgmax(pairs(), sst.ExponentialFamilyEntropy())


class TestSelection:
    def test_path(self):
        with pytest.raises(ValueError, match="path must be one of"):
            sst.SoftArgmax(SUBSET, sst.Euclidean(), path="quick")
        with pytest.raises(ValueError, match="path='fast' does not apply: no fast path is registered"):
            sst.SoftArgmax(pairs(), sst.Euclidean(), path="fast")
        with pytest.raises(ValueError, match=r"path='interior_point' does not apply: .* is not separable"):
            sst.SoftArgmax(SUBSET, sst.ExponentialFamilyEntropy(), path="interior_point")
        x = cp.Variable(3)
        with pytest.raises(ValueError, match="path='interior_point' does not apply: the hull has other cones"):
            sst.SoftArgmax(sst.Structure(x, [cp.norm(x) <= 1]), sst.Euclidean(), path="interior_point")

    def test_solver(self):
        with pytest.raises(ValueError, match="solver must be 'DIFFCP', 'MOREAU'"):
            sst.SoftArgmax(pairs(), sst.Euclidean(), solver="GUROBI")

    def test_unknown_solver_option(self):
        soft = sst.SoftArgmax(pairs(), sst.Euclidean(), path="layer", solver_options={"tolerence": 1e-3})
        with pytest.raises((sst.SolveError, AttributeError, TypeError), match="tolerence"):
            soft(torch.zeros(6))

    def test_sizes(self):
        for make in (lambda: polytopes.OneHot(0), lambda: polytopes.KSubset(3, 4), lambda: polytopes.KSubset(3, -1)):
            with pytest.raises(ValueError, match="must be"):
                make()
        with pytest.raises(TypeError, match="n must be an integer"):
            polytopes.Matching(2.0)
        with pytest.raises(ValueError, match="too many to list"):
            polytopes.KSubset(40, 20).vertices()

    def test_library_classes_are_final(self):
        with pytest.raises(TypeError, match=r"KSubset is final.*Subclass sst\.Structure"):

            class Smaller(polytopes.KSubset):
                pass


class TestRegistry:
    def test_second_registration(self):
        with pytest.raises(ValueError, match=r"has a fast path already: polytopes\.k_subset\.by_threshold"):
            sst.fast_path(polytopes.KSubset, sst.Euclidean)(lambda s, f, u: u)

    def test_types(self):
        for pair in ((SUBSET, sst.Euclidean), (polytopes.KSubset, sst.Euclidean()), (sst.Structure, sst.Euclidean)):
            with pytest.raises(TypeError, match="fast_path needs"):
                sst.fast_path(*pair)

    def test_exact_type_condition_and_parameters(self):
        class Mine(sst.Structure):
            pass

        class Narrower(Mine):
            pass

        def halves(structure, regularizer, u):
            return u * 0 + 0.5

        sst.fast_path(Mine, sst.Euclidean, when=lambda s, f: s.variable.size == 2)(halves)
        x, y, p = cp.Variable(2), cp.Variable(3), cp.Parameter(name="p", nonneg=True)
        simplex = [x >= 0, cp.sum(x) == 1]
        assert registry.find_fast_path(Mine(x, simplex), sst.Euclidean())[0] is halves
        for structure, reason in (
            (Narrower(x, simplex), "no fast path is registered for (Narrower, Euclidean)"),
            (Mine(y, [y >= 0, cp.sum(y) == 1]), "does not cover this instance"),
            (Mine(x, [x >= 0, cp.sum(x) == p]), "does not take hull parameters"),
        ):
            function, why = registry.find_fast_path(structure, sst.Euclidean())
            assert function is None
            assert reason in why


class _Garbage(SolverInterface):
    """A solver that returns what it was told to, whatever the problem."""

    canon_solver = cp.DIFFCP

    def __init__(self, value):
        self.value = value

    def setup(self, ctx):
        self.columns, self.rows = ctx.reduced_A.problem_data_index[2][1] - 1, ctx.reduced_A.problem_data_index[2][0]

    def solve_torch_batch(self, P, q, A, dims, solver_args, needs_grad):
        batch = q.shape[0]
        return q.new_full((batch, self.columns), self.value), q.new_zeros(batch, self.rows), None

    def derivative_torch_batch(self, dprimal, ddual, saved_state):
        raise AssertionError("never reached")


class TestGuard:
    @pytest.mark.parametrize("value", [0.0, 7.0, float("nan"), float("inf")])
    def test_solver_that_returns_garbage(self, value):
        soft = sst.SoftArgmax(pairs(), sst.Euclidean(), path="layer", solver=_Garbage(value))
        with pytest.raises(sst.SolveError, match="outside the hull") as caught:
            soft(torch.randn(2, 3, 6))
        assert len(caught.value.elements) == 6

    @pytest.mark.parametrize("value", [0.2, float("nan")])
    def test_garbage_with_parameters_and_cones(self, value):
        x, radius = cp.Variable(3), cp.Parameter(nonneg=True, name="radius")
        soft = sst.SoftArgmax(
            sst.Structure(x, [cp.norm(x) <= radius, x >= 0.5]), sst.Euclidean(), path="layer", solver=_Garbage(value)
        )
        with pytest.raises(sst.SolveError, match="outside the hull"):
            soft(torch.zeros(3), radius=torch.tensor(2.0))

    def test_capped_solver(self):
        for method, limit in (("Clarabel", "max_iter"), ("SCS", "max_iters")):
            soft = sst.SoftArgmax(
                pairs(),
                sst.BinaryEntropy(),
                path="layer",
                solver_options={"solve_method": method, limit: 2, "refine": 0},
            )
            with pytest.raises(sst.SolveError):
                soft(torch.randn(2, 6, dtype=torch.float64))

    def test_capped_moreau(self):
        pytest.importorskip("moreau")
        soft = sst.SoftArgmax(
            pairs(), sst.BinaryEntropy(), path="layer", solver="MOREAU", solver_options={"max_iter": 2}
        )
        with pytest.raises(sst.SolveError, match="Moreau did not solve batch elements 0, 1"):
            soft(torch.randn(2, 6))

    def test_fast_path_outside_the_hull(self, own_fast_path):
        soft = own_fast_path(lambda s, f, u: u.softmax(-1) * 1.01)
        with pytest.raises(sst.SolveError, match="outside the hull") as caught:
            soft(torch.zeros(2, 3))
        assert caught.value.elements == ((0,), (1,))

    def test_fast_path_that_changes_shape_or_dtype(self, own_fast_path):
        for wrong in (lambda s, f, u: u.softmax(-1).double(), lambda s, f, u: u.softmax(-1).sum(-1)):
            with pytest.raises(sst.SolveError, match="it must keep shape, dtype and device"):
                own_fast_path(wrong)(torch.zeros(2, 3))

    def test_wrong_gradient_of_the_layer(self, monkeypatch):
        soft = sst.SoftArgmax(pairs(), sst.Euclidean(), path="layer")
        true = DiffcpSolver._differentiate

        def wrong(self, dx, dy, state):
            dP, dc, dA, db = true(self, dx, dy, state)
            dc[1] *= -50
            return dP, dc, dA, db

        monkeypatch.setattr(DiffcpSolver, "_differentiate", wrong)
        u = torch.randn(3, 6, requires_grad=True)
        with pytest.raises(sst.SolveError, match="gradient is wrong for batch element 1"):
            soft(u).square().sum().backward()

    def test_message_names_the_unbatched_problem(self):
        soft = sst.SoftArgmax(pairs(), sst.Euclidean(), path="layer", solver=_Garbage(np.nan))
        with pytest.raises(sst.SolveError) as caught:
            soft(torch.zeros(6))
        assert caught.value.elements == ((),)


@pytest.fixture
def own_fast_path(monkeypatch):
    """A SoftArgmax over the simplex of three with the given function as its fast path."""

    def make(function):
        monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))

        class Simplex(sst.Structure):
            def __init__(self):
                x = cp.Variable(3)
                super().__init__(x, [x >= 0, cp.sum(x) == 1])

        sst.fast_path(Simplex, sst.CategoricalEntropy)(function)
        return sst.SoftArgmax(Simplex(), sst.CategoricalEntropy())

    return make
