"""The active-set path: against other paths, brute force over faces, and structures known by their argmax alone."""

import cvxpy as cp
import networkx as nx
import pytest
import torch

import polytopes
import sst_cvx as sst
from sst_cvx.paths.active_set import min_norm_point as active_set
from tests.hulls import grid_paths, pairs
from tests.oracles import bisection, not_nearest, pullback

EUCLIDEAN = sst.Euclidean()
DIAMOND = torch.tensor([[0, 0, 1, 1, 2, 3, 1, 5], [1, 2, 2, 3, 3, 4, 4, 4]])
KITE = torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 0, 2]])
STRUCTURES = [
    polytopes.OneHot(5),
    polytopes.KSubset(6, 2),
    polytopes.KSubset(20, 7),
    polytopes.AtMostKSubset(5, 2),
    polytopes.Hypercube(4),
    polytopes.Matching(4),
    polytopes.SpanningTree(5),
    polytopes.SpanningTree(KITE),
    polytopes.Path(DIAMOND, 0, 4),
    polytopes.Segment(6, 2, 3),
    pairs(),  # by HiGHS
]
SMALL = [s for s in STRUCTURES if s.event_shape != (20,) and s.has_vertices()]


def by_active_set(structure, regularizer=EUCLIDEAN):
    soft = sst.SoftArgmax(structure, regularizer, path="active_set")
    assert soft.path == "active_set"
    return soft


def pull(soft, u, v, t):
    u = u.detach().clone().requires_grad_()
    return torch.autograd.grad((soft(u, t) * v).sum(), u)[0]


@pytest.mark.parametrize("t", [1.0, 0.3, 0.03])
@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
def test_against_the_interior_point(structure, t):
    u, v = torch.randn(2, 16, *structure.event_shape, dtype=torch.float64)
    soft, other = by_active_set(structure), sst.SoftArgmax(structure, EUCLIDEAN, path="interior_point")
    assert (soft(u, t) - other(u, t)).abs().max() < 1e-9
    assert t * (pull(soft, u, v, t) - pull(other, u, v, t)).abs().max() < 1e-7


@pytest.mark.parametrize("t", [1.0, 0.1])
@pytest.mark.parametrize(("n", "k"), [(5, 1), (20, 5), (100, 40)])
def test_against_the_closed_form(n, k, t):
    u, v = torch.randn(2, 8, n, dtype=torch.float64)
    soft, x = by_active_set(polytopes.KSubset(n, k)), bisection(u / t, k, "Euclidean")
    assert (soft(u, t) - x).abs().max() < 1e-9
    assert (t * pull(soft, u, v, t) - pullback(x, v, "Euclidean")).abs().max() < 1e-7


@pytest.mark.parametrize("structure", SMALL, ids=repr)
def test_against_brute_force(structure):
    """Wherever the utilities are: inside the hull, at ties, all zero, far out."""
    points = structure.vertices().flatten(1)
    u = torch.randn(6, points.shape[1], dtype=torch.float64)
    inside = torch.rand(6, len(points), dtype=torch.float64).softmax(1) @ points
    batches = (u, u.round(), torch.sign(u), torch.zeros_like(u), torch.ones_like(u), inside, 1e4 * u, 1 + 1e-9 * u)
    for y in batches:
        x = by_active_set(structure)(y.reshape(-1, *structure.event_shape)).flatten(1)
        outside, gain = not_nearest(points, y, x)
        assert outside < 1e-9
        assert gain < 1e-12 * (1 + y.abs().max())
    assert (by_active_set(structure)(inside.reshape(-1, *structure.event_shape)).flatten(1) - inside).abs().max() < 1e-9


def test_large_trees_are_certified():
    structure = polytopes.SpanningTree(14)
    soft, u = sst.SoftArgmax(structure, EUCLIDEAN), torch.randn(4, 91, dtype=torch.float64)
    assert soft.path == "active_set"
    assert "SpanningTree.argmax" in repr(soft)
    assert soft.gap(u, soft(u)).abs().max() < 1e-12


