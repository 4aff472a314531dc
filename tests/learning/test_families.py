"""Exponential families and tricks as distributions: divergences, moments, 16 bits, shapes, modes of the caller."""

import cvxpy as cp
import pytest
import torch
from torch.distributions import Gumbel, Normal, kl_divergence

import polytopes
import sst_cvx as sst

EDGES = torch.tensor([[0, 0, 1, 2], [1, 2, 3, 3]])
FAMILIES = [
    polytopes.OneHot(4),
    polytopes.KSubset(5, 2),
    polytopes.SpanningTree(4),
    polytopes.Path(EDGES, 0, 3),
    polytopes.Matching(3),
    polytopes.Permutahedron(torch.tensor([3.0, 1.0, 0.5])),
]


def enumerated(structure, u):
    """Elements ``(count, size)`` and their probabilities ``(*batch, count)``."""
    points = structure.vertices().flatten(1)
    return points, (u.flatten(-len(structure.event_shape)) @ points.T).softmax(-1)


@pytest.mark.parametrize("structure", FAMILIES, ids=repr)
def test_divergence_is_registered(structure):
    u, v = torch.randn(2, 3, *structure.event_shape, dtype=torch.float64)
    p, q = sst.ExponentialFamily(structure, u), sst.ExponentialFamily(structure, v)
    (_, a), (_, b) = enumerated(structure, u), enumerated(structure, v)
    torch.testing.assert_close(kl_divergence(p, q), (a * (a / b).log()).sum(-1), atol=1e-10, rtol=0)
    assert torch.equal(kl_divergence(p, q), p.kl_divergence(q))


def test_divergence_over_equal_structures():
    u, v = torch.randn(2, 6)
    p, q = (sst.ExponentialFamily(polytopes.SpanningTree(4), w) for w in (u, v))
    assert float(kl_divergence(p, q)) > 0
    with pytest.raises(ValueError, match=r"same structure|equal"):
        kl_divergence(p, sst.ExponentialFamily(polytopes.KSubset(6, 2), v))


@pytest.mark.parametrize("structure", FAMILIES, ids=repr)
def test_mode_and_variance(structure):
    u = torch.randn(3, *structure.event_shape, dtype=torch.float64)
    family, (points, p) = sst.ExponentialFamily(structure, u), enumerated(structure, u)
    variance = p @ points.square() - (p @ points).square()
    torch.testing.assert_close(family.variance.reshape(3, -1), variance, atol=1e-9, rtol=0)
    torch.testing.assert_close(family.mode.reshape(3, -1), points[p.argmax(-1)])


def test_closed_forms_of_one_hot_tricks():
    logits = torch.randn(3, 4, dtype=torch.float64)
    trick = sst.StochasticArgmax(polytopes.OneHot(4), Gumbel(logits, torch.ones_like(logits)))
    p = logits.softmax(-1)
    torch.testing.assert_close(trick.variance, p * (1 - p))
    torch.testing.assert_close(trick.mode, polytopes.OneHot(4).argmax(logits))
    other = sst.StochasticArgmax(polytopes.OneHot(4), Gumbel(0 * logits, torch.ones_like(logits)))
    torch.testing.assert_close(kl_divergence(trick, other), (p * (4 * p).log()).sum(-1))
    normal = sst.StochasticArgmax(polytopes.OneHot(4), Normal(logits, 1.0))
    with pytest.raises(NotImplementedError, match="closed form"):
        _ = normal.variance


def test_what_relaxed_variables_do_not_have():
    soft = sst.SoftArgmax(polytopes.KSubset(4, 2), sst.Euclidean())
    trick = sst.StochasticSoftmax(soft, Gumbel(torch.zeros(4), 1.0), 0.5)
    for ask in (
        lambda: trick.log_prob(torch.zeros(4)),
        trick.entropy,
        lambda: trick.mode,
        lambda: trick.variance,
        lambda: kl_divergence(trick, trick),
    ):
        with pytest.raises(NotImplementedError, match=r"hard\(\)"):
            ask()
    with pytest.raises(NotImplementedError, match=r"utilities"):
        kl_divergence(trick, trick)


