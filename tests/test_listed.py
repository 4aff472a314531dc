"""Structures of finite lists: against enumeration, HiGHS and the layer."""

import copy
import pickle

import numpy as np
import pytest
import torch

import polytopes
import sst_cvx as sst
from sst_cvx.structure import extreme
from tests.oracles import not_nearest


def sphere(count, dims, seed=0):
    x = torch.randn(count, dims, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x / x.norm(dim=1, keepdim=True)


LISTS = {
    "one element": torch.tensor([[0.3, 2.0, -1.0]], dtype=torch.float64),
    "0/1": polytopes.SpanningTree(4).vertices(),
    "matrices": polytopes.Matching(3).vertices(),
    "real-valued": sphere(7, 3),
    "rank-deficient": sphere(6, 2, 1) @ sphere(2, 4, 2),
    "far": sphere(5, 3) + 1e5,
}


@pytest.fixture(params=LISTS)
def case(request):
    points = LISTS[request.param]
    return sst.Structure.from_vertices(points), points


def test_all_by_enumeration(case):
    structure, points = case
    flat = points.flatten(1)
    assert torch.equal(structure.vertices(), points)
    assert structure.known_binary == bool(((points == 0) | (points == 1)).all())
    for shape in ((), (2, 3), (0,), (2, 0)):
        for dtype in (torch.float64, torch.float32):
            u = torch.randn(*shape, *structure.event_shape, dtype=dtype)
            logits = u.double().reshape(*shape, flat.shape[1]) @ flat.T
            x = structure.argmax(u)
            assert x.shape == u.shape
            assert x.dtype == dtype
            assert torch.equal(x, points[logits.argmax(-1)].to(dtype))
            assert torch.allclose(structure.log_partition(u).double(), logits.logsumexp(-1), rtol=1e-6, atol=1e-6)
            drawn = structure.sample(u).double().reshape(-1, flat.shape[1])
            assert all(bool((flat.to(dtype).double() == d).all(1).any()) for d in drawn)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_exponential_family(case, scale):
    structure, points = case
    soft = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())
    assert soft.path == "fast"
    flat = points.flatten(1) - points.flatten(1).mean(0)
    for dtype, bound in ((torch.float64, 1e-9), (torch.float32, 1e-6)):
        u = scale * torch.randn(3, *structure.event_shape, dtype=dtype)
        truth = ((u.double().flatten(1) @ flat.T).softmax(-1) @ points.flatten(1)).reshape(u.shape)
        assert float((soft(u).double() - truth).abs().max()) < bound * (1 + float(points.abs().max()))


def test_derivatives(case):
    structure, _ = case
    soft = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())
    u = torch.randn(2, *structure.event_shape, dtype=torch.float64, requires_grad=True)
    if float(structure.vertices().abs().max()) < 1e3:
        assert torch.autograd.gradcheck(soft, (u,))
        assert torch.autograd.gradgradcheck(soft, (u,))
        assert torch.autograd.gradcheck(structure.log_partition, (u,))
    v = u.detach()
    assert torch.allclose(torch.func.vmap(soft)(v), soft(v))
    assert torch.equal(torch.func.vmap(structure.argmax)(v), structure.argmax(v))
    assert torch.allclose(torch.compile(soft, backend="eager", fullgraph=True)(v), soft(v))


def test_euclidean(case):
    """The nearest point of the hull, certified by linear programs."""
    structure, points = case
    soft = sst.SoftArgmax(structure, sst.Euclidean())
    assert soft.path == "active_set"
    middle = points.flatten(1).mean(0)
    u = middle + torch.randn(3, len(middle), dtype=torch.float64)
    x = soft(u.reshape(3, *structure.event_shape)).reshape(3, -1)
    outside, gain = not_nearest(points.flatten(1) - middle, u - middle, x - middle)
    assert outside < 1e-8 * (1 + float(points.abs().max()))
    assert gain < 1e-9 * (1 + float(points.abs().max()))


def test_entropies_of_many_weights():
    """More rows than sparse elimination starts from, all dense: certified by the gap."""
    rng = np.random.default_rng(0)
    points = np.unique(rng.random((150, 64)) < 0.3, axis=0)
    structure = sst.Structure.from_vertices(torch.from_numpy(points).double())
    soft = sst.SoftArgmax(structure, sst.BinaryEntropy())
    assert soft.path == "interior_point"
    u = torch.randn(2, 64, dtype=torch.float64)
    assert float(soft.gap(u, soft(u)).max()) < 1e-7


