"""Utilities of -inf are forbidden items, as by a mask, on every path and in every mode."""

import pytest
import torch

import polytopes
import sst_cvx as sst
from tests.hulls import pairs


def draw(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    allowed = torch.rand(3, *shape, generator=generator) < 0.75
    return u, allowed


PAIRS = [
    (polytopes.OneHot(6), sst.CategoricalEntropy()),
    (polytopes.OneHot(6), sst.Euclidean()),
    (polytopes.OneHot(6), sst.TsallisEntropy(1.5)),
    (polytopes.KSubset(7, 2), sst.Euclidean()),
    (polytopes.KSubset(7, 2), sst.BinaryEntropy()),
    (polytopes.KSubset(7, 2), sst.ExponentialFamilyEntropy()),
    (polytopes.AtMostKSubset(7, 2), sst.BinaryEntropy()),
    (polytopes.Hypercube(5), sst.BinaryEntropy()),
    (polytopes.CorrelatedKSubset(6, 2), sst.ExponentialFamilyEntropy()),
    (polytopes.Matching(3, 4, partial=True), sst.CategoricalEntropy()),
    (polytopes.Segment(6, 1, 3), sst.ExponentialFamilyEntropy()),
    (polytopes.SpanningTree(5), sst.ExponentialFamilyEntropy()),
    (polytopes.SpanningTree(5), sst.Euclidean()),
    (polytopes.Arborescence(4), sst.ExponentialFamilyEntropy()),
    (polytopes.KSubset(5, 2), sst.CategoricalEntropy()),
]
IDS = [f"{type(s).__name__}-{type(f).__name__}" for s, f in PAIRS]


@pytest.mark.parametrize(("structure", "f"), PAIRS, ids=IDS)
class TestAsByAMask:
    def test_points_and_gradients(self, structure, f):
        u, allowed = draw(structure.event_shape)
        soft = sst.SoftArgmax(structure, f)
        v = torch.randn_like(u)
        wanted_u = u.clone().requires_grad_()
        wanted = soft(wanted_u, 0.7, mask=allowed)
        given_u = u.masked_fill(~allowed, -torch.inf).requires_grad_()
        t = torch.full((3,), 0.7, dtype=torch.float64, requires_grad=True)
        x = soft(given_u, t)
        torch.testing.assert_close(x, wanted, rtol=0, atol=1e-9)
        assert (x[~allowed] == 0).all()
        (wanted * v).sum().backward()
        (x * v).sum().backward()
        torch.testing.assert_close(given_u.grad, wanted_u.grad, rtol=0, atol=1e-7)
        assert (given_u.grad[~allowed] == 0).all()
        assert torch.isfinite(t.grad).all()

    def test_where_the_host_is_not_asked(self, structure, f):
        u, allowed = draw(structure.event_shape, 1)
        soft = sst.SoftArgmax(structure, f)
        wanted = soft(u, 0.7, mask=allowed)
        given = u.masked_fill(~allowed, -torch.inf).requires_grad_()
        with sst.guard("nan"):
            x = soft(given, 0.7)
            (g,) = torch.autograd.grad(x.square().sum(), given)
        sst.synchronize()
        torch.testing.assert_close(x, wanted, rtol=0, atol=1e-8)
        assert torch.isfinite(g).all()
        assert (g[~allowed] == 0).all()
        mapped = torch.func.vmap(lambda v: soft(v, 0.7))(given.detach())
        torch.testing.assert_close(mapped, wanted, rtol=0, atol=1e-8)

    def test_logarithms_and_gaps(self, structure, f):
        u, allowed = draw(structure.event_shape, 2)
        given = u.masked_fill(~allowed, -torch.inf)
        soft = sst.SoftArgmax(structure, f)
        x = soft(given, 0.7)
        if not isinstance(f, sst.ExponentialFamilyEntropy) or structure.event_shape == (7,):
            gap = soft.gap(given, x, 0.7)
            torch.testing.assert_close(gap, soft.gap(u, x, 0.7, mask=allowed))
            assert (gap.abs() < 1e-8).all()
        if isinstance(f, (sst.CategoricalEntropy, sst.BinaryEntropy)):
            log = soft.log(given, 0.7)
            assert (log[~allowed] == -torch.inf).all()
            torch.testing.assert_close(log, soft.log(u, 0.7, mask=allowed))

    def test_argmax(self, structure, f):
        u, allowed = draw(structure.event_shape, 3)
        given = u.masked_fill(~allowed, -torch.inf)
        assert torch.equal(structure.argmax(given), structure.masked_argmax(u, allowed))
        with sst.guard("nan"):
            assert torch.equal(structure.argmax(given), structure.masked_argmax(u, allowed))
        sst.synchronize()
        both = allowed & (torch.rand(allowed.shape, generator=torch.Generator().manual_seed(4)) < 0.95)
        assert torch.equal(structure.masked_argmax(given, both), structure.masked_argmax(u, both))


def test_samples_and_exponential_family():
    structure, generator = polytopes.KSubset(6, 2), torch.Generator().manual_seed(0)
    u, allowed = draw((6,))
    given = u.masked_fill(~allowed, -torch.inf)
    assert (structure.sample(given, generator)[~allowed] == 0).all()
    family, masked = (sst.ExponentialFamily(structure, v, mask=m) for v, m in ((given, None), (u, allowed)))
    torch.testing.assert_close(family.mean, masked.mean)
    torch.testing.assert_close(family.log_partition(), masked.log_partition())
    x = family.sample()
    torch.testing.assert_close(family.log_prob(x), masked.log_prob(x))


@pytest.mark.parametrize("f", [sst.BinaryEntropy(), sst.ExponentialFamilyEntropy()], ids=str)
def test_losses(f):
    structure, (u, allowed) = polytopes.KSubset(7, 2), draw((7,))
    loss, y = sst.FenchelYoungLoss(sst.SoftArgmax(structure, f)), structure.masked_argmax(u.flip(0), allowed)
    given = u.masked_fill(~allowed, -torch.inf).requires_grad_()
    wanted = u.clone().requires_grad_()
    for mode in ("raise", "nan"):
        with sst.guard(mode):
            found, expected = loss(given, y, 0.5), loss(wanted, y, 0.5, mask=allowed)
            torch.testing.assert_close(found, expected)
            torch.testing.assert_close(*(torch.autograd.grad(x, v)[0] for x, v in ((found, given), (expected, wanted))))


def test_declared_sets():
    structure, (u, _) = pairs(), draw((6,), 5)
    allowed = torch.arange(6) > torch.tensor([[-1], [0], [1]])
    given = u.masked_fill(~allowed, -torch.inf)
    for path in ("interior_point", "layer"):
        soft = sst.SoftArgmax(structure, sst.Euclidean(), path=path)
        torch.testing.assert_close(soft(given), soft(u, mask=allowed))


@pytest.mark.parametrize("f", [sst.CategoricalEntropy(), sst.Euclidean()], ids=str)
def test_nothing_left_is_an_error(f):
    soft = sst.SoftArgmax(polytopes.OneHot(3), f)
    u = torch.tensor([[0.0, 1.0, 2.0], [-torch.inf] * 3])
    with pytest.raises(sst.SolveError, match="no element"):
        soft(u)
    x, info = soft(u, on_failure="nan", return_info=True)
    assert torch.isfinite(x[0]).all()
    assert x[1].isnan().all()
    assert len(info.status) == 2


def test_other_numbers_are_errors_as_before():
    soft = sst.SoftArgmax(polytopes.OneHot(3), sst.CategoricalEntropy())
    for bad in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match=r"must be finite, but entry \(2,\)"):
            soft(torch.tensor([0.0, -torch.inf, bad]))
    ranks = sst.SoftArgmax(polytopes.Permutahedron(torch.arange(3.0)), sst.Euclidean())
    with pytest.raises(ValueError, match=r"must be finite.* forbids items of 0/1 arrays"):
        ranks(torch.tensor([0.0, -torch.inf, 1.0]))


def test_compiled():
    torch.compiler.reset()
    u, allowed = draw((5,))
    given = u.masked_fill(~allowed, -torch.inf)
    for structure, f in ((polytopes.OneHot(5), sst.CategoricalEntropy()), (polytopes.KSubset(5, 2), sst.Euclidean())):
        soft = sst.SoftArgmax(structure, f)
        compiled = torch.compile(lambda v, soft=soft: soft(v, 0.5), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(given), soft(u, 0.5, mask=allowed), rtol=0, atol=1e-8)
