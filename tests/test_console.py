"""The command line: certifies, describes and times structures of one's own, and says in a line what it cannot."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from sst_cvx import console

SETS = """
import cvxpy as cp
import sst_cvx as sst

x = cp.Variable(4, name="x")
two = sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) == 2])
capacity = cp.Parameter(nonneg=True, name="capacity")
knapsack = sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) <= capacity])


def pair(n=3):
    x = cp.Variable(n)
    return sst.Structure(x, [x >= 0, cp.sum(x) == 1])


class Wrong(sst.Structure):
    def __init__(self):
        x = cp.Variable(3)
        super().__init__(x, [x >= 0, cp.sum(x) == 1])

    def argmax(self, u):
        return (u == u.amin(-1, keepdim=True)).to(u.dtype)


nothing = 3
broken = lambda: 1 / 0
"""


@pytest.fixture
def sets(tmp_path, monkeypatch):
    (tmp_path / "my_sets.py").write_text(SETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_sets", raising=False)


def test_check(sets, capsys):
    assert console.main(["check", "my_sets.py:two", "--regularizer", "euclidean"]) == 0
    assert "0 failed" in capsys.readouterr().out
    assert console.main(["check", "my_sets.py:pair(2)", "--regularizer", "euclidean", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert {row["verdict"] for row in found["checks"]} == {"ok", "skipped"}
    assert console.main(["check", "my_sets:Wrong", "--regularizer", "euclidean", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert any(row["verdict"] == "FAILED" and "argmax" in row["check"] for row in found["checks"])


def test_describe(sets, capsys):
    assert console.main(["describe", "polytopes:KSubset(4, k=2)", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["path"] for row in rows] == ["fast"] * 5
    assert all(row["ms"] > 0 for row in rows)
    options = ["--parameter", "capacity=1", "--parameter", "capacity=2.5", "--regularizer", "binary", "exponential"]
    assert console.main(["describe", "my_sets.py:knapsack", *options, "--json"]) == 0
    binary, exponential = json.loads(capsys.readouterr().out)["rows"]
    assert binary["path"] == "interior_point"
    assert exponential["path"] == "none"
    assert exponential["ms"] is None


@pytest.mark.slow
@pytest.mark.slow
def test_bench_of_a_set_without_a_list(sets, capsys):
    assert console.main(["bench", "my_sets.py:two", "--batch", "2", "--json"]) == 0
    assert "exponential" not in capsys.readouterr().out.lower()


def test_bench(sets, capsys):
    assert console.main(["bench", "my_sets.py:two", "--batch", "2", "--regularizer", "euclidean", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    ways = {row["way"]: row for row in rows}
    assert {"interior_point", "layer", "plain cvxpylayers"} <= ways.keys()
    assert ways["plain cvxpylayers"]["speed-up"] == 1.0
    assert console.main(["bench", "my_sets.py:two", "--batch", "2", "--regularizer", "euclidean"]) == 0
    assert "plain cvxpylayers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("my_sets.py", "is no module:name"),
        ("nowhere:x", "nowhere cannot be imported: ModuleNotFoundError"),
        ("nowhere.py:x", "no file nowhere.py"),
        ("polytopes:KSubet(4, 2)", "polytopes has no 'KSubet'; there is KSubset"),
        ("polytopes:KSubset(4, 9)", "cannot be made: ValueError"),
        ("polytopes:KSubset(4, k)", "must be literals"),
        ("polytopes:KSubset", "cannot be made: TypeError"),
        ("polytopes:KSubset(4,", "neither a name nor a call"),
        ("my_sets.py:nothing", "is int, not an sst_cvx.Structure"),
        ("my_sets.py:broken", "cannot be made: ZeroDivisionError"),
        ("my_sets.py:knapsack", "--parameter: "),
    ],
)
def test_bad_names_get_one_line(target, words, sets, capsys):
    assert console.main(["describe", target]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert said.err.startswith("sst-cvx: error: ")
    assert words in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("options", [["--parameter", "capacity"], ["--parameter", "capacity=much"]])
def test_bad_parameters(options, sets, capsys):
    assert console.main(["describe", "my_sets.py:knapsack", *options]) == 2
    assert "NAME=VALUE" in capsys.readouterr().err


def test_options_out_of_range(sets, capsys):
    for options in (["bench", "m:x", "--batch", "0"], ["check", "m:x", "--temperature", "-1"], ["check"], []):
        with pytest.raises(SystemExit) as stop:
            console.main(options)
        assert stop.value.code == 2


def test_info_and_the_module(capsys):
    assert console.main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["torch"]
    assert found["devices"].startswith("cpu")
    assert console.main(["info"]) == 0
    assert "cvxpylayers" in capsys.readouterr().out


def test_the_library_by_the_name_of_the_engine():
    code = "from sst_cvx.polytopes import KSubset; import sst_cvx.polytopes as p, polytopes; assert p is polytopes"
    subprocess.run([sys.executable, "-c", code], check=True)
