"""Reports: what they print, and that a failure names the input at which it failed."""

from __future__ import annotations

import math
import re

import cvxpy as cp
import pytest
import torch

import sst_cvx as sst
from polytopes.kernels.threshold import threshold_map
from sst_cvx.checks.inputs import name_input, sample_utilities
from sst_cvx.checks.report import Check, CheckFailed, NotApplicable, Report, Result, Worst, at
from sst_cvx.paths.fast import registry
from tests.right_sets import TwoOfFive


def found(structure, name, *regularizers):
    """The one failure whose name ends so."""
    report = sst.check(structure, list(regularizers), verbose=False)
    (result,) = (r for r in report.failures if r.name.endswith(name))
    return result


def by_path(function, monkeypatch, name):
    """The failure of a planted fast path."""
    with monkeypatch.context() as patch:
        patch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
        sst.fast_path(TwoOfFive, sst.BinaryEntropy)(lambda s, f, u: function(u))
        return found(TwoOfFive(), name, sst.BinaryEntropy())


def right(u):
    return threshold_map(u, 2, sst.BinaryEntropy())


# -- printing -----------------------------------------------------------------------------------------------------


def test_repr_is_one_short_line():
    report = Report("Set(5)", [Result(f"check {i}", 1.0, 2.0, True) for i in range(80)])
    assert repr(report) == "<Report of Set(5): 80 passed, 0 failed, 0 skipped>"
    assert len(str(report).splitlines()) == 81
    long = repr(Report("Structure(\n" + 500 * "x" + ")", []))
    assert "\n" not in long
    assert len(long) < 150


@pytest.mark.parametrize("text", ["[capacity]", "[/bold]", "[red]", "a\\[b]", ":smile:", "ends in \\"])
def test_brackets_are_no_markup(text, capsys):
    pytest.importorskip("rich")
    Report(
        f"S({text})", [Result(f"f({text})", 1.0, 0.1, False, where=f"u{text}"), Result("b", 0.0, 1.0, None, text)]
    ).print()
    printed = capsys.readouterr().out
    for cell in (f"S({text})", f"f({text})", f"u{text}", f"(2) {text}"):
        assert cell in printed


def test_titles_of_hulls_with_parameters(capsys):
    x, k = cp.Variable(3), cp.Parameter(nonneg=True, name="capacity")
    sst.check(sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) == k]), [], capacity=torch.tensor(1.0))
    assert "[capacity]" in capsys.readouterr().out


def test_failures_say_where_in_every_form(capsys):
    at_u = "float32, batch element 3"
    report = Report("S", [Check("one", lambda: (2.0, 1e-6, at_u)).run(), Check("two", lambda: (0.0, 1e-6, "u")).run()])
    assert report.results[0] == Result("one", 2.0, 1e-6, False, where=at_u)
    report.print()
    for text in (str(report), capsys.readouterr().out):
        assert at_u in text
        assert "(2)" not in text  # what passed needs no word
    with pytest.raises(CheckFailed, match=f"one: 2.00e.00 is beyond the bound 1e-06, at {at_u}"):
        report.raise_if_failed()
    with pytest.raises(CheckFailed, match=f"beyond the bound 1e-06, at {at_u}"):
        Check("one", lambda: (2.0, 1e-6, at_u))()


def test_exceptions_say_where():
    def fails():
        with at("ties"), at("float32"):
            raise ValueError("no such thing")

    result = Check("three", fails).run()
    assert (result.note, result.where) == ("ValueError: no such thing", "ties, float32")
    assert "no such thing, at ties, float32" in str(Report("S", [result]))
    with pytest.raises(CheckFailed, match="ValueError: no such thing, at ties, float32"):
        Check("three", fails)()

    def skipped():
        with at("ties"):
            raise NotApplicable("too large")

    assert Check("four", skipped).run().ok is None


def test_nan_is_worse_than_anything():
    worst = Worst()
    for figure, where in ((1.0, "first"), (math.nan, "second"), (3.0, "third")):
        worst.see(figure, where)
    assert (worst.figure, worst.where) == (math.inf, "second")


# -- the checks name their inputs ---------------------------------------------------------------------------------


def numbers(where):
    """The utilities that a failure names."""
    return [float(x) for x in re.findall(r"-?\d[\d.e+-]*", where.split("u = [")[1].split("]")[0])]


