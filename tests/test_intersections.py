"""``a & b``: against brute force, the layer and the interior point; and its Euclidean path by the parts alone."""

import itertools
import pickle

import cvxpy as cp
import pytest
import torch

import polytopes
import sst_cvx as sst
from sst_cvx.paths.splitting import newton
from sst_cvx.paths.splitting.parts import Part

EUCLIDEAN = sst.Euclidean()


def _random(shape, scale=1.0, seed=0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _by_argmax(structure):
    return sst.Structure.from_argmax(structure.event_shape, structure.argmax)


def _pairs():
    partition = polytopes.MatroidBases.partition(torch.tensor([0, 0, 1, 1, 2, 2]), [1, 1, 1])
    x = cp.Variable((3, 3), nonneg=True)
    diagonal = sst.Structure(x, [x <= 1, cp.trace(x) <= 1])
    steps = torch.tensor([0.0, 1, 1, 2, 3]).double()
    return {
        "matroids": (polytopes.KSubset(6, 3), partition),
        "three": (polytopes.Segment(6, 2, 4), polytopes.AtMostKSubset(6, 3), polytopes.KSubset(6, 3)),
        "matrices": (polytopes.Matching(3), diagonal),
        "rankings": (polytopes.Permutahedron(steps), polytopes.Permutahedron(steps.flip(0) * 1.0)),
        "trees": (polytopes.Arborescence(4), polytopes.MatroidBases.partition(torch.arange(9) % 3, [1, 1, 1])),
    }


PAIRS = _pairs()
#: The others take seconds.
FAST = {("matroids", True), ("matroids", False), ("rankings", True)}


def _meet(parts):
    whole = parts[0]
    for part in parts[1:]:
        whole = whole & part
    return whole


def _listed(parts):
    """Common elements by sets of rows."""
    rows = [{tuple(v) for v in part.vertices().flatten(1).tolist()} for part in parts]
    return torch.tensor(sorted(set.intersection(*rows)), dtype=torch.float64)


@pytest.mark.parametrize("name", ["matroids", "three", "rankings", "trees"])
def test_elements_are_those_in_all_parts(name):
    parts = PAIRS[name]
    whole, brute = _meet(parts), _listed(parts)
    assert {tuple(v) for v in whole.vertices().flatten(1).tolist()} == {tuple(v) for v in brute.tolist()}
    u = _random((20, whole.event_size))
    best = (u @ brute.T).amax(1)
    x = whole.argmax(u.reshape(20, *whole.event_shape)).reshape(20, -1)
    torch.testing.assert_close((u * x).sum(1), best)
    assert all(tuple(row) in {tuple(v) for v in brute.tolist()} for row in x.tolist())
    torch.testing.assert_close(whole.log_partition(u), (u @ brute.T).logsumexp(1))


def test_argmax_of_a_declared_part_is_a_mixed_integer_program():
    whole = _meet(PAIRS["matrices"])
    permutations = torch.stack([torch.eye(3).double()[list(p)] for p in itertools.permutations(range(3))])
    allowed = permutations[permutations.diagonal(dim1=1, dim2=2).sum(1) <= 1]
    u = _random((30, 3, 3))
    best = (u.flatten(1) @ allowed.flatten(1).T).argmax(1)
    assert torch.equal(whole.argmax(u), allowed[best])
    assert not whole.has_vertices() or len(whole.vertices()) == len(allowed)


_CASES = [
    pytest.param(name, hull, marks=() if (name, hull) in FAST else pytest.mark.slow, id=f"{name}-{how}")
    for name in PAIRS
    for hull, how in ((True, "hulls"), (False, "argmaxes"))
]


@pytest.mark.parametrize(("name", "hull"), _CASES)
def test_splitting_is_the_soft_argmax_over_both_hulls(name, hull):
    parts = PAIRS[name]
    whole = _meet(parts)
    if not hull:
        whole_by_argmax = _meet([_by_argmax(part) for part in parts])
        soft = sst.SoftArgmax(whole_by_argmax, EUCLIDEAN)
    else:
        soft = sst.SoftArgmax(whole, EUCLIDEAN, path="splitting")
    assert soft.path == "splitting"
    reference = sst.SoftArgmax(whole, EUCLIDEAN, path="interior_point")
    for scale in (1.0, 100.0):
        u = _random((3, *whole.event_shape), scale, seed=4).requires_grad_()
        t = torch.tensor([1.0, 0.3, 0.1], dtype=torch.float64, requires_grad=True)
        v = _random(u.shape, seed=5)
        found, true = [
            (x, *torch.autograd.grad((x * v).sum(), (u, t))) for x in (path(u, t) for path in (soft, reference))
        ]
        for ours, theirs in zip(found, true, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("name", ["matroids", "matrices"])
def test_splitting_is_what_the_layer_says(name):
    whole = _meet(PAIRS[name])
    u, v = _random((4, *whole.event_shape)).requires_grad_(), _random((4, *whole.event_shape), seed=1)
    soft = sst.SoftArgmax(whole, EUCLIDEAN, path="splitting")
    x, y = soft(u, 0.7), soft.reference()(u, 0.7)
    torch.testing.assert_close(x, y, atol=1e-6, rtol=0)
    g, h = (torch.autograd.grad((z * v).sum(), u)[0] for z in (x, y))
    torch.testing.assert_close(g, h, atol=1e-5, rtol=0)


def test_derivatives():
    whole = polytopes.KSubset(3, 1) & polytopes.AtMostKSubset(3, 2)
    soft = sst.SoftArgmax(whole, EUCLIDEAN, path="splitting")
    u, t = _random((1, 3), 0.3).requires_grad_(), torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(soft, (u, t), atol=1e-6)
    assert torch.autograd.gradgradcheck(soft, (u, t), atol=1e-5)
    mapped = torch.func.vmap(lambda w: soft(w, 0.5))(u.detach())
    torch.testing.assert_close(mapped, soft(u.detach(), 0.5), atol=1e-9, rtol=0)


def test_batches_and_dtypes():
    soft = sst.SoftArgmax(polytopes.KSubset(6, 3) & polytopes.AtMostKSubset(6, 3), EUCLIDEAN, path="splitting")
    u = _random((2, 3, 6))
    x = soft(u, 0.5)
    assert x.shape == u.shape
    assert soft(u[:0]).shape == (0, 3, 6)
    torch.testing.assert_close(soft(u[1, 2], 0.5), x[1, 2], atol=1e-9, rtol=0)
    single = soft(u.float(), 0.5)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), x, atol=1e-6, rtol=0)
    again, info = soft(u, 0.5, return_info=True)
    assert bool(info.converged.all())
    assert int(info.iterations.min()) >= 0
    torch.testing.assert_close(again, x)


