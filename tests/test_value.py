"""Values of the soft argmax against independent references."""

from unittest import mock

import cvxpy as cp
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import polytopes
import sst_cvx as sst
from sst_cvx.paths.layer.path import LayerPath
from tests.hulls import pairs
from tests.oracles import bisection, fast_pairs, truth

TEMPERATURES = (1.0, 0.3, 0.1)


@pytest.mark.parametrize("t", TEMPERATURES)
@pytest.mark.parametrize(("structure", "regularizer"), fast_pairs(), ids=repr)
def test_fast_paths_within_1e_9(structure, regularizer, t):
    if isinstance(regularizer, sst.ExponentialFamilyEntropy) and structure == polytopes.KSubset(20, 5):
        t = max(t, 0.3)  # 15504 vertices: the enumeration itself loses digits below
    u = torch.randn(32, *structure.event_shape, dtype=torch.float64)
    soft = sst.SoftArgmax(structure, regularizer)
    assert soft.path == "fast"
    assert (soft(u, t) - truth(structure, regularizer, u / t)).abs().max() < 1e-9


@pytest.mark.parametrize("regularizer", [sst.Euclidean(), sst.CategoricalEntropy(), sst.BinaryEntropy()], ids=repr)
def test_layer_within_1e_6_at_temperature_1(regularizer):
    structure = polytopes.KSubset(20, 5)
    u = torch.randn(16, 20, dtype=torch.float64)
    layer = sst.SoftArgmax(structure, regularizer, path="layer")
    assert (layer(u) - bisection(u, 5, type(regularizer).__name__)).abs().max() < 1e-6


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(2, 12),
    data=st.data(),
    name=st.sampled_from(["Euclidean", "CategoricalEntropy", "BinaryEntropy", "TsallisEntropy"]),
    scale=st.sampled_from([1e-6, 1.0, 30.0, 1e4]),
)
def test_k_subset_on_any_input(n, data, name, scale):
    k = data.draw(st.integers(0, n))
    values = st.floats(-1, 1, allow_nan=False, width=32) | st.sampled_from([0.0, 0.5, -0.5])
    u = scale * torch.tensor(data.draw(st.lists(values, min_size=n, max_size=n)), dtype=torch.float64)
    x = sst.SoftArgmax(polytopes.KSubset(n, k), getattr(sst, name)())(u)
    assert (x - bisection(u[None], k, name)[0]).abs().max() < 1e-9


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 6), t=st.sampled_from([1.0, 0.1, 0.01, 0.001]), data=st.data())
def test_matching_is_doubly_stochastic_and_optimal(n, t, data):
    flat = data.draw(st.lists(st.integers(-3, 3), min_size=n * n, max_size=n * n))
    u = torch.tensor(flat, dtype=torch.float64).reshape(n, n)
    soft = sst.SoftArgmax(polytopes.Matching(n), sst.CategoricalEntropy())
    x = soft(u, t)
    ones = torch.ones(n, dtype=torch.float64)
    assert torch.allclose(x.sum(0), ones, atol=1e-9)
    assert torch.allclose(x.sum(1), ones, atol=1e-9)
    if t >= 0.1:
        assert soft.gap(u, x, t) < 1e-9


