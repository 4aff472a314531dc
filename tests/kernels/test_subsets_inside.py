"""Subsets, runs and paths where the host is not asked: the same numbers, without a host read."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import polytopes
import sst_cvx as sst
from polytopes.kernels.fixed_threshold import fixed_solve
from polytopes.kernels.threshold import solve_threshold, threshold_map

REGULARIZERS = [
    sst.Euclidean(),
    sst.CategoricalEntropy(),
    sst.BinaryEntropy(),
    *[sst.TsallisEntropy(alpha) for alpha in (1.5, 2.0, 1.2)],
]
DIAMOND = polytopes.Path(torch.tensor([[0, 0, 1, 2, 1], [1, 2, 3, 3, 2]]), 0, 3)
STRUCTURES = [
    polytopes.KSubset(7, 3),
    polytopes.AtMostKSubset(7, 3),
    polytopes.CorrelatedKSubset(6, 2),
    polytopes.Segment(6, 2, 4),
    DIAMOND,
]


class NoReads(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # pyright: ignore
        assert str(func).split(".")[1] not in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero"), func
        return func(*args, **(kwargs or {}))


def _utilities(n: int, dtype: torch.dtype, scale: float) -> torch.Tensor:
    torch.manual_seed(0)
    u = torch.randn(8, n, dtype=dtype)
    return scale * torch.cat([u, u.round(), u * 0, u.sign() * u.abs() ** 8])


@pytest.mark.parametrize("f", REGULARIZERS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_fixed_number_of_operations_finds_the_threshold(f, dtype):
    tolerance = 1e-11 if dtype == torch.float64 else 1e-6
    for n, total, scale in [(2, 1, 1.0), (7, 3, 1e-3), (60, 1, 1.0), (60, 30, 10.0), (60, 59, 1e4)]:
        u = _utilities(n, dtype, scale)
        expected = threshold_map(u, total, f)
        with sst.guard("nan"), NoReads():
            found = threshold_map(u, total, f)
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
        if not isinstance(f, sst.CategoricalEntropy):  # as a compiler sees it
            torch.testing.assert_close(fixed_solve(u, total, f)[0], expected, rtol=0, atol=tolerance)


def test_the_threshold_of_wide_gaps_is_bracketed():
    u = torch.tensor([[1e4, 0.0, -1.0], [3.0, 3.0, -1e4]], dtype=torch.float64)
    x, _ = fixed_solve(u, 1, sst.BinaryEntropy())
    torch.testing.assert_close(x, solve_threshold(u, 1, sst.BinaryEntropy())[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("s", STRUCTURES, ids=repr)
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_marginals_best_and_sums_without_the_host(s, scale):
    soft = sst.SoftArgmax(s, sst.ExponentialFamilyEntropy())
    u = _utilities(s.event_shape[0], torch.float64, scale)
    u = u + torch.linspace(0, 1e-3, s.event_shape[0])  # no ties for argmax
    v = torch.randn_like(u)

    def answers():
        w = u.clone().requires_grad_()
        x = soft(w)
        value = s.log_partition(w)
        (slope,) = torch.autograd.grad(value.sum(), w, retain_graph=True)
        return x.detach(), torch.autograd.grad(x, w, v)[0], value.detach(), slope

    expected = answers()
    with sst.guard("nan"), NoReads():
        found = answers()
    best = (s.argmax(u) * u).sum(-1)
    with sst.guard("nan"):
        torch.testing.assert_close((s.argmax(u) * u).sum(-1), best)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("s", STRUCTURES, ids=repr)
def test_samples_without_the_host(s):
    torch.manual_seed(0)
    u = torch.randn(s.event_shape, dtype=torch.float64)
    with sst.guard("nan"):
        x = s.sample(u.expand(20_000, -1))
    vertices = s.vertices()
    chances = (vertices @ u).softmax(0)
    counts = (x[:, None] == vertices).all(-1).double().mean(0)
    assert float(counts.sum()) == 1.0
    torch.testing.assert_close(counts, chances, rtol=0, atol=0.02)


@pytest.mark.parametrize("s", STRUCTURES, ids=repr)
def test_log_partition_under_transforms(s):
    torch.manual_seed(0)
    u = torch.randn(3, *s.event_shape, dtype=torch.float64)
    w = u.clone().requires_grad_()
    (x,) = torch.autograd.grad(s.log_partition(w).sum(), w, create_graph=True)
    (second,) = torch.autograd.grad(x.square().sum(), w)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(s.log_partition))(u), x.detach())
    hessian = torch.func.vmap(torch.func.hessian(s.log_partition))(u)
    torch.testing.assert_close(torch.einsum("bij,bj->bi", hessian, 2 * x.detach()), second)


@pytest.mark.parametrize("s", [DIAMOND, polytopes.CorrelatedKSubset(4, 2), polytopes.KSubset(5, 2)], ids=repr)
def test_compiled_marginals(s):
    torch._dynamo.reset()
    soft = sst.SoftArgmax(s, sst.ExponentialFamilyEntropy())
    u = torch.randn(3, *s.event_shape, dtype=torch.float64)

    def run(f):
        w = u.clone().requires_grad_()
        x = f(w)
        return x.detach(), torch.autograd.grad(x.square().sum(), w)[0]

    with sst.guard("nan"):
        soft(u)  # tables of the hull, which are computed once, are not made while tracing
    for a, b in zip(run(torch.compile(soft, fullgraph=True, backend="aot_eager")), run(soft), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