class TestGradient:
    """The corral must span the face of the solution, also where the solution needs fewer vertices."""

    def jacobian(self, soft, u):
        n = u.numel()
        return torch.autograd.functional.jacobian(soft, u).reshape(n, n)

    @pytest.mark.parametrize(("n", "k"), [(6, 2), (6, 3), (8, 4), (30, 10)])
    def test_all_equal(self, n, k):
        """x = k / n is a mixture of n / k disjoint subsets, but the face is everything: I - 11' / n."""
        u = torch.zeros(n, dtype=torch.float64)
        expected = torch.eye(n, dtype=torch.float64) - 1 / n
        assert (self.jacobian(by_active_set(polytopes.KSubset(n, k)), u) - expected).abs().max() < 1e-9

    def test_all_equal_on_trees(self):
        expected = torch.eye(10, dtype=torch.float64) - 1 / 10
        soft = by_active_set(polytopes.SpanningTree(5))
        assert (self.jacobian(soft, torch.zeros(10, dtype=torch.float64)) - expected).abs().max() < 1e-9

    def test_ties_on_a_face(self):
        """Two chosen for sure, two never, four share one place."""
        u = torch.tensor([9, 9, -9, -9, 1, 1, 1, 1], dtype=torch.float64)
        expected = torch.zeros(8, 8, dtype=torch.float64)
        expected[4:, 4:] = torch.eye(4) - 1 / 4
        assert (self.jacobian(by_active_set(polytopes.KSubset(8, 3)), u) - expected).abs().max() < 1e-9

    def test_utilities_inside_the_hull(self):
        inside = torch.full((2, 2), 0.5, dtype=torch.float64)
        jacobian = self.jacobian(by_active_set(polytopes.Matching(2)), inside)
        d = torch.tensor([1.0, -1, -1, 1], dtype=torch.float64) / 2
        assert (jacobian - torch.outer(d, d)).abs().max() < 1e-9

    @pytest.mark.parametrize("structure", SMALL, ids=repr)
    def test_a_projector_even_at_kinks(self, structure):
        for u in (torch.zeros(structure.event_shape), torch.randn(structure.event_shape).round()):
            jacobian = self.jacobian(by_active_set(structure), u.double())
            assert torch.allclose(jacobian, jacobian.T, atol=1e-9)
            assert torch.allclose(jacobian @ jacobian, jacobian, atol=1e-9)

    @pytest.mark.parametrize("structure", [polytopes.SpanningTree(4), polytopes.Matching(3), pairs()], ids=repr)
    @pytest.mark.parametrize("weighted", [False, True])
    def test_gradcheck_twice(self, structure, weighted):
        weights = 0.5 + torch.rand(structure.event_shape, dtype=torch.float64) if weighted else None
        soft = by_active_set(structure, sst.Euclidean(weights=weights))
        u = torch.randn(2, *structure.event_shape, dtype=torch.float64, requires_grad=True)
        t = torch.tensor([0.7, 1.3], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(soft, (u, t))
        assert torch.autograd.gradgradcheck(soft, (u, t))

    def test_no_probes_without_a_gradient(self, monkeypatch):
        def fail(*arguments):
            raise AssertionError("the face was explored")

        monkeypatch.setattr(active_set, "_complete_face", fail)
        soft, u = by_active_set(polytopes.KSubset(5, 2)), torch.randn(3, 5)
        soft(u)
        leaf = u.clone().requires_grad_()
        sst.FenchelYoungLoss(soft)(leaf, soft.structure.argmax(u)).sum().backward()  # its gradient is x itself
        x = soft(leaf)
        with pytest.raises(AssertionError, match="explored"):
            x.sum().backward()


@pytest.mark.parametrize("t", [1.0, 0.1])
def test_weights(t):
    structure, weights = polytopes.SpanningTree(5), 0.1 + 3 * torch.rand(10)
    u, v = torch.randn(2, 8, 10, dtype=torch.float64)
    regularizer = sst.Euclidean(weights=weights)
    soft, other = by_active_set(structure, regularizer), sst.SoftArgmax(structure, regularizer, path="interior_point")
    assert (soft(u, t) - other(u, t)).abs().max() < 1e-9
    assert t * (pull(soft, u, v, t) - pull(other, u, v, t)).abs().max() < 1e-7


def test_shapes_and_dtypes(batch_shape, dtype):
    structure = polytopes.Matching(3)
    u = torch.randn(*batch_shape, 3, 3).to(dtype)
    soft = by_active_set(structure)
    x = soft(u, 0.5)
    assert (x.shape, x.dtype) == (u.shape, dtype)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6}.get(dtype, 1e-2)
    assert torch.allclose(x.double(), soft(u.double(), 0.5), atol=tolerance)


