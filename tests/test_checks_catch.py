"""sst.check must be able to fail: planted faults, each named by the check that should see it."""

import cvxpy as cp
import pytest
import torch

import sst_cvx as sst
from polytopes.kernels.threshold import threshold_map
from sst_cvx.paths.fast import registry
from tests.right_sets import TwoOfFive


def failures(structure, *regularizers):
    report = sst.check(structure, list(regularizers), verbose=False)
    assert report.ok == (not report.failures)
    return [r.name for r in report.failures]


def test_a_right_structure_passes():
    assert failures(TwoOfFive(), sst.Euclidean(), sst.ExponentialFamilyEntropy()) == []


class TestStructure:
    def test_hull_too_large(self):
        loose = TwoOfFive(lambda x: [x >= 0, x <= 1, cp.sum(x) <= 2])
        assert "hull is no larger than conv(X)" in failures(loose)

    def test_hull_too_small(self):
        tight = TwoOfFive(lambda x: [x >= 0, x <= 0.9, cp.sum(x) == 2])
        assert "vertices lie in the hull" in failures(tight)

    def test_fractional_vertices_without_a_list(self):
        x = cp.Variable(3)
        triangle = sst.Structure(x, [x >= 0, x[0] + x[1] <= 1, x[1] + x[2] <= 1, x[0] + x[2] <= 1])
        assert "hull is no larger than conv(X)" in failures(triangle)

    def test_missing_vertex(self):
        class Fault(TwoOfFive):
            def vertices(self):
                return super().vertices()[1:]

        assert "hull is no larger than conv(X)" in failures(Fault())

    def test_argmax_second_best(self):
        class Fault(TwoOfFive):
            def argmax(self, u):
                return torch.zeros_like(u).scatter(-1, u.topk(3, -1).indices[..., [0, 2]], 1.0)

        assert "argmax is a best element of X" in failures(Fault())

    def test_argmax_outside(self):
        class Fault(TwoOfFive):
            def argmax(self, u):
                return (u > 0).to(u.dtype)

        assert "argmax is a best element of X" in failures(Fault())

    @pytest.mark.parametrize("auxiliary", [False, True])
    @pytest.mark.parametrize(
        "wrong",
        [
            lambda u: 10 * u.sign(),
            lambda u: torch.zeros_like(u).scatter(-1, u.topk(5, -1).indices, 1.0),  # forgets the pairs
            lambda u: (u > 0).to(u),
        ],
    )
    def test_argmax_outside_a_hull_without_a_list(self, wrong, auxiliary):
        class Pairs(sst.Structure):
            def __init__(self):
                x = cp.Variable(8)
                z = cp.Variable(8) if auxiliary else x
                super().__init__(x, [z == x, x >= 0, z[0::2] + z[1::2] <= 1, cp.sum(z) <= 3])

            def argmax(self, u):
                return wrong(u)

        assert "argmax is a best element of X" in failures(Pairs())

    def test_argmax_forgets_the_batch_or_the_dtype(self):
        class Shape(TwoOfFive):
            def argmax(self, u):
                return super().argmax(u.reshape(-1, 5))

        class Dtype(TwoOfFive):
            def argmax(self, u):
                return super().argmax(u.double())

        for fault in (Shape, Dtype):
            assert "argmax is a best element of X" in failures(fault())

    def test_elements_are_not_binary(self):
        class Fault(sst.Structure):
            known_binary = True

            def __init__(self):
                x = cp.Variable(3)
                super().__init__(x, [x >= 0, x <= 2])

        assert "elements are 0/1 arrays, as declared" in failures(Fault())

    def test_log_partition(self):
        class Off(TwoOfFive):
            def log_partition(self, u):
                return super().log_partition(u) * (1 + 1e-8)

        class Overflow(TwoOfFive):
            def log_partition(self, u):
                return (u @ self.vertices().T.to(u.dtype)).exp().sum(-1).log()

        for fault in (Off, Overflow):
            assert "log-partition equals enumeration" in failures(fault())


def binary(structure, regularizer, u):
    return threshold_map(u, 2, sst.BinaryEntropy())


class _Detached(torch.autograd.Function):
    """The right value with 99 % of the gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return 0.99 * grad


def _leaks(s, f, u):
    """Every element is moved along the hull by the batch's mean."""
    return binary(s, f, u + 1e-4 * u.detach().mean(0, keepdim=True)) if u.dim() > 1 else binary(s, f, u)


