"""Compiled sweeps over label sequences against those of tensors."""

from __future__ import annotations

import pytest
import torch

from polytopes.kernels import chain_sums
from sst_cvx import native

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5}
SIZES = [(1, 1), (1, 4), (3, 2), (7, 5), (2, 33), (12, 3)]


def answers(u: torch.Tensor, allowed: torch.Tensor | None, ends: torch.Tensor | None) -> list[torch.Tensor]:
    """Log-sums, marginals, their derivatives, those of these, and best sequences."""
    u = u.clone().requires_grad_()
    value, x = chain_sums.marginals(u, allowed, ends)
    direction = torch.linspace(-1, 1, u[0].numel(), dtype=u.dtype).reshape(u[0].shape)
    (plain,) = torch.autograd.grad((x * direction).sum(), u, retain_graph=True)
    (first,) = torch.autograd.grad((x * direction).sum() + value.sum(), u, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), u)
    with torch.no_grad():
        again, y = chain_sums.log_sums(u, allowed, ends), chain_sums.marginals(u, allowed, ends)[1]
    best, off = chain_sums.best(u.detach(), allowed, ends), chain_sums.imbalance(y, ends)
    return [value.detach(), again, x.detach(), y, plain, first.detach(), second, best, off]


@pytest.mark.parametrize("scale", [0.0, 1.0, 1000.0])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_random_scores(dtype, scale):
    hold(SIZES, dtype, scale)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_more_steps_than_a_run(dtype):
    hold([(60, 3), (150, 6), (9, 40)], dtype, 1.0)


def hold(sizes: list[tuple[int, int]], dtype: torch.dtype, scale: float) -> None:
    """One against the other, with masks and lengths."""
    generator = torch.Generator().manual_seed(0)
    for steps, labels in sizes:
        u = scale * torch.randn(4, steps, labels, labels, dtype=dtype, generator=generator)
        allowed = torch.rand(u.shape, generator=generator) < 0.8
        allowed[0], allowed[3] = True, False  # all, none
        ends = torch.randint(1, steps + 1, (4,), generator=generator)
        for mask, lengths in ((None, None), (allowed, None), (None, ends), (allowed, ends)):
            found = answers(u, mask, lengths)
            with native.switched(False):
                expected = answers(u, mask, lengths)
            empty = expected[0] < -1e29
            assert torch.equal(empty, found[0] < -1e29)
            for ours, right in zip(found, expected, strict=True):
                live = ~empty.reshape(-1, *[1] * (right.dim() - 1))
                ours, right = torch.where(live, ours, 0.0), torch.where(live, right, 0.0)
                room = TOLERANCE[dtype] * (1 + float(right.abs().max()))
                torch.testing.assert_close(ours, right, rtol=0, atol=room)
            for part in (*found[2:4], *expected[2:4], *found[7:8], *expected[7:8]):
                assert bool((part[empty] == 0).all())


@pytest.mark.parametrize("count", [0, 1, 3])
def test_batches(count):
    u = torch.randn(count, 3, 2, 2, dtype=torch.float64)
    found = chain_sums.log_sums(u), chain_sums.marginals(u)[1], chain_sums.best(u)
    with native.switched(False):
        expected = chain_sums.log_sums(u), chain_sums.marginals(u)[1], chain_sums.best(u)
    for ours, right in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, right, rtol=0, atol=1e-12)


def test_ties_go_to_the_first_label_either_way():
    for steps, labels in SIZES[1:5]:
        u = torch.randint(2, (4, steps, labels, labels)).double()
        allowed = torch.rand(u.shape) < 0.9
        for mask in (None, allowed):
            with native.switched(False):
                expected = chain_sums.best(u, mask)
            assert torch.equal(chain_sums.best(u, mask), expected)


def test_lengths_of_masks():
    allowed = torch.rand(40, 6, 2, 2) < 0.3
    allowed[:10, 3:], allowed[10] = False, False
    with native.switched(False):
        expected = chain_sums.lengths(allowed)
    assert torch.equal(chain_sums.lengths(allowed), expected)
    assert int(expected[10]) == 6


def test_exponentials():
    """Within 2 units in the last place of torch's; 0 below the normal numbers, NaN of NaN."""
    pytest.importorskip("numba")
    from polytopes.kernels.native.chain import exponentials

    x = -torch.cat([torch.rand(10_000, dtype=torch.float64) * 700, torch.logspace(-20, 2, 1000, dtype=torch.float64)])
    ours = x.clone()
    exponentials(ours.numpy())
    assert float(((ours - x.exp()) / x.exp()).abs().max()) < 4.5e-16
    edges = torch.tensor([0.0, -709.0, -torch.inf, torch.nan], dtype=torch.float64)
    exponentials(edges.numpy())
    assert edges[:3].tolist() == [1.0, 0.0, 0.0]
    assert bool(edges[3].isnan())


def test_what_is_not_a_number_shows():
    u = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    u[1, 2, 0, 1] = torch.nan
    value, x = chain_sums.marginals(u)
    assert value.isnan().tolist() == [False, True]
    assert x.flatten(1).isnan().any(1).tolist() == [False, True]
    assert chain_sums.imbalance(x).isnan().tolist() == [False, True]
