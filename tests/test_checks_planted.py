"""Forty planted faults of ten kinds: the check that should name each does, and its code fails in the same way."""

import cvxpy as cp
import pytest
import torch

import polytopes
import sst_cvx as sst
from sst_cvx.paths.fast import registry
from tests.planted import PATHS, STRUCTURES
from tests.right_sets import TwoOfFive

QUICK = {
    "hull too large, a 12-cube without a corner",
    "vertices: a midpoint",
    "argmax: beyond 1e5",
    "sample: too cold",
    "batch: from 7 on",
    "dtype: float32 beyond 100",
    "gradient: 5 % in float32",
}


def faults(table):
    return [pytest.param(*table[n], id=n, marks=() if n in QUICK else pytest.mark.slow) for n in table]


def reproduced(report, row):
    """What the row's code raises."""
    with pytest.raises(sst.CheckFailed) as raised:
        exec(report.reproduce(row), {"structure": report.setting.structure})
    return str(raised.value)


def test_forty_of_ten_kinds():
    names = [*STRUCTURES, *PATHS]
    assert len(names) == 40
    assert len({name.split(":")[0].split(",")[0] for name in names}) == 10


@pytest.mark.parametrize(("make", "name"), faults(STRUCTURES))
def test_structure(make, name):
    report = sst.check(make(), [], verbose=False)
    (row,) = (r for r in report.failures if r.name == name)
    assert reproduced(report, row) == f"{row.name}: {row.complaint}"
    assert row.where


@pytest.mark.parametrize(("function", "name"), faults(PATHS))
def test_path(function, name, monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    sst.fast_path(TwoOfFive, sst.BinaryEntropy)(lambda s, f, u: function(u))
    report = sst.check(TwoOfFive(), [sst.BinaryEntropy()], verbose=False)
    rows = [r for r in report.failures if r.name.split(": ")[-1].split(", t=")[0] == name]
    assert rows, [r.name for r in report.failures]
    assert reproduced(report, rows[0]) == f"{rows[0].name}: {rows[0].complaint}"


def test_code_is_by_itself_where_a_repr_says_all(monkeypatch):
    monkeypatch.setattr(polytopes.KSubset, "log_partition", lambda self, u: u.sum(-1))
    report = sst.check(polytopes.KSubset(4, 2), [], verbose=False)
    code = report.reproduce("log-partition equals enumeration")
    assert "from polytopes.k_subset import KSubset" in code
    assert "u = torch.tensor([" in code
    with pytest.raises(sst.CheckFailed, match="log-partition equals enumeration"):
        exec(code, {})
    with pytest.raises(KeyError, match="no row is 'nothing'"):
        report.reproduce("nothing")


def test_code_has_the_parameters():
    class Nothing(sst.Structure):
        def argmax(self, u, **parameters):
            return torch.zeros_like(u)

    x, k = cp.Variable(3), cp.Parameter(nonneg=True, name="k")
    structure = Nothing(x, [x >= 0, x <= 1, cp.sum(x) <= k])
    report = sst.check(structure, [], verbose=False, k=torch.tensor(1.5))
    (failed,) = (r for r in report.failures if r.name == "argmax is a best element of X")
    assert "'k': torch.tensor(1.5" in report.reproduce(failed)
    assert reproduced(report, failed) == f"{failed.name}: {failed.complaint}"
