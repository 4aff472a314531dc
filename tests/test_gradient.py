"""Gradients: closed forms, gradcheck, double backward, temperature, hull parameters, the layer."""

import cvxpy as cp
import pytest
import torch

import polytopes
import sst_cvx as sst
from tests.hulls import pairs
from tests.oracles import bisection, fast_pairs, pullback

SEPARABLE = [sst.Euclidean(), sst.CategoricalEntropy(), sst.BinaryEntropy(), sst.TsallisEntropy(1.5)]
SMOOTH = [
    (polytopes.OneHot(5), sst.BinaryEntropy()),
    (polytopes.OneHot(5), sst.TsallisEntropy(1.3)),
    (polytopes.KSubset(6, 2), sst.Euclidean()),
    (polytopes.KSubset(6, 2), sst.CategoricalEntropy()),
    (polytopes.KSubset(6, 2), sst.BinaryEntropy()),
    (polytopes.KSubset(6, 2), sst.TsallisEntropy(1.5)),
    (polytopes.KSubset(6, 2), sst.ExponentialFamilyEntropy()),
    (polytopes.KSubset(20, 10), sst.ExponentialFamilyEntropy()),
    (polytopes.Matching(3), sst.CategoricalEntropy()),
    (polytopes.Matching(3), sst.ExponentialFamilyEntropy()),
]


def vector_jacobian(soft, u, v, t):
    u = u.detach().clone().requires_grad_()
    return torch.autograd.grad((soft(u, t) * v).sum(), u)[0]


@pytest.mark.parametrize("t", [1.0, 0.3, 0.1])
@pytest.mark.parametrize("regularizer", SEPARABLE, ids=repr)
@pytest.mark.parametrize(("n", "k"), [(5, 1), (6, 2), (20, 5), (20, 19)])
def test_threshold_paths_against_the_closed_form(regularizer, n, k, t):
    u, v = torch.randn(2, 32, n, dtype=torch.float64)
    name = type(regularizer).__name__
    x = bisection(u / t, k, name)
    g = vector_jacobian(sst.SoftArgmax(polytopes.KSubset(n, k), regularizer), u, v, t)
    assert (t * g - pullback(x, v, name)).abs().max() < 1e-7


@pytest.mark.parametrize(("structure", "t"), [(polytopes.KSubset(6, 2), 0.1), (polytopes.Matching(4), 0.1)], ids=repr)
def test_exponential_family_jacobian_is_the_covariance(structure, t):
    u, v = torch.randn(2, 8, *structure.event_shape, dtype=torch.float64)
    points = structure.vertices().flatten(1)
    p = ((u / t).flatten(1) @ points.T).softmax(-1)
    mean = p @ points
    along = (points[None] - mean[:, None]) @ v.flatten(1)[..., None]
    expected = (p[..., None] * along * (points[None] - mean[:, None])).sum(1)
    g = vector_jacobian(sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy()), u, v, t)
    assert (t * g.flatten(1) - expected).abs().max() < 1e-7


@pytest.mark.parametrize("t", [1.0, 0.3, 0.1, 0.01])
def test_matching_of_two_in_closed_form(t):
    """x_11 = sigmoid((u_11 + u_22 - u_12 - u_21) / 2t)."""
    u = torch.randn(16, 2, 2, dtype=torch.float64, requires_grad=True)
    x = sst.SoftArgmax(polytopes.Matching(2), sst.CategoricalEntropy())(u, t)
    exact = torch.sigmoid((u[:, 0, 0] + u[:, 1, 1] - u[:, 0, 1] - u[:, 1, 0]) / (2 * t))
    assert (x[:, 0, 0] - exact).abs().max() < 1e-9
    (g,), (h,) = (torch.autograd.grad(y.sum(), u, retain_graph=True) for y in (x[:, 0, 0], exact))
    assert (t * (g - h)).abs().max() < 1e-7


