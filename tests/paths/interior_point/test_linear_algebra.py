"""Dense, condensed and sparse factors of the same Newton systems."""

import pytest
import torch

import polytopes
from sst_cvx.paths.interior_point.dense import CondensedFactor, DenseRows, SchurFactor
from sst_cvx.paths.interior_point.sparse import SparseRows, prefers_sparse
from sst_cvx.paths.interior_point.standard_form import StandardForm
from tests.hulls import trees_by_martin
from tests.paths.interior_point.table import HULLS


@pytest.mark.parametrize("make", [HULLS[n] for n in ("pairs", "subtours", "Martin, sparse", "random, many rows")])
def test_factors_solve_the_same_system(make):
    form = StandardForm.of_hull(make().hull.at(), (0.0, 1.0))
    device, generator = torch.device("cpu"), torch.Generator().manual_seed(0)
    rows, sparse = DenseRows(form, device), SparseRows(form, device)
    d, p, q = (
        torch.randn(5, n, dtype=torch.float64, generator=generator) for n in (form.columns, form.columns, form.rows)
    )
    d = d.exp()
    factors = [SchurFactor(rows, d), sparse.factor(d)]
    factors += [CondensedFactor(rows, d)] if form.slacks else []
    for factor in factors:
        dw, dy = factor.solve(p, q)
        for _ in range(3):  # the sparse one is regularised
            more, dy_more = factor.solve(torch.zeros_like(p), q - rows.times(dw))
            dw, dy = dw + more, dy + dy_more
        assert float((rows.times(dw) - q).abs().max()) < 1e-9
        assert float((dw / d + rows.transposed(dy) - p).abs().max()) < 1e-9
        assert float((sparse.times(dw) - rows.times(dw)).abs().max()) < 1e-12


def test_sparse_products_are_the_dense_ones():
    """Of 80 vertices and 300 edges, a loop and a parallel edge among them; and of few rows, which are dense."""
    generator = torch.Generator().manual_seed(0)
    edge_index = torch.cat([torch.randint(80, (2, 297), generator=generator), torch.tensor([[0, 1, 1], [0, 2, 2]])], 1)
    form = StandardForm.of_hull(polytopes.Flow(edge_index, [0] * 80, 2).declared_hull.at(), (0.0, 2.0))
    rows, d = DenseRows(form, torch.device("cpu")), torch.rand(3, form.core.shape[1], generator=generator).double()
    assert rows._products is not None
    torch.testing.assert_close(rows.gram(d), rows.core * d[:, None] @ rows.core_t, rtol=0, atol=1e-14)
    assert DenseRows(StandardForm.of_hull(HULLS["pairs"]().hull.at(), (0.0, 1.0)), d.device)._products is None


def test_crossover():
    assert not prefers_sparse(StandardForm.of_hull(trees_by_martin(4).hull.at(), (0.0, 1.0)))
    assert prefers_sparse(StandardForm.of_hull(trees_by_martin(6).hull.at(), (0.0, 1.0)))
