"""Matchings and permutahedra where the host must not be asked: as on the host, or NaN."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import polytopes
import sst_cvx as sst
from polytopes.kernels.isotonic import LOGARITHMS, PLAIN, joined_to_last

CASES = [
    polytopes.Matching(5),
    polytopes.Matching(3, 5),
    polytopes.Matching(5, 3),
    polytopes.Matching(4, 3, partial=True),
    polytopes.Permutahedron(torch.tensor([2.0, 1.0, 1.0, 0.5, 0.0, 0.0])),
]
PAIRS = [(s, f) for s in CASES for f in (sst.CategoricalEntropy(), sst.ExponentialFamilyEntropy())]


class NoReads(TorchDispatchMode):
    reads = "_local_scalar_dense", "is_nonzero", "nonzero", "equal", "_unique2", "unique_dim", "masked_select"

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in self.reads, func
        return func(*args, **(kwargs or {}))


def both(function, u):
    v = u.clone().requires_grad_()
    x = function(v)
    return x.detach(), *torch.autograd.grad(x.square().sum(), v)


@pytest.mark.parametrize("scale", [0.0, 1e-2, 1.0, 30.0, 1000.0])
@pytest.mark.parametrize(("structure", "f"), PAIRS, ids=str)
def test_as_on_the_host(structure, f, scale):
    u = scale * torch.randn(4, *structure.event_shape, dtype=torch.float64)
    soft = sst.SoftArgmax(structure, f)
    expected = both(soft, u)
    with sst.guard("nan"), NoReads():
        found = both(soft, u)
    sst.synchronize()
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("structure", CASES[:4], ids=str)
def test_masks(structure):
    generator = torch.Generator().manual_seed(0)
    u = 3 * torch.randn(6, *structure.event_shape, dtype=torch.float64, generator=generator)
    mask = torch.rand(u.shape, generator=generator) < 0.7
    mask[:, range(3), range(3)] = True
    mask[:, 3:] = mask[:, :, 3:] = False
    soft = sst.SoftArgmax(structure, sst.CategoricalEntropy())
    expected = both(lambda v: soft(v, 0.5, mask=mask), u)
    with sst.guard("nan"), NoReads():
        found = both(lambda v: soft(v, 0.5, mask=mask), u)
    sst.synchronize()
    mapped = torch.func.vmap(lambda v, m: soft(v, 0.5, mask=m))(u, mask)
    torch.testing.assert_close(mapped, expected[0], atol=1e-9, rtol=0)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-8)


def test_failures_stay_with_their_elements():
    soft = sst.SoftArgmax(polytopes.Matching(3), sst.CategoricalEntropy())
    u = torch.randn(5, 3, 3, dtype=torch.float64)
    u[1, 0, 0], u[2, 1, 1], u[3] = torch.nan, torch.inf, 1e8 * u[3]
    compiled = torch.compile(soft, fullgraph=True, backend="eager")(u)
    with sst.guard("nan"):
        x = soft(u)
    with pytest.raises(sst.SolveError):
        sst.synchronize()
    good = soft(u[[0, 4]])
    for answer in (x, compiled):
        torch.testing.assert_close(answer[[0, 4]], good, atol=1e-10, rtol=0)
        assert answer[1:4].isnan().all()


def test_no_matching_is_not_a_number():
    soft = sst.SoftArgmax(polytopes.Matching(3), sst.CategoricalEntropy())
    mask = torch.ones(2, 3, 3, dtype=torch.bool)
    mask[0, :, 1:] = mask[0, 0] = False
    mask[0, 0, 1] = True
    with sst.guard("nan"):
        x = soft(torch.randn(2, 3, 3, dtype=torch.float64), mask=mask)
    assert x[0].isnan().all()
    assert x[1].isfinite().all()
    with pytest.raises(sst.SolveError):
        sst.synchronize()


@pytest.mark.parametrize("mean", [PLAIN, LOGARITHMS])
def test_blocks_are_the_same(mean):
    y = torch.randint(-3, 4, (50, 13)).double()
    mass = torch.zeros(13, dtype=torch.float64) if mean is LOGARITHMS else torch.ones(13, dtype=torch.float64)
    expected = joined_to_last(y, mass, mean)
    with sst.guard("nan"), NoReads():
        found = joined_to_last(y, mass, mean)
    assert torch.equal(found, expected)


def test_compiled_batches():
    soft = sst.SoftArgmax(polytopes.Matching(3, 4), sst.CategoricalEntropy())
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(soft, fullgraph=True, backend=counter)
    for batch in (2, 3, 5, 7):
        u = torch.randn(batch, 3, 4, dtype=torch.float64)
        torch.testing.assert_close(both(compiled, u), both(soft, u))
    assert counter.frame_count <= 2
