"""Hulls far from 0: what is near is measured by their size, not by where they are."""

import cvxpy as cp
import pytest
import torch

import sst_cvx as sst
from sst_cvx import native


def mixtures(points: torch.Tensor) -> sst.Structure:
    """Their hull, by weights."""
    x, w = cp.Variable(points.shape[1]), cp.Variable(len(points), nonneg=True)
    return sst.Structure(x, [cp.sum(w) == 1, x == points.numpy().T @ w])


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("offset", [0.0, 1e2, 1e3, 1e4])
def test_euclidean_answers_move_along(offset, on):
    """X_t(u + t c) over the hull moved by c is X_t(u) + c: once a face too small was taken for the right one. Far away
    a few are refused."""
    generator = torch.Generator().manual_seed(0)
    for size in (5, 7):
        points = torch.randn(size, 3, generator=generator, dtype=torch.float64)
        u = torch.randn(16, 3, generator=generator, dtype=torch.float64)
        right = sst.SoftArgmax(sst.Structure.from_vertices(points), sst.Euclidean(), path="active_set")(u)
        with native.switched(on):
            soft = sst.SoftArgmax(mixtures(points + offset), sst.Euclidean())
            assert soft.path == "interior_point"
            x = soft(u + offset, on_failure="nan")
        refused = x.isnan().any(-1)
        assert int(refused.sum()) <= (offset == 1e4)
        torch.testing.assert_close((x - offset)[~refused], right[~refused], rtol=0, atol=1e-9 * (1 + offset))