def test_frequencies():
    points = LISTS["real-valued"]
    u = torch.randn(3, dtype=torch.float64)
    drawn = sst.Structure.from_vertices(points).sample(u.expand(20_000, 3), torch.Generator().manual_seed(0))
    p = (points @ u).softmax(-1)
    counts = torch.stack([(drawn == v).all(1).sum() for v in points])
    assert bool(((counts / 20_000 - p).abs() < 5 * (p / 20_000).sqrt()).all())


def test_refused():
    make = sst.Structure.from_vertices
    corners = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0], [3.0, 3.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match="vertices 1 and 4 are the same element"):
        make(torch.cat([corners, corners[1:2]]))
    with pytest.raises(ValueError, match="vertices 1 and 4 are the same element"):
        make(torch.cat([corners, corners[1:2] + 1e-12]))
    with pytest.raises(ValueError, match="vertex 2 is in the convex hull of the others"):
        make(torch.stack([corners[0], corners[1], 0.3 * corners[1] + 0.7 * corners[2], corners[2], corners[3]]))
    with pytest.raises(ValueError, match="vertex 1 is in the convex hull"):
        make(torch.tensor([[0.0], [1.0], [2.0]]))
    for wrong in (torch.tensor([[0, 1]]), [[0.0, 1.0]], np.eye(2)):
        with pytest.raises(TypeError, match="floating-point tensor"):
            make(wrong)
    for wrong in (torch.zeros(3), torch.zeros(0, 2), torch.zeros(2, 0)):
        with pytest.raises(ValueError, match=r"must have shape \(count, \*event_shape\)"):
            make(wrong)
    with pytest.raises(ValueError, match="vertices must be finite"):
        make(torch.tensor([[0.0, torch.nan]]))
    with pytest.raises(ValueError, match="other elements than 0/1 arrays"):
        make(corners).where(lambda x: x[0] <= 1)


@pytest.mark.parametrize("seed", range(6))
def test_first_inside_against_linear_programs(seed):
    """Integer points with many on faces and edges; noise of rounding; points of a thin set."""
    rng = np.random.default_rng(seed)
    points = np.unique(rng.integers(0, 4, size=(25, 2 + seed % 3)), axis=0).astype(float)
    if seed % 2:
        points = points @ rng.normal(size=(points.shape[1], points.shape[1] + 1)) + 10.0
    inside = [i for i in range(len(points)) if extreme._in_hull(points[i], np.delete(points, i, axis=0))]
    assert extreme.first_inside(points) == (inside[0] if inside else None)
    kept = np.delete(points, inside, axis=0)
    assert extreme.first_inside(kept) is None
    sst.Structure.from_vertices(torch.from_numpy(kept))


def test_all_points_of_a_thin_ellipsoid_are_extreme():
    points = sphere(500, 3).numpy() * [1.0, 1e2, 1e4]
    assert extreme.first_inside(points) is None


def test_identity_and_copies(case):
    structure, points = case
    other = sst.Structure.from_vertices(points.clone())
    assert structure == other
    assert hash(structure) == hash(other)
    assert len(points) == 1 or structure != sst.Structure.from_vertices(points[1:])
    assert copy.deepcopy(structure) is structure
    _ = structure.hull  # declared
    loaded = pickle.loads(pickle.dumps(structure))
    u = torch.randn(2, *structure.event_shape)
    assert loaded == structure
    assert torch.equal(loaded.argmax(u), structure.argmax(u))
    assert repr(structure) == f"Structure.from_vertices({len(points)} elements, event_shape={structure.event_shape})"


def test_the_caller_may_change_what_was_given():
    points = LISTS["0/1"].clone()
    structure = sst.Structure.from_vertices(points)
    points.zero_()
    assert torch.equal(structure.vertices(), LISTS["0/1"])


def test_masks():
    structure = sst.Structure.from_vertices(LISTS["0/1"])
    mask = torch.tensor([False, True, True, True, True, True])
    u = torch.randn(3, 6, dtype=torch.float64)
    left = LISTS["0/1"][LISTS["0/1"][:, 0] == 0]
    assert torch.allclose((structure.masked_argmax(u, mask) * u).sum(1), (u @ left.T).amax(1))
    for f in (sst.ExponentialFamilyEntropy(), sst.Euclidean()):
        x = sst.SoftArgmax(structure, f)(u, mask=mask)
        assert torch.allclose(x, sst.SoftArgmax(sst.Structure.from_vertices(left), f)(u), atol=1e-9)


@pytest.mark.parametrize("name", ["one element", "matrices"])
def test_checks(name):
    sst.check(
        sst.Structure.from_vertices(LISTS[name]), [sst.ExponentialFamilyEntropy()], temperatures=(0.5,), verbose=False
    ).raise_if_failed()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in LISTS if name != "far"])
def test_all_checks(name):
    sst.check(sst.Structure.from_vertices(LISTS[name]), verbose=False).raise_if_failed()
