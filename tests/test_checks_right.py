"""sst.check raises no false alarm: random polytopes with exact facets, scaled and shifted, and special right sets."""

import cvxpy as cp
import pytest

import sst_cvx as sst
from tests.right_sets import TwoOfFive, random_structure


@pytest.mark.parametrize("seed", [pytest.param(s, marks=pytest.mark.exhaustive if s >= 40 else ()) for s in range(200)])
@pytest.mark.slow
def test_random_polytopes(seed):
    sst.check(random_structure(seed), verbose=False).raise_if_failed()


@pytest.mark.parametrize("size", [1e-3, 1e3])
def test_boxes(size):
    x = cp.Variable(3)
    box = sst.Structure(x, [x >= 0, x <= size])
    report = sst.check(box, [sst.Euclidean()], temperatures=(0.3,), verbose=False)
    report.raise_if_failed()
    assert [r.ok for r in report.results if r.name.endswith("optimality gap, t=0.3")] == [True]


def test_masks_of_a_subclass_with_vertices():
    class Listed(sst.Structure):
        def __init__(self):
            x = cp.Variable(5)
            super().__init__(x, [x >= 0, x <= 1, cp.sum(x) == 2])

        def vertices(self):
            return TwoOfFive.vertices(self)

    report = sst.check(Listed(), [sst.ExponentialFamilyEntropy()], temperatures=(1.0,), verbose=False)
    report.raise_if_failed()
    (masked,) = (r for r in report.results if r.name.endswith("forbidden items"))
    assert masked.ok
