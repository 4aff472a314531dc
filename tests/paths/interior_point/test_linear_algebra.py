"""Dense, condensed and sparse factors of the same Newton systems."""

import pytest
import torch

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


def test_crossover():
    assert not prefers_sparse(StandardForm.of_hull(trees_by_martin(4).hull.at(), (0.0, 1.0)))
    assert prefers_sparse(StandardForm.of_hull(trees_by_martin(6).hull.at(), (0.0, 1.0)))
