"""Structures with more constraints: against enumeration, the layer, and what a mixed-integer program would find."""

import copy
import math
import pickle

import cvxpy as cp
import numpy as np
import pytest
import torch

import polytopes
import sst_cvx as sst


def ends(s, vertex, both=True):
    """Numbers of the edges at (or out of) a vertex."""
    touch = (s.edge_index == vertex).any(0) if both else s.edge_index[0] == vertex
    return torch.nonzero(touch).flatten().numpy()


def bounded_degrees(s, most, both=True):
    return s.where(lambda x: [cp.sum(x[ends(s, v, both)]) <= most for v in range(int(s.edge_index.max()) + 1)])


def grid(side):
    """Paths right and down from corner to corner."""
    steps = [(i, j, i + a, j + b) for i in range(side) for j in range(side) for a, b in ((0, 1), (1, 0))]
    kept = [(side * i + j, side * k + m) for i, j, k, m in steps if max(k, m) < side]
    return polytopes.Path(torch.tensor(kept).T, 0, side * side - 1)


def budget(s, seed, part=0.5):
    """Random costs, and room for a part of the elements."""
    costs = np.random.default_rng(seed).uniform(0, 1, s.event_shape)
    spent = (s.vertices().numpy() * costs).reshape(len(s.vertices()), -1).sum(1)
    return s & (cp.sum(cp.multiply(costs, s.variable)) <= float(np.quantile(spent, part)))


def keeps(whole, restricted):
    """Elements of the whole at which all constraints hold, by CVXPY."""
    points = whole.vertices()
    kept = []
    for p in points:
        restricted.variable.save_value(p.numpy())
        kept.append(all(np.max(c.violation()) <= 1e-9 for c in restricted._new))
    restricted.variable.save_value(None)
    return points[torch.tensor(kept)]


def conflicts(n, k, seed):
    s, rng = polytopes.KSubset(n, k), np.random.default_rng(seed)
    pairs = [tuple(rng.choice(n, 2, replace=False)) for _ in range(n)]
    return s, s.where(lambda x: [x[int(i)] + x[int(j)] <= 1 for i, j in pairs])


def make(name):
    if name == "trees":
        s = polytopes.SpanningTree(5)
        return s, bounded_degrees(s, 2)
    if name == "arborescences":
        s = polytopes.Arborescence(5)
        return s, bounded_degrees(s, 1, both=False)
    if name == "matchings, forbidden pairs":
        s = polytopes.Matching(4)
        return s, s & [s.variable[0, 1] == 0, s.variable[2, 2] + s.variable[3, 3] <= 1]
    if name == "matchings, budget":
        s = polytopes.Matching(4)
        return s, budget(s, 1)
    if name == "large matchings, budget":
        s = polytopes.Matching(5)
        return s, budget(s, 2)
    if name == "paths, budget":
        s = grid(3)
        return s, budget(s, 3, 0.6)
    if name == "large paths, budget":
        s = grid(4)
        return s, budget(s, 4, 0.3)
    if name == "large subsets, conflicts":
        return conflicts(21, 2, 6)
    return conflicts(7, 3, 5)


NAMES = [
    "trees",
    "arborescences",
    "matchings, forbidden pairs",
    "matchings, budget",
    "large matchings, budget",
    "paths, budget",
    "large paths, budget",
    "subsets, conflicts",
    "large subsets, conflicts",
]


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    whole, restricted = make(request.param)
    return whole, restricted, keeps(whole, restricted)


