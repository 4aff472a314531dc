"""Digits of every structure's log-partition and fast paths in 16 and 32 bits, with and without autocast."""

from __future__ import annotations

import contextlib

import pytest
import torch

import polytopes
import sst_cvx as sst
from tests.oracles import fast_pairs


@pytest.mark.parametrize("autocast", [None, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("structure", polytopes.EXAMPLES, ids=repr)
def test_log_partition_in_few_bits(structure, dtype, autocast):
    u = (2 * torch.randn(4, *structure.event_shape)).to(dtype).requires_grad_()
    v = u.detach().double().requires_grad_()
    with torch.autocast("cpu", autocast) if autocast else contextlib.nullcontext():
        value = structure.log_partition(u)
    expected = structure.log_partition(v)
    assert value.dtype == dtype
    digits = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(value.double(), expected, rtol=digits, atol=digits)
    (g,), (h,) = torch.autograd.grad(value.sum(), u), torch.autograd.grad(expected.sum(), v)
    torch.testing.assert_close(g.double(), h, rtol=digits, atol=digits)


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize(("structure", "regularizer"), fast_pairs(), ids=repr)
def test_float32_is_float64_of_the_same_numbers(structure, regularizer, offset):
    soft = sst.SoftArgmax(structure, regularizer)
    u = torch.randn(50, *structure.event_shape) + offset
    torch.testing.assert_close(soft(u).double(), soft(u.double()), rtol=0, atol=1e-6)