def test_units_and_places_of_vertices():
    """The set may be large, small or far from the origin: x = centre + size * (one-hot)."""
    for size, centre in ((1e4, 0.0), (1e-4, 0.0), (1.0, 1e3)):
        shifted = sst.Structure.from_argmax(4, lambda u, s=size, c=centre: c + s * polytopes.OneHot(4).argmax(u))
        u = size * torch.randn(5, 4, dtype=torch.float64)
        expected = centre + size * bisection((u - centre) / size, 1, "Euclidean")
        assert (sst.SoftArgmax(shifted, EUCLIDEAN)(u) - expected).abs().max() < 1e-9 * (size + centre)


def test_loose_hull_is_projected_on_the_set_itself():
    """The odd cycle: nearest to (1/2, ..., 1/2) in conv(X) is (2/5, ..., 2/5)."""
    x = cp.Variable(5)
    cycle = [x[i] + x[(i + 1) % 5] <= 1 for i in range(5)]
    structure = sst.Structure(x, [x >= 0, *cycle], integral=False)
    half = torch.full((5,), 0.5, dtype=torch.float64)
    assert torch.allclose(by_active_set(structure)(half), 0.8 * half, atol=1e-9)
    assert sst.SoftArgmax(structure, EUCLIDEAN).path == "interior_point"


class TestRefusals:
    def test_not_euclidean(self):
        with pytest.raises(ValueError, match=r"path='active_set' does not apply: BinaryEntropy\(\) is not Euclidean"):
            sst.SoftArgmax(polytopes.KSubset(4, 2), sst.BinaryEntropy(), path="active_set")

    def test_hull_parameters(self):
        x, k = cp.Variable(3), cp.Parameter(nonneg=True, name="k")
        with pytest.raises(ValueError, match="the hull has parameters"):
            sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) == k]), EUCLIDEAN, path="active_set")

    def test_other_cones(self):
        x = cp.Variable(3)
        with pytest.raises(ValueError, match="the hull is not a polytope"):
            sst.SoftArgmax(sst.Structure(x, [cp.norm(x) <= 1]), EUCLIDEAN, path="active_set")


def heavy_edges(u):
    """Maximum spanning trees of the complete graph on 5 vertices, by networkx, one after another."""
    x = torch.zeros_like(u)
    pairs_of = polytopes.SpanningTree(5).edge_index.T.tolist()
    for row, tree in zip(u.reshape(-1, 10), x.view(-1, 10), strict=True):
        graph = nx.Graph()
        graph.add_weighted_edges_from([(i, j, w) for (i, j), w in zip(pairs_of, row.tolist(), strict=True)])
        for i, j in nx.maximum_spanning_tree(graph).edges:
            tree[pairs_of.index([min(i, j), max(i, j)])] = 1.0
    return x