@pytest.mark.parametrize(("structure", "regularizer"), SMOOTH, ids=repr)
def test_gradcheck_twice(structure, regularizer):
    soft = sst.SoftArgmax(structure, regularizer)
    u = torch.randn(2, *structure.event_shape, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.7, 1.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(soft, (u, t))
    assert torch.autograd.gradgradcheck(soft, (u, t))


@pytest.mark.parametrize(("structure", "regularizer"), fast_pairs(), ids=repr)
def test_jacobian_is_symmetric_positive_semidefinite(structure, regularizer):
    soft = sst.SoftArgmax(structure, regularizer)
    u = torch.randn(structure.event_shape, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(soft, u).reshape(u.numel(), u.numel())
    assert torch.allclose(jacobian, jacobian.T, atol=1e-12)
    assert torch.linalg.eigvalsh(jacobian).min() > -1e-12


def test_forward_mode_and_vmap_of_the_kernels():
    """Jacobians are symmetric, so forward mode is the backward's formula; vmap adds a batch dimension."""
    from polytopes.kernels.sinkhorn import doubly_stochastic
    from polytopes.kernels.threshold import threshold_map

    for function, shape in (
        (lambda u: threshold_map(u, 2, sst.BinaryEntropy()), (6,)),
        (doubly_stochastic, (3, 3)),
        (polytopes.KSubset(6, 2).log_partition, (6,)),
    ):
        u, d = torch.randn(2, 4, *shape, dtype=torch.float64)
        assert torch.allclose(torch.func.vmap(function)(u), function(u), atol=1e-12)
        if function(u).shape == u.shape:
            _, forward = torch.func.jvp(function, (u,), (d,))
            _, pull = torch.func.vjp(function, u)
            assert torch.allclose(forward, pull(d)[0], atol=1e-10)


class TestLayer:
    @pytest.mark.parametrize("regularizer", SEPARABLE[:3], ids=repr)
    def test_within_1e_5_at_temperature_1(self, regularizer):
        u, v = torch.randn(2, 16, 20, dtype=torch.float64)
        name = type(regularizer).__name__
        layer = sst.SoftArgmax(polytopes.KSubset(20, 5), regularizer, path="layer")
        assert (vector_jacobian(layer, u, v, 1.0) - pullback(bisection(u, 5, name), v, name)).abs().max() < 1e-5

    @pytest.mark.parametrize("t", [0.3, 0.1])
    @pytest.mark.parametrize("regularizer", SEPARABLE[:3], ids=repr)
    def test_low_temperatures(self, regularizer, t):
        """Beyond the promise: plain cvxpylayers is off by up to 2e-3 here, and by up to 1e4 when solved tightly."""
        u, v = torch.randn(2, 16, 20, dtype=torch.float64)
        name = type(regularizer).__name__
        layer = sst.SoftArgmax(polytopes.KSubset(20, 5), regularizer, path="layer")
        expected = pullback(bisection(u / t, 5, name), v, name)
        assert (t * vector_jacobian(layer, u, v, t) - expected).abs().max() < 1e-4

    def test_redundant_equalities(self):
        """Row and column sums of a doubly stochastic matrix depend on one another."""
        layer = sst.SoftArgmax(polytopes.Matching(3), sst.CategoricalEntropy(), path="layer")
        u, v = torch.randn(2, 8, 3, 3, dtype=torch.float64)
        fast = sst.SoftArgmax(polytopes.Matching(3), sst.CategoricalEntropy())
        assert (vector_jacobian(layer, u, v, 1.0) - vector_jacobian(fast, u, v, 1.0)).abs().max() < 1e-5

    @pytest.mark.parametrize("regularizer", SEPARABLE, ids=repr)
    def test_implicit_equalities(self, regularizer):
        """sum x = 1 said twice by inequalities, and x_0 = 0 by x_0 <= 0: the simplex of the others."""
        x = cp.Variable(4)
        hull = [x >= 0, x <= 1, cp.sum(x) <= 1, cp.sum(x) >= 1, x[0] <= 0, 2 * cp.sum(x) <= 2]
        layer = sst.SoftArgmax(sst.Structure(x, hull), regularizer)
        fast = sst.SoftArgmax(polytopes.OneHot(3), regularizer)
        u, v = torch.randn(2, 8, 4, dtype=torch.float64)
        for t in (1.0, 0.3):
            y = layer(u, t)
            assert (y[:, 0].abs() < 1e-9).all()
            assert (y[:, 1:] - fast(u[:, 1:], t)).abs().max() < 1e-6
            g = vector_jacobian(layer, u, v, t)
            assert (g[:, 0].abs() < 1e-6).all()
            assert (g[:, 1:] - vector_jacobian(fast, u[:, 1:], v[:, 1:], t)).abs().max() < 1e-4

    def test_implicit_equalities_of_a_matrix_with_auxiliary_variables(self):
        """Doubly stochastic through a flow, by inequalities alone; a forbidden entry."""
        x, flow = cp.Variable((3, 3)), cp.Variable((3, 3))
        hull = [flow >= 0, x == flow, x[0, 2] <= 0]
        hull += [sum_ <= 1 for sum_ in (cp.sum(flow, axis=0), cp.sum(flow, axis=1))] + [cp.sum(flow) >= 3]
        layer = sst.SoftArgmax(sst.Structure(x, hull), sst.CategoricalEntropy())
        u, v = torch.randn(2, 4, 3, 3, dtype=torch.float64)
        forbidden = torch.zeros(3, 3, dtype=torch.float64)
        forbidden[0, 2] = -200
        fast = sst.SoftArgmax(polytopes.Matching(3), sst.CategoricalEntropy())
        assert (layer(u) - fast(u + forbidden)).abs().max() < 1e-6
        difference = vector_jacobian(layer, u, v, 1.0) - vector_jacobian(fast, u + forbidden, v, 1.0)
        assert difference.abs().max() < 1e-5

    def test_hull_parameter(self):
        """sum x <= capacity, Euclidean, active, no bound active: dx_i / dcapacity = 1 / n."""
        x, capacity = cp.Variable(4), cp.Parameter(nonneg=True, name="capacity")
        soft = sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) <= capacity]), sst.Euclidean())
        u = torch.tensor([[0.9, 1.0, 1.1, 1.2]] * 2, dtype=torch.float64, requires_grad=True)
        c = torch.tensor([2.0, 2.2], dtype=torch.float64, requires_grad=True)
        y = soft(u, 1.0, capacity=c)
        assert torch.allclose(y.sum(-1), c)
        (g,) = torch.autograd.grad(y[:, 0].sum(), c)
        assert torch.allclose(g, torch.full((2,), 0.25, dtype=torch.float64), atol=1e-7)

    def test_matrix_parameter_by_differences(self):
        x, A = cp.Variable(3), cp.Parameter((2, 3), name="A", nonneg=True)
        soft = sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= 1, A @ x <= 1]), sst.Euclidean())
        a = torch.rand(2, 3, dtype=torch.float64) + 0.5
        u, v = torch.randn(2, 3, dtype=torch.float64)
        u = u + 1
        leaf = a.clone().requires_grad_()
        (g,) = torch.autograd.grad(soft(u, 1.0, A=leaf) @ v, leaf)
        d, h = torch.randn(2, 3, dtype=torch.float64), 1e-4
        ahead, behind = (soft(u, 1.0, A=a + s * h * d) @ v for s in (1, -1))
        assert abs((g * d).sum() - (ahead - behind) / (2 * h)) < 1e-6

    def test_temperature_a_batch_element(self):
        layer = sst.SoftArgmax(pairs(), sst.BinaryEntropy())
        u = torch.randn(3, 6, dtype=torch.float64)
        t = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
        y = layer(u, t)
        for i in range(3):
            assert torch.allclose(y[i], layer(u[i], t[i].detach()), atol=1e-6)
        (g,) = torch.autograd.grad(y[:, 0].sum(), t)
        h = 1e-3
        difference = (layer(u, t.detach() + h) - layer(u, t.detach() - h))[:, 0] / (2 * h)
        assert torch.allclose(g, difference, atol=1e-4)

    def test_no_gradient_wanted(self):
        layer = sst.SoftArgmax(pairs(), sst.Euclidean())
        with torch.no_grad():
            assert not layer(torch.randn(2, 6, requires_grad=True)).requires_grad
        assert not layer(torch.randn(2, 6)).requires_grad