def _moved(s, f, u):
    """Inside the hull, but off by 1e-4."""
    x = binary(s, f, u)
    return x + 1e-4 * (x.mean(-1, keepdim=True) - x)


def _rounded_in_float32(s, f, u):
    return binary(s, f, u.float()).to(u.dtype)


def _overflows(s, f, u):
    x = binary(s, f, u)
    return x * (u.exp() / u.exp())


PLANTED = {
    "value": (_moved, "value = layer"),
    "small value": (_rounded_in_float32, "gradient = differences"),
    "gradient": (lambda s, f, u: _Detached.apply(binary(s, f, u)), "gradient = differences"),
    "gradient against the layer": (lambda s, f, u: _Detached.apply(binary(s, f, u)), "gradient = layer, t=1"),
    "no gradient": (lambda s, f, u: binary(s, f, u).detach() + 0 * u, "gradient = differences"),
    "constant": (lambda s, f, u: u * 0 + 0.4, "optimality gap"),
    "batch leak": (_leaks, "batch shapes"),
    "batch order": (lambda s, f, u: binary(s, f, u).flip(0) if u.dim() > 1 else binary(s, f, u), "batch shapes"),
    "dtype": (lambda s, f, u: binary(s, f, u.double()), "float32"),
    "outside": (lambda s, f, u: 2 * u.softmax(-1), "ties, zeros, huge ranges"),
    "overflow": (_overflows, "ties, zeros, huge ranges"),
    "soft for ever": (lambda s, f, u: binary(s, f, u / (1 + 0.01 * u.abs().amax())), "limit t -> 0 is the argmax"),
}


@pytest.mark.parametrize(("function", "name"), PLANTED.values(), ids=PLANTED)
def test_fast_path(function, name, monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    sst.fast_path(TwoOfFive, sst.BinaryEntropy)(function)
    found = failures(TwoOfFive(), sst.BinaryEntropy())
    assert any(name in failed for failed in found), found


def test_the_right_fast_path_passes(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    sst.fast_path(TwoOfFive, sst.BinaryEntropy)(binary)
    assert failures(TwoOfFive(), sst.BinaryEntropy()) == []


class TestReport:
    def test_raises_and_prints(self, capsys):
        report = sst.check(TwoOfFive(lambda x: [x >= 0, x <= 1, cp.sum(x) <= 2]), [])
        assert not report.ok
        with pytest.raises(sst.CheckFailed, match="hull is no larger"):
            report.raise_if_failed()
        assert "FAILED" in capsys.readouterr().out
        assert "hull is no larger than conv(X)" in str(report)

    def test_checks_are_callable(self):
        wrong = sst.checks(TwoOfFive(lambda x: [x >= 0, x <= 1, cp.sum(x) <= 2]), [])
        names = [str(c) for c in wrong]
        assert len(set(names)) == len(names)
        with pytest.raises(sst.CheckFailed, match="beyond the bound"):
            wrong[names.index("hull is no larger than conv(X)")]()

    def test_unsupported_pair_that_was_asked_for(self):
        x = cp.Variable(2)
        box = sst.Structure(x, [x >= -1, x <= 1])
        assert failures(box, sst.BinaryEntropy()) == ["BinaryEntropy(): supported"]

    def test_parameters(self):
        x, k = cp.Variable(4), cp.Parameter(nonneg=True, name="k")
        structure = sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) == k])
        with pytest.raises(TypeError, match=r"missing \['k'\]"):
            sst.checks(structure)
        report = sst.check(structure, [sst.Euclidean(), sst.BinaryEntropy()], verbose=False, k=torch.tensor(2.0))
        report.raise_if_failed()
        assert sum(r.ok is True for r in report.results) > 15

    def test_needs_a_list_of_regularizers(self):
        with pytest.raises(TypeError, match=r"regularizers must be a list.*\[Euclidean\(\)\]"):
            sst.check(TwoOfFive(), sst.Euclidean())
        with pytest.raises(TypeError, match="regularizers must be a list"):
            sst.check(TwoOfFive(), [sst.Euclidean])
        assert len(sst.checks(TwoOfFive(), (f for f in [sst.Euclidean()]))) == len(
            sst.checks(TwoOfFive(), [sst.Euclidean()])
        )

    def test_needs_a_structure(self):
        with pytest.raises(TypeError, match=r"checks needs an sst\.Structure"):
            sst.check(TwoOfFive)