class TestPropositions:
    """Paulus et al. (2020), section 3 and appendix."""

    @pytest.mark.parametrize("t", TEMPERATURES)
    @pytest.mark.parametrize("regularizer", [sst.CategoricalEntropy(), sst.ExponentialFamilyEntropy()], ids=repr)
    def test_one_hot_is_softmax(self, regularizer, t):
        u = torch.randn(7, 9)
        x = sst.SoftArgmax(polytopes.OneHot(9), regularizer)(u, t)
        assert torch.equal(x, torch.nn.functional.softmax(u / t, dim=-1))

    def test_one_hot_by_the_layer_is_softmax(self):
        u = torch.randn(7, 9, dtype=torch.float64)
        x = sst.SoftArgmax(polytopes.OneHot(9), sst.CategoricalEntropy(), path="layer")(u)
        assert torch.allclose(x, u.softmax(-1), atol=1e-7)

    @pytest.mark.parametrize(("structure", "regularizer"), fast_pairs(), ids=repr)
    def test_limit_of_low_temperatures_is_the_argmax(self, structure, regularizer):
        u = torch.randn(8, *structure.event_shape, dtype=torch.float64)
        hard = structure.argmax(u)
        far, near = ((sst.SoftArgmax(structure, regularizer)(u, t) - hard).abs().amax() for t in (1.0, 1e-4))
        assert near <= far
        assert near < 0.05

    @pytest.mark.parametrize(("structure", "regularizer"), fast_pairs(), ids=repr)
    def test_limit_of_high_temperatures_ignores_the_utilities(self, structure, regularizer):
        soft = sst.SoftArgmax(structure, regularizer)
        u = torch.randn(2, *structure.event_shape, dtype=torch.float64)
        assert torch.allclose(soft(u[0], 1e9), soft(u[1], 1e9), atol=1e-8)

    @pytest.mark.parametrize(("structure", "regularizer"), fast_pairs(), ids=repr)
    def test_lipschitz(self, structure, regularizer):
        """|X_t(u) - X_t(u')| <= |u - u'| / (t m)."""
        soft, t = sst.SoftArgmax(structure, regularizer), 0.3
        a, b = torch.randn(2, 50, *structure.event_shape, dtype=torch.float64)
        if isinstance(regularizer, sst.ExponentialFamilyEntropy) and len(structure.vertices()) > 1000:
            pytest.skip("the modulus of A* asks for distances between all vertices")
        modulus = regularizer.strong_convexity(structure)
        moved = (soft(a, t) - soft(b, t)).flatten(1).norm(dim=1)
        assert bool((moved * t * modulus <= (a - b).flatten(1).norm(dim=1) * (1 + 1e-9)).all())

    @pytest.mark.parametrize("alpha", [1.1, 1.5, 1.9, 2.0])
    def test_tsallis_reaches_euclidean_and_categorical(self, alpha):
        """alpha = 2 is Euclidean where sum x is constant; alpha -> 1 is categorical."""
        structure, u = polytopes.KSubset(8, 3), torch.randn(5, 8, dtype=torch.float64)
        x = sst.SoftArgmax(structure, sst.TsallisEntropy(alpha))(u)
        if alpha == 2.0:
            assert torch.allclose(x, sst.SoftArgmax(structure, sst.Euclidean())(u), atol=1e-12)
        near_one = sst.SoftArgmax(structure, sst.TsallisEntropy(1.0001))(u)
        assert torch.allclose(near_one, sst.SoftArgmax(structure, sst.CategoricalEntropy())(u), atol=1e-3)