def test_masks_and_absent_items():
    parts = PAIRS["matroids"]
    whole, listed = _meet(parts), _listed(parts)
    mask = torch.tensor([True, False, True, True, True, True])
    u = _random((2, 6))
    left = listed[listed[:, 1] == 0]
    torch.testing.assert_close(whole.masked_argmax(u, mask), left[(u @ left.T).argmax(1)])
    by_argmax = _by_argmax(parts[0]) & _by_argmax(parts[1])
    for structure in (whole, by_argmax):
        soft = sst.SoftArgmax(structure, EUCLIDEAN, path="splitting")
        x = soft(u, mask=mask)
        assert bool((x[:, 1] == 0).all())
        torch.testing.assert_close(x, sst.SoftArgmax(whole, EUCLIDEAN)(u, mask=mask), atol=1e-8, rtol=0)
        torch.testing.assert_close(soft(torch.where(mask, u, -torch.inf)), x, atol=1e-9, rtol=0)
        with pytest.raises(sst.SolveError, match="no element"):
            soft(u, mask=torch.tensor([False, False, True, True, True, True]))
    rankings = _meet(PAIRS["rankings"])
    with pytest.raises(ValueError, match="0/1 arrays"):
        sst.SoftArgmax(rankings, EUCLIDEAN)(_random((5,)), mask=torch.ones(5, dtype=torch.bool))


def test_empty_intersections_are_refused():
    a, b = polytopes.KSubset(5, 2), polytopes.KSubset(5, 3)
    with pytest.raises(sst.EmptySet):
        sst.SoftArgmax(a & b, EUCLIDEAN)
    with pytest.raises(sst.EmptySet, match="no common point"):
        sst.SoftArgmax(_by_argmax(a) & _by_argmax(b), EUCLIDEAN)
    # Hulls that meet, without a common element.
    x = cp.Variable(3)
    halves = sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) == 1.5], integral=False) & polytopes.Hypercube(3)
    assert sst.SoftArgmax(halves, EUCLIDEAN)(torch.zeros(3).double()).sum() == pytest.approx(1.5)
    with pytest.raises(sst.SolveError, match="infeasible"):
        halves.argmax(torch.zeros(3).double())


class _Bent(sst.Structure):
    """A subset structure whose projection is off, inside its hull."""

    off = 1e-4

    def __init__(self):
        super().__init__(event_shape=(6,))

    def declare(self):
        x = cp.Variable(6)
        return x, [x >= 0, x <= 1, cp.sum(x) == 3]

    def argmax(self, u):
        return polytopes.KSubset(6, 3).argmax(u)


@sst.fast_path(_Bent, sst.Euclidean)
def _bent(structure, regularizer, u):
    x = sst.SoftArgmax(polytopes.KSubset(6, 3), EUCLIDEAN)(u)
    return x + structure.off * (0.5 - x)