def test_argmax_names_dtype_batch_and_utilities():
    class Fault(TwoOfFive):
        def argmax(self, u):
            ties = bool((u == u.round()).all()) and u.numel() and u.abs().amax() > 1
            return super().argmax(-u if ties and u.dtype == torch.float32 else u)

    where = found(Fault(), "argmax is a best element of X").where
    assert where.startswith("ties, float32, batch element")
    assert len(numbers(where)) == 5
    assert numbers(where) == [round(v) for v in numbers(where)]


def test_argmax_that_raises_names_the_batch():
    class Fault(TwoOfFive):
        def argmax(self, u):
            if u.numel() and float(u.abs().max()) > 1e3:
                raise OverflowError("too far")
            return super().argmax(u)

    result = found(Fault(), "argmax is a best element of X")
    assert result.note == "OverflowError: too far"
    assert result.where == "range 1e4, float64"


@pytest.mark.parametrize("method", ["argmax", "log_partition"])
def test_nan_does_not_pass(method):
    class Fault(TwoOfFive):
        pass

    def broken(self, u):
        x = getattr(TwoOfFive, method)(self, u)
        return torch.where(x == x.max(), torch.nan, x) if u.numel() and float(u.abs().max()) > 100 else x

    setattr(Fault, method, broken)
    name = {"argmax": "argmax is a best element of X", "log_partition": "log-partition equals enumeration"}[method]
    assert len(numbers(found(Fault(), name).where)) == 5


def test_log_partition_names_the_scale():
    class Fault(TwoOfFive):
        def log_partition(self, u):
            return super().log_partition(u) + (u.abs().amax() > 500)

    where = found(Fault(), "log-partition equals enumeration").where
    assert "scale 1000" in where
    assert max(map(abs, numbers(where))) > 100


def test_hull_names_vertex_and_direction():
    class Fault(TwoOfFive):
        def vertices(self):
            return torch.cat([super().vertices()[1:], torch.tensor([[1.0, 1, 1, 0, 0]], dtype=torch.float64)])

    assert "[1, 1, 1, 0, 0]" in found(Fault(), "vertices lie in the hull").where
    assert "direction [" in found(Fault(), "hull is no larger than conv(X)").where


@pytest.mark.parametrize("name", ["optimality gap, t=0.3", "value = layer, t=0.3", "limit t -> 0 is the argmax"])
def test_values_name_element_and_temperature(name, monkeypatch):
    """One of the four elements is wrong: the one of the smallest first utility."""

    def fault(u):
        wrong = (u[..., 0] == u[..., 0].amin())[..., None] & (len(u) == 4)
        return torch.where(wrong, right(-u), right(u))

    where = by_path(fault, monkeypatch, name).where
    u = sample_utilities(TwoOfFive(), (4,), seed=1)
    element = int(u[:, 0].argmin())
    assert f"batch element {element}" in where
    assert "t=0.3" in name or where.startswith("t=0.")  # said once
    assert numbers(where) == pytest.approx(u[element].tolist(), rel=1e-4)


@pytest.mark.parametrize("name", ["gradient = layer, t=1", "gradient = differences, t=0.1"])
def test_gradients_name_the_element(name, monkeypatch):
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return g * torch.tensor([1.0, 1.0, 0.7, 1.0], dtype=g.dtype)[:, None] if len(g) == 4 else g

    where = by_path(lambda u: Wrong.apply(right(u)), monkeypatch, name).where
    assert "batch element 2 of 4, u = [" in where


def test_awkward_inputs_are_named(monkeypatch):
    def fault(u):
        return 0 * u + 0.4 if bool((u == u.round()).all()) and u.abs().max() > 1 else right(u)

    assert by_path(fault, monkeypatch, "ties, zeros, huge ranges").where.startswith("ties, t=1, batch element")
    infinite = by_path(lambda u: right(u) * (u.exp() / u.exp()), monkeypatch, "ties, zeros, huge ranges")
    assert "range 1e4" in infinite.where


def test_batches_and_dtypes_are_named(monkeypatch):
    def leaks(u):
        return right(u + 1e-3 * u.detach().mean(0, keepdim=True)) if u.dim() > 1 else right(u)

    def single(u):
        return right(1.001 * u) if u.dtype == torch.float32 else right(u)

    assert by_path(leaks, monkeypatch, "batch shapes").where.startswith("t=0.5, batch element")
    assert by_path(single, monkeypatch, "float32").where.startswith("float32, t=0.5, batch element")


def test_long_inputs_are_cut():
    assert name_input(torch.arange(45.0)[None], 0) == "u = [0, 1, 2, 3, 4, 5, 6, 7, ... 45 numbers]"
