"""``torch.func`` over the kernels: gradients, forward mode and mapped batches of what is a constant inside, too."""

from __future__ import annotations

import pytest
import torch

import polytopes
from polytopes.kernels.sinkhorn import entropic_matching
from polytopes.kernels.subset_sums import log_elementary_symmetric, subset_marginals
from polytopes.kernels.subset_sums_up_to import log_elementary_symmetric_up_to

SUMS = {
    "of size k": lambda u: log_elementary_symmetric(u, 3),
    "up to size k": lambda u: log_elementary_symmetric_up_to(u, 3),
    "up to size k, by FFT": lambda u: log_elementary_symmetric_up_to(u, 15),
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_over_subsets(name):
    function = SUMS[name]
    u, d = torch.randn(2, 4, 20, dtype=torch.float64)
    leaf = u.clone().requires_grad_()
    (expected,) = torch.autograd.grad(function(leaf).sum(), leaf)
    torch.testing.assert_close(torch.func.vmap(function)(u), function(u))
    torch.testing.assert_close(torch.func.grad(lambda v: function(v).sum())(u), expected)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(function))(u), expected)
    _, forward = torch.func.jvp(function, (u,), (d,))
    torch.testing.assert_close(forward, (expected * d).sum(-1))


def test_marginals_of_subsets():
    u, d = torch.randn(2, 4, 20, dtype=torch.float64)
    leaf = u.clone().requires_grad_()
    (expected,) = torch.autograd.grad((subset_marginals(leaf, 3) * d).sum(), leaf)
    torch.testing.assert_close(torch.func.jvp(lambda v: subset_marginals(v, 3), (u,), (d,))[1], expected)
    torch.testing.assert_close(torch.func.vjp(lambda v: subset_marginals(v, 3), u)[1](d)[0], expected)


def test_masks_of_matchings_are_mapped_over():
    u, allowed = torch.randn(2, 3, 3), polytopes.Matching(3).length_mask(torch.tensor([2, 3]))
    found = torch.func.vmap(lambda v, m: entropic_matching(v, True, True, m))(u, allowed)
    torch.testing.assert_close(found, entropic_matching(u, True, True, allowed))