class TestFromArgmax:
    def test_equals_the_structure_with_a_hull(self):
        u, v = torch.randn(2, 4, 10, dtype=torch.float64)
        declared = sst.SoftArgmax(sst.Structure.from_argmax(10, heavy_edges), EUCLIDEAN)
        assert declared.path == "active_set"
        other = sst.SoftArgmax(polytopes.SpanningTree(5), EUCLIDEAN, path="interior_point")
        assert (declared(u, 0.5) - other(u, 0.5)).abs().max() < 1e-9
        assert (pull(declared, u, v, 0.5) - pull(other, u, v, 0.5)).abs().max() < 1e-7

    def test_certified_without_a_hull(self):
        structure = sst.Structure.from_argmax((3, 3), lambda u: polytopes.Matching(3).argmax(u))
        report = sst.check(structure, verbose=False)
        report.raise_if_failed()
        passed = {r.name.split(": ")[-1] for r in report.results if r.ok}
        assert {
            "argmax is a best element of X",
            "optimality gap, t=0.1",
            "gradient = differences, t=1",
            "projection",
        } <= (passed)

    def test_training(self):
        """Learn utilities whose soft argmax is a given tree's path through noise."""
        torch.manual_seed(1)
        soft = sst.SoftArgmax(sst.Structure.from_argmax(5, lambda u: polytopes.KSubset(5, 2).argmax(u)), EUCLIDEAN)
        u, target = torch.zeros(5, requires_grad=True), torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0])
        optimizer = torch.optim.SGD([u], lr=0.5)
        losses = []
        for _ in range(30):
            optimizer.zero_grad()
            loss = ((soft(u + 0.1 * torch.randn(8, 5)) - target) ** 2).sum(-1).mean()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.05 * losses[0]

    def test_what_needs_a_hull_is_refused(self):
        structure = sst.Structure.from_argmax(5, lambda u: polytopes.KSubset(5, 2).argmax(u))
        soft = sst.SoftArgmax(structure, EUCLIDEAN)
        hint = r"use Euclidean\(\), which path='active_set' answers"
        for call in (
            soft.reference,
            lambda: sst.SoftArgmax(structure, EUCLIDEAN, path="layer"),
            lambda: sst.SoftArgmax(structure, sst.BinaryEntropy()),
            lambda: structure.declared_hull,
        ):
            with pytest.raises(ValueError, match=hint):
                call()
        with pytest.raises(ValueError, match="no hull, which the interior-point path needs"):
            sst.SoftArgmax(structure, EUCLIDEAN, path="interior_point")
        with pytest.raises(TypeError, match="subclass that overrides argmax"):
            sst.Structure(cp.Variable(3), None)

    @pytest.mark.parametrize(
        ("argmax", "error", "message"),
        [
            (None, TypeError, "argmax must be a function"),
            (lambda u: u.tolist(), TypeError, "must return a tensor of the dtype"),
            (lambda u: u.float(), TypeError, r"got torch\.float32"),
            (lambda u: u.reshape(-1, 3)[:1], ValueError, "must return the shape of the utilities"),
            (lambda u: u / 0, ValueError, "what argmax returned must be finite"),
            (lambda u: polytopes.OneHot(3).argmax(-u), ValueError, "argmax is not a maximiser"),
        ],
    )
    def test_bad_functions(self, argmax, error, message):
        with pytest.raises(error, match=message):
            sst.Structure.from_argmax(3, argmax)

    def test_bad_shapes(self):
        with pytest.raises(ValueError, match="event_shape must be at least 1"):
            sst.Structure.from_argmax((3, 0), polytopes.OneHot(3).argmax)

    def test_an_argmax_that_is_not_exact_is_found_out(self):
        """Right on the probes, the best element otherwise unless it is item 0."""
        exact = polytopes.OneHot(4).argmax
        structure = sst.Structure.from_argmax(4, lambda u: exact(u))
        structure._function = lambda u: exact(u - 10.0 * (torch.arange(4) == 0) * (u.amax() < 1.5))
        u = torch.tensor([[0.9, 0.1, 0.0, -1.0], [2.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
        with pytest.raises(sst.SolveError, match="argmax is not exact for batch element 1"):
            sst.SoftArgmax(structure, EUCLIDEAN)(u)

    def test_a_ball_is_no_finite_set(self):
        with pytest.raises(ValueError, match="not that of a finite set"):
            sst.Structure.from_argmax(3, lambda u: torch.nn.functional.normalize(u, dim=-1))

    def test_no_progress_is_an_error(self, monkeypatch):
        monkeypatch.setattr(active_set, "_GAP", -1.0)
        monkeypatch.setattr(active_set, "_ACCEPTED", -1.0)
        with pytest.raises(sst.SolveError):
            by_active_set(polytopes.KSubset(5, 2))(torch.randn(2, 5))


def test_paths_on_a_grid_by_highs():
    """No override of argmax: one LP a step and element, slow but right."""
    structure = grid_paths(3)
    u = torch.randn(2, *structure.event_shape, dtype=torch.float64)
    other = sst.SoftArgmax(structure, EUCLIDEAN, path="interior_point")
    assert (by_active_set(structure)(u) - other(u)).abs().max() < 1e-9


def test_auto_goes_by_size():
    """Where it was measured to be faster: long paths, but not short ones; trellises."""

    def chain(steps: int, labels: int) -> polytopes.Path:
        first = torch.arange(labels)
        between = [torch.cartesian_prod(first + labels * t, first + labels * (t + 1)) for t in range(steps - 1)]
        ends = steps * labels + torch.arange(2)
        start = torch.stack([ends[:1].expand(labels), first], 1)
        end = torch.stack([first + labels * (steps - 1), ends[1:].expand(labels)], 1)
        return polytopes.Path(torch.cat([start, *between, end]).T.contiguous(), int(ends[0]), int(ends[1]))

    assert sst.SoftArgmax(chain(20, 5), EUCLIDEAN).path == "interior_point"
    assert sst.SoftArgmax(chain(20, 10), EUCLIDEAN).path == "active_set"
    assert sst.SoftArgmax(polytopes.CorrelatedKSubset(5, 2), EUCLIDEAN).path == "active_set"
