"""Sums over k-subsets by a few frequencies, against counting in long doubles."""

import numpy as np
import pytest
import torch

import polytopes
import sst_cvx as sst
from tests.oracles import counting

SIZES = [(2, 1), (3, 2), (20, 5), (100, 99), (350, 10), (1000, 100)]
LARGEST = pytest.param(1000, 500, marks=pytest.mark.slow)


@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0, 100.0, 1000.0, 1e4])
@pytest.mark.parametrize(("n", "k"), [*SIZES, LARGEST])
def test_marginals_at_every_scale(n, k, scale):
    structure = polytopes.KSubset(n, k)
    soft = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())
    u = scale * torch.randn(8, n)
    truth = torch.from_numpy(counting(structure, u).astype(np.float64))
    for dtype, tolerance in ((torch.float32, 1e-7), (torch.float64, 1e-16 * max(scale, 10) * 100)):
        leaf = u.to(dtype).requires_grad_()
        (gradient,) = torch.autograd.grad(structure.log_partition(leaf).sum(), leaf)
        for x in (soft(u.to(dtype)), gradient):
            assert x.dtype == dtype
            assert (x.double() - truth).abs().max() < tolerance


@pytest.mark.parametrize(("n", "k"), [(6, 3), (40, 7)])
def test_log_partition_is_the_sum_over_subsets(n, k):
    """Item by item, in linear space, which small utilities allow."""
    u = torch.randn(5, n, dtype=torch.float64)
    table = torch.zeros(5, k + 1, dtype=torch.float64)
    table[:, 0] = 1
    for weight in u.exp().unbind(-1):
        table[:, 1:] = table[:, 1:] + weight[:, None] * table[:, :-1]
    torch.testing.assert_close(polytopes.KSubset(n, k).log_partition(u), table[:, k].log(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("u", [[0.0, 0, 0, 0, 0], [0.0, 0, 0.5, 4, -3], [9.0, -8, 0, 7, 7]], ids=str)
@pytest.mark.parametrize("k", [1, 2, 4])
def test_derivatives_up_to_the_third_fair_coins_included(u, k):
    """Ties make coins fair, whose factor vanishes at w = pi."""
    leaf = torch.tensor([u], dtype=torch.float64, requires_grad=True)
    structure = polytopes.KSubset(5, k)
    soft = sst.SoftArgmax(structure, sst.ExponentialFamilyEntropy())
    assert torch.autograd.gradcheck(soft, leaf)
    assert torch.autograd.gradgradcheck(soft, leaf)
    assert torch.autograd.gradgradcheck(structure.log_partition, leaf)
