"""Sums over subsets of up to k items: the product tree, by FFT beyond a degree, against counting item by item."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polytopes.kernels import subset_sums_up_to
from polytopes.kernels.subset_sums_up_to import log_elementary_symmetric_up_to
from tests.oracles import _counts as counts_by_size


def counted(u: torch.Tensor, k: int) -> torch.Tensor:
    """In long doubles."""
    sums = np.logaddexp.reduce(counts_by_size(u.numpy().astype(np.longdouble), k)[-1], axis=-1)
    return torch.from_numpy(sums.astype(np.float64))


def gradient(u: torch.Tensor, k: int) -> torch.Tensor:
    leaf = u.clone().requires_grad_()
    return torch.autograd.grad(log_elementary_symmetric_up_to(leaf, k).sum(), leaf)[0]


@pytest.mark.parametrize("shift", [-8.0, 0.0, 8.0])  # few heads expected, some, or more than k
@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
@pytest.mark.parametrize(("n", "k"), [(40, 20), (41, 9), (300, 250), (300, 300)])
def test_by_fft_against_counting(n, k, scale, shift, monkeypatch):
    multiplied = []
    transform = torch.fft.rfft
    monkeypatch.setattr(torch.fft, "rfft", lambda a, n: multiplied.append(n) or transform(a, n=n))
    u = scale * torch.randn(4, n, dtype=torch.float64) + shift
    value = log_elementary_symmetric_up_to(u, k)
    assert multiplied
    torch.testing.assert_close(value, counted(u, k), rtol=1e-13, atol=1e-11)
    x = gradient(u, k)
    monkeypatch.setattr(subset_sums_up_to, "_DIRECT", n)
    del multiplied[:]
    torch.testing.assert_close(x, gradient(u, k), rtol=0, atol=1e-11)
    assert not multiplied
    torch.testing.assert_close(gradient(u.float(), k).double(), gradient(u.float().double(), k), rtol=0, atol=2e-6)


def test_by_fft_has_two_derivatives(monkeypatch):
    monkeypatch.setattr(subset_sums_up_to, "_DIRECT", 1)
    u = torch.randn(2, 7, dtype=torch.float64, requires_grad=True)
    for k in (3, 6, 7):
        torch.autograd.gradcheck(lambda v, k=k: log_elementary_symmetric_up_to(v, k), u)
        torch.autograd.gradgradcheck(lambda v, k=k: log_elementary_symmetric_up_to(v, k), u)
