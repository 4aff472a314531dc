"""soft_rank, soft_sort, soft_top_k: against torchsort's definitions, written out here, and in their limits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.optimize import isotonic_regression

import polytopes
import sst_cvx as sst
from polytopes import soft_rank, soft_sort, soft_sorting, soft_top_k
from sst_cvx import native

D = torch.float64


def isotonic_l2(y: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.from_numpy(isotonic_regression(row.numpy(), increasing=False).x.copy()) for row in y])


def isotonic_kl(y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """v_i = min over a <= i of max over b >= i of log sum exp y - log sum exp w, both from a to b."""
    n, v = y.shape[-1], torch.empty_like(y)
    for i in range(n):
        means = [
            torch.stack([y[:, a : b + 1].logsumexp(1) - w[a : b + 1].logsumexp(0) for b in range(i, n)]).amax(0)
            for a in range(i + 1)
        ]
        v[:, i] = torch.stack(means).amin(0)
    return v


def torchsorts_rank(u: torch.Tensor, regularization: str, strength: float) -> torch.Tensor:
    """``torchsort.ops.SoftRank.forward``."""
    w = torch.arange(u.shape[1], 0, -1, dtype=u.dtype)
    s, permutation = torch.sort(u / strength, descending=True)
    inverse = permutation.argsort(1)
    if regularization == "l2":
        return (s - isotonic_l2(s - w)).gather(1, inverse)
    return (s - isotonic_kl(s, w.log())).exp().gather(1, inverse)


def torchsorts_sort(u: torch.Tensor, strength: float) -> torch.Tensor:
    """``torchsort.ops.SoftSort.forward``, "l2"."""
    w = torch.arange(u.shape[1], 0, -1, dtype=u.dtype) / strength
    s = torch.sort(-u, descending=True).values
    return -(w - isotonic_l2(w - s))


@pytest.mark.parametrize("strength", [0.01, 0.3, 1.0, 20.0])
@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_torchsorts_definitions(n, strength):
    u = torch.randn(6, n, dtype=D)
    categorical = sst.CategoricalEntropy()
    torch.testing.assert_close(soft_rank(u, strength), torchsorts_rank(u, "l2", strength), rtol=1e-9, atol=1e-9)
    if n < 40:
        kl = torchsorts_rank(u, "kl", strength)
        torch.testing.assert_close(soft_rank(u, strength, categorical), kl, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(soft_sort(u, strength), torchsorts_sort(u, strength), rtol=1e-9, atol=1e-9)


def test_limits_and_order():
    u = torch.tensor([[0.3, -1.0, 2.0, 0.5]])
    assert torch.equal(soft_rank(u, 1e-3), torch.tensor([[2.0, 1.0, 4.0, 3.0]]))
    assert torch.equal(soft_rank(u, 1e-3, descending=True), torch.tensor([[3.0, 4.0, 1.0, 2.0]]))
    assert torch.equal(soft_sort(u, 1e-3), u.sort().values)
    assert torch.equal(soft_sort(u, 1e-3, descending=True), u.sort(descending=True).values)
    assert torch.equal(soft_top_k(u, 2, 1e-3), torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    torch.testing.assert_close(soft_rank(u, 1e6), torch.full((1, 4), 2.5))
    torch.testing.assert_close(soft_sort(u, 1e6), torch.full((1, 4), 0.45))
    torch.testing.assert_close(soft_top_k(u, 2, 1e6), torch.full((1, 4), 0.5))
    ties = torch.tensor([1.0, 0.0, 1.0, 1.0])
    assert torch.equal(soft_rank(ties, 0.1), torch.tensor([3.0, 1.0, 3.0, 3.0]))


@pytest.mark.parametrize(
    "function",
    [
        soft_rank,
        lambda u, t: soft_rank(u, t, sst.CategoricalEntropy(), True),
        soft_sort,
        lambda u, t: soft_sort(u, t, descending=True),
        lambda u, t: soft_top_k(u, 2, t),
        lambda u, t: soft_top_k(u, 2, t, sst.BinaryEntropy()),
    ],
)
@pytest.mark.parametrize("on", [True, False])
def test_gradients(function, on):
    with native.switched(on):
        u = torch.randn(2, 3, 5, dtype=D, requires_grad=True)
        t = torch.tensor([0.6, 0.3, 1.5], dtype=D, requires_grad=True)
        assert torch.autograd.gradcheck(function, (u, t))
        assert torch.autograd.gradgradcheck(function, (u, t))
        rows = torch.stack([function(v, 0.4) for v in u.detach().flatten(0, 1)]).view_as(u)
        torch.testing.assert_close(rows, function(u.detach(), 0.4))
        torch.testing.assert_close(torch.func.vmap(lambda v: function(v, 0.4))(u.detach()), rows)


@pytest.mark.parametrize("function", [soft_rank, soft_sort, lambda u, t: soft_top_k(u, 1, t)])
def test_shapes_and_dtypes(function, batch_shape, dtype):
    u = torch.randn(*batch_shape, 3).to(dtype)
    x = function(u, 0.5)
    assert x.dtype == dtype
    assert x.shape == u.shape
    exact = function(u.double(), 0.5)
    torch.testing.assert_close(x.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=2 * torch.finfo(dtype).eps)


def test_structures_are_kept_by_size_and_regularizer(monkeypatch):
    monkeypatch.setattr(soft_sorting, "_KEPT", {})
    monkeypatch.setattr(soft_sorting, "_MOST", 3)
    u = torch.randn(4)
    for _ in range(3):
        soft_rank(u, regularizer=sst.CategoricalEntropy())
        soft_top_k(u, 2, regularizer=sst.TsallisEntropy(1.5))
    assert len(soft_sorting._KEPT) == 2
    half, other = soft_top_k(u, 2, 1.0, sst.TsallisEntropy(1.5)), soft_top_k(u, 2, 1.0, sst.TsallisEntropy(1.2))
    assert not torch.equal(half, other)
    for n in range(2, 9):
        assert torch.equal(soft_rank(torch.arange(float(n)), 0.1), torch.arange(1.0, n + 1))
    assert len(soft_sorting._KEPT) == 3
    weighted = [sst.Euclidean(weights=torch.tensor([1.0, w, 1.0, 1.0])) for w in (2.0, 3.0)]
    first, second = (soft_top_k(u, 2, 1.0, f) for f in weighted)
    assert not torch.equal(first, second)


@pytest.mark.slow
def test_compiled_once_called():
    u = torch.randn(3, 6)
    for function in (soft_rank, soft_sort, lambda v: soft_top_k(v, 2)):
        expected = function(u)
        torch._dynamo.reset()
        compiled = torch.compile(function, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(u), expected)


def test_bad_input():
    u = torch.randn(3)
    functions: list[Any] = [soft_rank, soft_sort, lambda u, t=1.0: soft_top_k(u, 1, t)]
    for function in functions:
        with pytest.raises(TypeError, match="utilities must be a floating-point tensor"):
            function(torch.arange(3))
        with pytest.raises(TypeError, match="utilities must be a floating-point tensor"):
            function([1.0, 2.0])
        with pytest.raises(ValueError, match=r"utilities must be \(\*batch, n\)"):
            function(torch.tensor(1.0))
        with pytest.raises(ValueError, match="finite"):
            function(torch.tensor([0.0, torch.nan]))
        for t in (0.0, -1.0, torch.tensor(-1.0)):
            with pytest.raises(ValueError, match="temperature must be positive"):
                function(u, t)
        with pytest.raises(ValueError, match="does not broadcast"):
            function(u, torch.ones(2))
    with pytest.raises(ValueError, match="k must be"):
        soft_top_k(u, 4)
    with pytest.raises(TypeError, match="k must be"):
        soft_top_k(u, 1.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="regularizer must be"):
        soft_rank(u, 1.0, "l2")  # pyright: ignore[reportArgumentType]
    with sst.guard("nan"):
        x = soft_sort(torch.tensor([[0.0, torch.inf], [1.0, 0.0]]), 1e-3)
    assert x[0].isnan().all()
    assert torch.equal(x[1], torch.tensor([0.0, 1.0]))


def test_names_are_exported():
    assert {"soft_rank", "soft_sort", "soft_top_k"} <= set(polytopes.__all__)