def test_argmax_and_list(case):
    """Best among the elements that keep the constraints, by the list or by MILP; and the list is those elements."""
    whole, restricted, kept = case
    assert 0 < len(kept) < len(whole.vertices())
    assert torch.equal(restricted.vertices(), kept)
    assert restricted.overrides("argmax") == (whole.event_size <= 20)
    u = torch.randn(2, 4, *whole.event_shape, dtype=torch.float64)
    flat = kept.flatten(1)
    for scale in (1e-6, 1.0, 1e4):
        x = restricted.argmax(scale * u)
        best = (u.reshape(8, -1) @ flat.T).amax(1)
        assert float(((u * x).reshape(8, -1).sum(1) - best).abs().max()) < 1e-8
        assert torch.cdist(x.reshape(8, -1), flat).amin(1).max() == 0
    x = restricted.argmax(u.float())
    assert x.dtype == torch.float32
    assert x.shape == u.shape
    assert restricted.argmax(u[:0]).shape == u[:0].shape
    A = restricted.log_partition(u)
    assert torch.allclose(A, (u.flatten(2) @ flat.T).logsumexp(-1), rtol=0, atol=1e-11)
    x = restricted.sample(u)
    assert torch.cdist(x.reshape(8, -1), flat).amin(1).max() == 0


def test_gap_is_what_enumeration_says(case):
    """Directions of the hull's support by SciPy, of conv(X) by the list."""
    _, restricted, kept = case
    u = torch.randn(5, *restricted.event_shape, dtype=torch.float64)
    c = cp.Parameter(restricted.event_size)
    problem = cp.Problem(cp.Maximize(c @ cp.vec(restricted.variable, order="C")), restricted.constraints)

    def furthest(direction):
        c.value = direction.flatten().numpy()
        return problem.solve(solver="HIGHS")

    expected = []
    for d in u:
        most, least = furthest(d), -furthest(-d)
        expected.append((most - float((kept.flatten(1) @ d.flatten()).max())) / (most - least))
    assert restricted.integrality_gap(u) == pytest.approx(max(expected), abs=1e-7)


@pytest.mark.parametrize("name", ["trees", "matchings, budget", "large subsets, conflicts"])
def test_soft_argmax_against_the_layer(name):
    _, restricted = make(name)
    soft = sst.SoftArgmax(restricted, sst.Euclidean())
    assert soft.path == "interior_point"
    u = torch.randn(2, *restricted.event_shape, dtype=torch.float64, requires_grad=True)
    g = torch.randn_like(u)
    x, y = soft(u, 0.7), soft.reference()(u, 0.7)
    assert float((x - y).detach().abs().max()) < 1e-6
    (a,), (b,) = (torch.autograd.grad((z * g).sum(), u) for z in (x, y))
    assert float((a - b).abs().max()) < 1e-4
    assert float(soft.gap(u, x, 0.7).max()) < 1e-8


@pytest.mark.parametrize("name", ["subsets, conflicts", "large matchings, budget"])
def test_euclidean_over_the_elements_themselves(name):
    """By name, the active set projects on conv(X), by the list or by MILP: as over the list of elements."""
    whole, restricted = make(name)
    soft = sst.SoftArgmax(restricted, sst.Euclidean(), path="active_set")
    listed = sst.SoftArgmax(sst.Structure.from_vertices(keeps(whole, restricted)), sst.Euclidean())
    u = torch.randn(2, *whole.event_shape, dtype=torch.float64)
    assert float((soft(u, 0.3) - listed(u, 0.3)).abs().max()) < 1e-9