def test_a_wrong_part_is_not_believed(monkeypatch):
    monkeypatch.setattr(newton, "_STEPS", 20)
    bent = _Bent()
    soft = sst.SoftArgmax(bent & PAIRS["matroids"][1], EUCLIDEAN, path="splitting")
    with pytest.raises(sst.SolveError, match="batch element"):
        soft(_random((2, 6)))
    monkeypatch.setattr(_Bent, "off", 0.0)
    x = soft(_random((3, 6)))
    torch.testing.assert_close(
        x, sst.SoftArgmax(_meet(PAIRS["matroids"]), EUCLIDEAN)(_random((3, 6))), atol=1e-8, rtol=0
    )
    worse = Part.furthest
    monkeypatch.setattr(Part, "furthest", lambda self, u: worse(self, -u))  # an argmax of another set
    with pytest.raises(sst.SolveError):
        soft(_random((3, 6)))


def test_operator_and_arguments():
    a, b = PAIRS["matroids"]
    whole = a & b & polytopes.Hypercube(6)
    assert len(whole.parts) == 3
    assert whole == sst.Intersection(a, b, polytopes.Hypercube(6))
    assert pickle.loads(pickle.dumps(whole)) == whole
    assert "KSubset" in repr(whole)
    with pytest.raises(ValueError, match="event shape"):
        a & polytopes.KSubset(5, 3)
    with pytest.raises(TypeError, match="structure"):
        sst.Intersection(a, 3)
    with pytest.raises(ValueError, match="at least two"):
        sst.Intersection(a)
    with pytest.raises(ValueError, match="no path takes"):
        sst.SoftArgmax(_by_argmax(a) & b, sst.BinaryEntropy())
    with pytest.raises(ValueError, match="no weights"):
        sst.SoftArgmax(_by_argmax(a) & b, sst.Euclidean(weights=torch.arange(1.0, 7.0)))
    with pytest.raises(NotImplementedError, match="no argmax"):
        (_by_argmax(polytopes.Permutahedron(torch.arange(6.0))) & a).argmax(torch.zeros(6))


def test_parameters_of_parts_are_inputs():
    capacity, x = cp.Parameter(name="capacity", nonneg=True), cp.Variable(6)
    budget = sst.Structure(x, [x >= 0, x <= 1, cp.sum(x[:3]) <= capacity], integral=False)
    whole = polytopes.KSubset(6, 3) & budget
    u, c = _random((2, 6)).requires_grad_(), torch.tensor([1.0, 1.5], dtype=torch.float64, requires_grad=True)
    soft = sst.SoftArgmax(whole, EUCLIDEAN)
    found = soft(u + torch.tensor([1.0, 1, 1, 0, 0, 0]).double(), 1.0, capacity=c)
    assert bool((found[:, :3].sum(1) <= c + 1e-9).all())
    assert torch.autograd.grad(found[:, :3].sum(), c)[0].tolist() == pytest.approx([1.0, 1.0])
    assert bool((whole.argmax(u, capacity=c)[:, :3].sum(1) <= c).all())
    other = sst.Structure(y := cp.Variable(6), [y >= 0, y <= cp.Parameter(name="capacity", nonneg=True)])
    with pytest.raises(ValueError, match="distinct names"):
        budget & other
    with pytest.raises(ValueError, match="no hull"):
        _by_argmax(polytopes.KSubset(6, 3)) & budget


def test_auxiliary_variables_of_parts_are_their_own():
    """x = z and x = 1 - z, with one z in both: each part has every x."""
    z, x, y = cp.Variable(2), cp.Variable(2), cp.Variable(2, nonneg=True)
    a = sst.Structure(x, [x == z, z >= 0, z <= 1])
    b = sst.Structure(y, [y == 1 - z, z >= 0, z <= 1])
    u = _random((5, 2), 3.0)
    torch.testing.assert_close(sst.SoftArgmax(a & b, EUCLIDEAN)(u), u.clamp(0, 1), atol=1e-7, rtol=0)
    torch.testing.assert_close(sst.SoftArgmax(a & a, EUCLIDEAN)(u), u.clamp(0, 1), atol=1e-7, rtol=0)
    same = sst.Structure(x, [x >= 0, x <= 0.5])
    torch.testing.assert_close(sst.SoftArgmax(a & same, EUCLIDEAN)(u), u.clamp(0, 0.5), atol=1e-7, rtol=0)


def test_half_a_batch_at_kinks_has_projectors_for_jacobians():
    """The active-set path completes the faces of those alone that need it: here, just half of the batch."""
    soft = sst.SoftArgmax(polytopes.Arborescence(4), EUCLIDEAN)
    u = _random((6, 9), 3.0)
    u[::2] = 40.0 * polytopes.Arborescence(4).argmax(u[::2]).roll(1, 0)
    u.requires_grad_()
    together = torch.autograd.grad((soft(u) * _random((6, 9), seed=1)).sum(), u)[0]
    for i in range(6):
        w = u[i].detach().requires_grad_()
        alone = torch.autograd.grad((soft(w) * _random((6, 9), seed=1)[i]).sum(), w)[0]
        torch.testing.assert_close(together[i], alone, atol=1e-9, rtol=0)


@pytest.mark.slow
def test_a_small_intersection_is_certified():
    report = sst.check(_meet(PAIRS["matroids"]), verbose=False)
    assert report.ok, report.failures