def test_shapes_that_do_not_broadcast():
    one = polytopes.OneHot(3)
    two, three = (sst.ExponentialFamily(one, torch.zeros(n, 3)) for n in (2, 3))
    trick = sst.StochasticArgmax(one, Gumbel(torch.zeros(2, 3), 1.0))
    for ask in (
        lambda: two.log_prob(torch.eye(3)),
        lambda: two.kl_divergence(three),
        lambda: kl_divergence(two, three),
        lambda: two.expand((3,)),
        lambda: trick.log_prob(torch.eye(3)),
        lambda: trick.log_prob(torch.eye(4)),
        lambda: trick.expand((3,)),
    ):
        with pytest.raises(ValueError, match="shape"):
            ask()
    for ask in (lambda: two.sample(3), lambda: trick.sample(3)):
        with pytest.raises(TypeError, match="shape"):
            ask()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "structure", [*FAMILIES[:4], polytopes.Arborescence(4), polytopes.CorrelatedKSubset(4, 2)], ids=repr
)
def test_16_bits(structure, dtype):
    u = (30 * torch.randn(2, *structure.event_shape)).to(dtype)
    family = sst.ExponentialFamily(structure, u)
    x = family.sample((5,))
    assert x.dtype == dtype
    wide = sst.ExponentialFamily(structure, u.double())
    expected = wide.log_prob(x.double())
    tolerance = float(torch.finfo(dtype).eps)
    torch.testing.assert_close(family.log_prob(x).double(), expected, atol=1e-2, rtol=2 * tolerance)
    assert torch.equal(structure.argmax(u).double(), structure.argmax(u.double()))
    drawn = sst.StochasticArgmax(structure, Gumbel(u, torch.ones_like(u))).sample()
    assert drawn.dtype == dtype


def test_modes_of_the_caller():
    structure = polytopes.KSubset(4, 2)
    soft, u = sst.SoftArgmax(structure, sst.Euclidean()), torch.randn(4, requires_grad=True)
    with torch.inference_mode():
        mask = torch.tensor([True, True, False, True])
    assert float(sst.ExponentialFamily(structure, u, mask=mask).mean[2]) == 0
    sst.FenchelYoungLoss(soft)(u, torch.tensor([1.0, 1, 0, 0]), mask=mask).backward()
    assert u.grad is not None
    with torch.device("meta"):
        trick = sst.StochasticSoftmax(soft, Gumbel(u.detach(), torch.ones_like(u)), 0.5)
        assert trick.rsample().device.type == trick.sample().device.type == "cpu"
        assert sst.ExponentialFamily(structure, u).sample((3,)).device.type == "cpu"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = structure.argmax(u.detach())
        assert float(sst.FenchelYoungLoss(soft)(u, y)) >= 0


def test_losses_of_families_keep_their_digits():
    structure = polytopes.KSubset(50, 10)
    loss = sst.FenchelYoungLoss(sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy()), "none")
    for scale in (1.0, 1e3, 1e4):
        u = torch.randn(50, 50) * scale
        y = structure.argmax(u + 0.3 * torch.randn(50, 50))
        found, truth = loss(u, y), -sst.ExponentialFamily(structure, u.double()).log_prob(y.double())
        assert bool((found >= 0).all())
        torch.testing.assert_close(found.double(), truth, atol=1e-5, rtol=1e-5)


def test_parameters_by_name():
    x, capacity = cp.Variable(4), cp.Parameter(nonneg=True, name="capacity")
    structure = sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) <= capacity])
    utilities = Gumbel(torch.zeros(3, 4), 1.0)
    with pytest.raises(TypeError, match="capacty"):
        sst.StochasticArgmax(structure, utilities, capacty=torch.tensor(2.0))
    with pytest.raises(TypeError, match="missing"):
        sst.StochasticSoftmax(sst.SoftArgmax(structure, sst.Euclidean()), utilities, 0.5)


def test_divergence_compiles():
    structure, u = polytopes.SpanningTree(4), torch.randn(3, 6, dtype=torch.float64)

    def divergence(u):
        return sst.ExponentialFamily(structure, u).kl_divergence(sst.ExponentialFamily(structure, 0 * u))

    torch._dynamo.reset()
    compiled = torch.compile(divergence, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(u), divergence(u), rtol=0, atol=1e-10)