def test_exponential_family():
    _, restricted = make("trees")
    soft = sst.SoftArgmax(restricted, sst.ExponentialFamilyEntropy())
    assert soft.path == "fast"
    points = restricted.vertices()
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        u = 1e4 * torch.randn(3, 10, dtype=dtype)
        truth = (u.double() @ points.T).softmax(-1) @ points
        assert float((soft(u).double() - truth).abs().max()) < bound
    u = torch.randn(2, 10, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(soft, (u,))
    assert torch.autograd.gradgradcheck(soft, (u,))


@pytest.mark.parametrize("name", ["subsets, conflicts", "large matchings, budget"])
def test_masks_and_infinite_utilities(name):
    """Forbidden items are those of the elements that are left, whichever way argmax goes."""
    whole, restricted = make(name)
    points = keeps(whole, restricted)
    u, n = torch.randn(4, *whole.event_shape, dtype=torch.float64), whole.event_size
    mask = torch.ones(n, dtype=torch.bool)
    mask[torch.nonzero(points[0].flatten() == 0).flatten()[:2]] = False
    mask = mask.reshape(whole.event_shape)
    left = points[(points * ~mask).flatten(1).sum(1) == 0].flatten(1)
    best = (u.flatten(1) @ left.T).amax(1)
    for x in (restricted.masked_argmax(u, mask), restricted.argmax(torch.where(mask, u, -math.inf))):
        assert torch.allclose((u * x).flatten(1).sum(1), best)
        assert not x[..., ~mask].any()
    soft = sst.SoftArgmax(restricted, sst.Euclidean())
    assert torch.allclose(soft(u, mask=mask), soft(torch.where(mask, u, -math.inf)), atol=1e-9)
    with pytest.raises(sst.SolveError, match=r"batch elements? 0"):
        restricted.masked_argmax(u, torch.zeros_like(mask))


def test_learnable_budget():
    """Parameters become inputs: argmax by MILP, gradients as the layer's, and an empty set is named."""
    s, room = polytopes.KSubset(6, 3), cp.Parameter(name="room", nonneg=True)
    costs = np.array([3.0, 1.0, 2.0, 2.5, 0.5, 1.0])
    restricted = s & [costs @ s.variable <= room]
    assert not restricted.has_vertices()
    assert not restricted.has_log_partition()
    assert restricted.known_binary
    u = torch.randn(4, 6, dtype=torch.float64)
    rooms = torch.tensor([3.5, 4.0, 5.25, 6.0], dtype=torch.float64)
    x, points = restricted.argmax(u, room=rooms), s.vertices()
    for i in range(4):
        kept = points[points @ torch.from_numpy(costs) <= rooms[i]]
        assert float(u[i] @ x[i]) == pytest.approx(float((kept @ u[i]).max()))
    soft = sst.SoftArgmax(restricted, sst.BinaryEntropy())
    r = rooms.clone().requires_grad_()
    g = torch.randn_like(u)
    ours, theirs = ((f(u, room=r) * g).sum() for f in (soft, soft.reference()))
    (a,), (b,) = torch.autograd.grad(ours, r), torch.autograd.grad(theirs, r)
    assert float((a - b).abs().max()) < 1e-3
    assert float(a.abs().max()) > 1e-3
    with pytest.raises(
        sst.SolveError, match=r"no element of KSubset.* for batch element 1: relax them, by other param"
    ):
        restricted.argmax(u[:2], room=torch.tensor([5.0, 1.0]))
    assert restricted.integrality_gap(10, room=torch.tensor(4.0)) > 0.01
    with pytest.raises(NotImplementedError, match="constraints have parameters"):
        restricted.vertices()
    with pytest.raises(ValueError, match="mask does not go with hull parameters"):
        restricted.masked_argmax(u, torch.ones(6, dtype=torch.bool))


def test_restricted_again():
    s = polytopes.KSubset(6, 3)
    x = s.variable
    twice, at_once = (s & [x[0] + x[1] <= 1]) & (x[2] <= x[3]), s & [x[0] + x[1] <= 1, x[2] <= x[3]]
    assert torch.equal(twice.vertices(), at_once.vertices())
    assert twice.event_shape == (6,)
    assert twice.variable is x
    listed = sst.Structure.from_vertices(s.vertices())
    again = listed.where(lambda y: [y[0] + y[1] <= 1, y[2] <= y[3]])
    assert torch.equal(again.vertices(), at_once.vertices())
    u = torch.randn(3, 6, dtype=torch.float64)
    assert torch.equal(again.argmax(u), at_once.argmax(u))


def test_integer_points_of_a_relaxation():
    """Of a structure that says integral=False itself, with other whole numbers."""
    x = cp.Variable(3)
    loose = sst.Structure(x, [x >= 0, x <= 2.5, cp.sum(x) <= 4.2], integral=False)
    restricted = loose & [x[0] + 2 * x[1] <= 3.3]
    points = torch.cartesian_prod(*[torch.arange(3.0, dtype=torch.float64)] * 3)
    points = points[(points.sum(1) <= 4.2) & (points[:, 0] + 2 * points[:, 1] <= 3.3)]
    u = torch.randn(6, 3, dtype=torch.float64)
    assert torch.allclose((restricted.argmax(u) * u).sum(1), (u @ points.T).amax(1))
    assert not restricted.known_binary
    assert not restricted.binary


def test_constraints_of_other_kinds():
    """Cones where elements are listed; auxiliary variables; functions that CVXPY rewrites."""
    s = polytopes.KSubset(6, 3)
    target, far, z = np.array([1.0, 1, 1, 0, 0, 0]), math.sqrt(2) + 1e-9, cp.Variable(6)
    near = s.vertices()[(s.vertices() - torch.from_numpy(target)).square().sum(1) <= 2]
    for restricted in (
        s.where(lambda x: cp.norm(x - target) <= far),
        s.where(lambda x: cp.norm1(x - target) <= 2),
        s.where(lambda x: [cp.sum(z) <= 2, z >= x - target, z >= target - x]),
    ):
        assert torch.equal(restricted.vertices(), near)
    with pytest.raises(ValueError, match="HiGHS solves none with cones"):
        polytopes.KSubset(22, 3).where(lambda x: cp.norm(x - 0.5) <= 5)


def test_integral_is_a_promise_that_check_verifies():
    s = polytopes.KSubset(6, 2)
    name = "hull is no larger than conv(X)"
    y = cp.Variable(21)
    unlisted = sst.Structure(y, [y >= 0, y <= 1, cp.sum(y) == 3])
    for structure in (s, polytopes.KSubset(21, 3), unlisted):  # by lists, and by extreme points of no whole numbers
        triples = [range(i, i + 3) for i in range(0, structure.event_size, 3)]
        pairs = [(i, j) for t in triples for i in t for j in t if i < j]
        clique = structure.where(lambda x, pairs=pairs: [x[i] + x[j] <= 1 for i, j in pairs], integral=True)
        right = structure.where(lambda x, triples=triples: [cp.sum(x[list(t)]) <= 1 for t in triples], integral=True)
        for restricted, ok in ((clique, False), (right, True)):
            (found,) = (c.run() for c in sst.checks(restricted, []) if c.name == name)
            assert found.ok is ok
            assert restricted.integrality_gap() == 0.0
    permutations = polytopes.Permutahedron(torch.tensor([0.5, 0.25, 0.0]))
    first = permutations.where(lambda x: x[0] == 0.5, integral=True)
    assert sorted(first.vertices().tolist()) == [[0.5, 0.0, 0.25], [0.5, 0.25, 0.0]]
    assert first.argmax(torch.tensor([-1.0, 0.0, 1.0])).tolist() == pytest.approx([0.5, 0.0, 0.25])


def test_refused():
    s, other = polytopes.KSubset(6, 3), cp.Variable(6)
    x = s.variable
    with pytest.raises(ValueError, match="not on the structure's own variable"):
        s & [other[0] <= 0.5]
    with pytest.raises(ValueError, match="not on the structure's own variable"):
        s & [x[0] <= 0.5, cp.Parameter(name="p") >= 1]
    with pytest.raises(ValueError, match="no constraints were given"):
        s & []
    with pytest.raises(TypeError, match="must be CVXPY constraints"):
        s & 3
    with pytest.raises(TypeError, match="must be CVXPY constraints"):
        s & [True]
    with pytest.raises(ValueError, match="not DCP"):
        s & [cp.sqrt(x[0]) <= 1]
    with pytest.raises(ValueError, match="known by its argmax alone"):
        sst.Structure.from_argmax(3, lambda u: (u > 0).to(u)).where(lambda y: y[0] <= 0)
    with pytest.raises(ValueError, match="other elements than 0/1 arrays"):
        polytopes.Permutahedron(torch.tensor([0.5, 0.25, 0.0])).where(lambda y: y[0] <= 0.3)
    k = cp.Parameter(name="k")
    y = cp.Variable(3)
    with pytest.raises(ValueError, match="depend on its parameters"):
        sst.Structure(y, [y >= 0, y <= 1, cp.sum(y) == k]) & [y[0] <= 0.5]


@pytest.mark.parametrize("n", [6, 22])
def test_empty(n):
    s = polytopes.KSubset(n, 3)
    with pytest.raises(ValueError, match=r"no element of KSubset\(n=\d+, k=3\) keeps the constraints \[.*: relax them"):
        s.where(lambda x: cp.sum(x) <= 2)
    with pytest.raises(ValueError, match="no element of KSubset"):  # the hull is not empty
        s.where(lambda x: 2 * cp.sum(x[:3]) == 3)


def test_identity_and_copies():
    s = polytopes.SpanningTree(4)
    c = s.variable[0] + s.variable[1] <= 1
    a, b = s & [c], s & [c]
    assert a == b
    assert hash(a) == hash(b)
    assert a != s
    assert a != s & [s.variable[0] <= 0]
    assert a != s.where(c, integral=True)
    assert copy.deepcopy(a) is a
    assert repr(a).startswith("SpanningTree(4).where([")
    assert repr(a).endswith("<= 1.0])")
    u = torch.randn(3, 6, dtype=torch.float64)
    v = torch.randn(2, 5, 5, dtype=torch.float64)
    for structure, utilities in ((a, u), (make("large matchings, budget")[1], v)):
        loaded = pickle.loads(pickle.dumps(structure))
        assert torch.equal(loaded.argmax(utilities), structure.argmax(utilities))
    soft = sst.SoftArgmax(a, sst.Euclidean())
    assert torch.allclose(pickle.loads(pickle.dumps(soft))(u), soft(u), atol=1e-9)
    whole, again = pickle.loads(pickle.dumps((s, a)))
    assert again.variable is whole.variable
    assert torch.allclose((again & [again.variable[2] <= 0]).argmax(u), (a & [s.variable[2] <= 0]).argmax(u))


def test_by_list_runs_where_the_host_is_not_asked():
    _, restricted = make("subsets, conflicts")
    u = torch.randn(5, 7, dtype=torch.float64)
    assert torch.equal(torch.func.vmap(restricted.argmax)(u), restricted.argmax(u))
    soft = sst.SoftArgmax(restricted, sst.ExponentialFamilyEntropy())
    assert torch.allclose(torch.func.vmap(soft)(u), soft(u))
    assert torch.equal(torch.compile(restricted.argmax, backend="eager", fullgraph=True)(u), restricted.argmax(u))
    assert torch.equal(torch.compile(soft, backend="eager", fullgraph=True)(u), soft(u))
    large = make("large matchings, budget")[1]
    u = torch.randn(2, 5, 5, dtype=torch.float64)
    assert torch.equal(torch.func.vmap(large.argmax)(u), large.argmax(u))


SMALL = {
    "conflicts": lambda: conflicts(5, 2, 3)[1],
    "matchings": lambda: (lambda s: budget(s, 7))(polytopes.Matching(3)),
}


@pytest.mark.parametrize("name", SMALL)
def test_checks(name):
    report = sst.check(SMALL[name](), [], verbose=False)
    report.raise_if_failed()
    (gap,) = (r for r in report.results if r.name == "gap between hull and conv(X), of its width")
    assert gap.ok
    assert gap.bound == math.inf


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_all_checks(name):
    sst.check(SMALL[name](), verbose=False).raise_if_failed()