class TestMoreau:
    """The adapter against diffcp; skipped where Moreau is not installed."""

    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("moreau")

    @pytest.mark.parametrize("seed", range(6))
    def test_agrees_on_random_polytopes(self, seed):
        """Sign constraints, bounds and equalities, some of them redundant."""
        generator = torch.Generator().manual_seed(seed)
        n, rows = 8, 3
        A = torch.rand(rows, n, generator=generator, dtype=torch.float64)
        inside = 0.2 + 0.6 * torch.rand(n, generator=generator, dtype=torch.float64)
        x = cp.Variable(n)
        e = torch.randn(n, generator=generator, dtype=torch.float64)
        constraints = [x >= 0, x[:4] <= 1, x[4:] <= 2, A.numpy() @ x <= (A @ inside).numpy() + 0.1]
        constraints += [e.numpy() @ x == float(e @ inside), 2 * e.numpy() @ x == 2 * float(e @ inside)]
        structure = sst.Structure(x, constraints)
        u, v = torch.randn(2, 5, n, generator=generator, dtype=torch.float64)
        for regularizer in (sst.Euclidean(), sst.CategoricalEntropy()):
            ours, theirs = (sst.SoftArgmax(structure, regularizer, solver=s) for s in ("DIFFCP", "MOREAU"))
            assert (ours(u) - theirs(u)).abs().max() < 2e-5
            g, h = (vector_jacobian(s, u, v, 1.0) for s in (ours, theirs))
            assert (g - h).abs().max() < 1e-3
            assert float(theirs(u).min()) > -1e-6  # no sign constraint was dropped
