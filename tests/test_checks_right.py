"""sst.check raises no false alarm: random polytopes with exact facets, scaled and shifted, and special right sets."""

import cvxpy as cp
import pytest

import sst_cvx as sst
from sst_cvx.paths.fast import registry
from sst_cvx.paths.layer.path import LayerPath
from tests.planted import bent, right
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


def test_relaxations():
    """With integral=False soft answers, and their limit, are over the declared hull."""
    x = cp.Variable(4)
    loose = [x >= 0, x <= 1, 2 * x[0] + 3 * x[1] + 2 * x[2] + 3 * x[3] <= 4]
    relaxation = sst.Structure(x, loose, integral=False)
    sst.check(relaxation, [sst.Euclidean()], temperatures=(0.1,), verbose=False).raise_if_failed()


@pytest.mark.parametrize(("off", "layer_off", "ok"), [(0.0, 1e-5, True), (1e-5, 0.0, False), (0.0, 1e-2, False)])
def test_who_is_off_by_a_little(off, layer_off, ok, monkeypatch):
    """A layer that misses its 1e-6 by little is overruled by the certificate; a wrong fast path is not."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    sst.fast_path(TwoOfFive, sst.BinaryEntropy)(lambda s, f, u: bent(right(u), off))
    answer = LayerPath.answer
    monkeypatch.setattr(LayerPath, "answer", lambda self, batch: bent(answer(self, batch), layer_off))
    checks = sst.checks(TwoOfFive(), [sst.BinaryEntropy()], temperatures=(1.0,))
    (value,) = (c for c in checks if c.name.endswith("value = layer, t=1"))
    assert value.run().ok is ok