class TestPaths:
    def test_fast_never_calls_the_layer(self):
        with mock.patch.object(LayerPath, "__init__", side_effect=AssertionError("layer compiled")):
            soft = sst.SoftArgmax(polytopes.KSubset(6, 2), sst.Euclidean())
            soft(torch.randn(6))

    def test_layer_never_calls_the_fast_path(self):
        with mock.patch("polytopes.k_subset.threshold_map", side_effect=AssertionError("fast path called")):
            sst.SoftArgmax(polytopes.KSubset(6, 2), sst.Euclidean(), path="layer")(torch.randn(6))

    def test_declared_polytopes_go_by_the_interior_point_path(self):
        soft = sst.SoftArgmax(pairs(), sst.Euclidean())
        assert soft.path == "interior_point"
        assert "no fast path is registered for (Structure, Euclidean)" in repr(soft)
        with mock.patch.object(LayerPath, "__init__", side_effect=AssertionError("layer compiled")):
            soft(torch.randn(6))

    def test_other_pairs_go_by_the_layer(self):
        own = sst.Regularizer(lambda x: cp.sum_squares(x) + cp.sum(cp.exp(x)))
        soft = sst.SoftArgmax(pairs(), own)
        assert soft.path == "layer"
        assert "is not separable" in repr(soft)
        x = cp.Variable(3)
        assert "other cones" in repr(sst.SoftArgmax(sst.Structure(x, [cp.norm(x) <= 1]), sst.Euclidean()))

    def test_reference_is_the_layer(self):
        soft = sst.SoftArgmax(polytopes.KSubset(6, 2), sst.Euclidean())
        assert soft.reference().path == "layer"

    def test_gap_is_zero_only_at_the_solution(self):
        soft = sst.SoftArgmax(polytopes.KSubset(6, 2), sst.BinaryEntropy())
        u = torch.randn(4, 6, dtype=torch.float64)
        x = soft(u, 0.5)
        assert soft.gap(u, x, 0.5).abs().max() < 1e-12
        centre = torch.full_like(x, 1 / 3)
        moved = soft.gap(u, 0.9 * x + 0.1 * centre, 0.5)
        # the certificate: t m / 2 |x - X|^2 <= gap, with m = 4 for the binary entropy
        assert bool((0.5 * 4 / 2 * (0.1 * (x - centre)).square().sum(-1) <= moved).all())

    def test_own_regularizer(self):
        """1/2 |x|^2 written by hand is Euclidean."""
        own = sst.Regularizer(lambda x: 0.5 * cp.sum_squares(x), value=lambda x: 0.5 * (x * x).sum(-1))
        structure, u = polytopes.KSubset(6, 2), torch.randn(3, 6, dtype=torch.float64)
        soft = sst.SoftArgmax(structure, own)
        assert soft.path == "layer"
        assert torch.allclose(soft(u), sst.SoftArgmax(structure, sst.Euclidean())(u), atol=1e-6)
        assert soft.gap(u, soft(u)).max() < 1e-6

    def test_own_nonseparable_regularizer(self):
        """A quadratic form: on R^n the soft argmax would solve Q x = u / t; a wide box keeps that inside."""
        Q = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
        x = cp.Variable(2)
        box = sst.Structure(x, [x >= -100, x <= 100])
        u = torch.randn(3, 2, dtype=torch.float64)
        for solver in ("DIFFCP", "MOREAU"):
            if solver == "MOREAU":
                pytest.importorskip("moreau")
            soft = sst.SoftArgmax(box, sst.Regularizer(lambda x: 0.5 * cp.quad_form(x, Q.numpy())), solver=solver)
            assert torch.allclose(soft(u, 0.5), torch.linalg.solve(Q, u.T / 0.5).T, atol=1e-6)

    def test_second_order_and_semidefinite_hulls(self):
        """Euclidean soft argmax over a ball is the projection; over the spectraplex, sparsemax of the eigenvalues."""
        x = cp.Variable(3)
        u = 2 * torch.randn(4, 3, dtype=torch.float64)
        projected = u / u.norm(dim=-1, keepdim=True).clamp(min=1)
        assert torch.allclose(
            sst.SoftArgmax(sst.Structure(x, [cp.norm(x) <= 1]), sst.Euclidean())(u), projected, atol=1e-6
        )
        m = cp.Variable((3, 3), PSD=True)
        spectraplex = sst.Structure(m, [cp.trace(m) == 1])
        s = torch.randn(2, 3, 3, dtype=torch.float64)
        s = s + s.mT
        values, vectors = torch.linalg.eigh(s)
        sparse = sst.SoftArgmax(polytopes.OneHot(3), sst.Euclidean())(values)
        expected = vectors @ torch.diag_embed(sparse) @ vectors.mT
        assert torch.allclose(sst.SoftArgmax(spectraplex, sst.Euclidean())(s), expected, atol=1e-5)

    def test_exponential_family_by_the_layer_with_auxiliary_variables(self):
        """The program over vertices leaves the flow variable out; linear hull and second-order cone alike."""

        class Simplex(sst.Structure):
            def vertices(self):
                return torch.eye(3, dtype=torch.float64)

        u = torch.randn(4, 3, dtype=torch.float64)
        x, flow = cp.Variable(3), cp.Variable(3)
        simplex = [flow >= 0, cp.sum(flow) == 1, x == flow]
        for extra in ([], [cp.norm(x) <= 1, cp.norm(flow) <= 1]):
            soft = sst.SoftArgmax(Simplex(x, simplex + extra), sst.ExponentialFamilyEntropy())
            assert soft.path == "layer"
            assert torch.allclose(soft(u), u.softmax(-1), atol=1e-6)
