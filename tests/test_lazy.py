"""What is declared, built and imported only when somebody asks for it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import cvxpy as cp
import pytest
import torch

import polytopes
import sst_cvx as sst

ROOT = Path(__file__).resolve().parents[1]

IMPORTS = """
import sys, torch
before = set(sys.modules)
import sst_cvx as sst, polytopes
heavy = ("cvxpy", "cvxpylayers", "diffcp", "moreau", "clarabel", "highspy", "numba")
more = ("scipy", "torch._dynamo", "sympy")
assert not [m for m in (*heavy, *more) if m in sys.modules and m not in before], set(sys.modules) - before
torch.set_num_threads(1)
u = torch.randn(3, 10, requires_grad=True)
for f in (sst.Euclidean(), sst.BinaryEntropy(), sst.ExponentialFamilyEntropy()):
    for structure in (polytopes.KSubset(10, 2), polytopes.OneHot(10)):
        soft = sst.SoftArgmax(structure, f)
        soft(u, 0.5).square().sum().backward()
        soft(u, 0.5, mask=torch.arange(10) < 8)
        structure.argmax(u)
        sst.ExponentialFamily(structure, u.detach()).mean
known = sst.Structure.from_argmax(10, lambda u: torch.nn.functional.one_hot(u.argmax(-1), 10).to(u))
sst.SoftArgmax(known, sst.Euclidean())(u)
assert not [m for m in heavy if m in sys.modules and m != "numba"], "CVXPY was imported by a fast path"
"""


def test_neither_import_nor_fast_paths_load_cvxpy():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", IMPORTS], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-2000:]


class Picks(sst.Structure):
    """Declares late, and counts how often."""

    def __init__(self, n: int, shape: tuple[int, ...] | None = None, extra: bool = False):
        self.asked, self._n, self._shape, self._extra = 0, n, shape, extra
        super().__init__(event_shape=(n,))

    def declare(self):
        self.asked += 1
        x = cp.Variable(self._shape or self._n)
        bound = cp.Parameter(name="bound") if self._extra else 2
        return x, [x >= 0, x <= 1, cp.sum(x) == bound]


def test_declared_once_when_asked_for():
    structure, u = Picks(5), torch.randn(3, 5, dtype=torch.float64)
    assert structure.event_shape == (5,)
    assert structure.event_size == 5
    assert structure.asked == 0
    x = structure.argmax(u)
    assert structure.asked == 1
    torch.testing.assert_close(x, polytopes.KSubset(5, 2).argmax(u))
    soft = sst.SoftArgmax(structure, sst.Euclidean())
    torch.testing.assert_close(soft(u), sst.SoftArgmax(polytopes.KSubset(5, 2), sst.Euclidean())(u))
    assert structure.asked == 1
    assert structure.variable is structure.variable
    assert structure.hull.variable is structure.variable  # type: ignore[union-attr]


def test_declared_once_for_all_threads():
    structure, found = Picks(6), []
    threads = [threading.Thread(target=lambda: found.append(structure.variable)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert structure.asked == 1
    assert all(v is structure.variable for v in found)
    assert len(found) == 8


def test_copies_before_and_after_the_declaration():
    structure, u = polytopes.KSubset(6, 2), torch.randn(2, 6, dtype=torch.float64)
    early = pickle.dumps(structure)
    assert b"cvxpy" not in early
    simplex = sst.Regularizer(cp.sum_squares(structure.variable) + cp.sum(cp.power(structure.variable, 4)))
    soft = sst.SoftArgmax(structure, simplex)
    twin = pickle.loads(pickle.dumps(soft))  # f is of the structure's own variable
    torch.testing.assert_close(twin(u), soft(u), atol=1e-9, rtol=0)
    late = pickle.loads(early)
    assert late == structure
    again = sst.SoftArgmax(late, sst.Euclidean(), path="interior_point")
    torch.testing.assert_close(again(u), sst.SoftArgmax(structure, sst.Euclidean())(u), atol=1e-8, rtol=0)


def test_wrong_declarations():
    for wrong in (Picks(5, shape=(4,)), Picks(5, extra=True)):
        with pytest.raises(ValueError, match=r"declare\(\) must return"):
            _ = wrong.hull

    class Nothing(sst.Structure):
        def __init__(self):
            super().__init__(event_shape=(3,))

    with pytest.raises(TypeError, match="override"):
        Nothing()
    with pytest.raises(TypeError, match=r"cvxpy\.Variable"):
        sst.Structure()

    class Open(sst.Structure):
        def __init__(self):
            super().__init__(event_shape=(3,))

        def declare(self):
            x = cp.Variable(3)
            return x, [x >= 0]

    for _ in range(2):  # and never in silence
        with pytest.raises(ValueError, match="unbounded"):
            _ = Open().hull
    with pytest.raises(ValueError, match="unbounded"):
        sst.SoftArgmax(Open(), sst.Euclidean())


def large() -> list[sst.Structure]:
    layers, width = 16, 80  # 100,000 edges
    inner = torch.cartesian_prod(torch.arange(layers - 1), torch.arange(width), torch.arange(width)).T
    tails, heads = 1 + inner[0] * width + inner[1], 1 + (inner[0] + 1) * width + inner[2]
    ends = torch.arange(width)
    target = 1 + layers * width
    first, last = torch.stack([ends * 0, 1 + ends]), torch.stack([target - width + ends, ends * 0 + target])
    chain = torch.cat([first, torch.stack([tails, heads]), last], 1)
    deep = torch.arange(50_000).repeat_interleave(2)
    return [
        polytopes.KSubset(128_000, 1000),
        polytopes.AtMostKSubset(128_000, 1000),
        polytopes.OneHot(128_000),
        polytopes.Hypercube(128_000),
        polytopes.Path(chain, 0, target),
        polytopes.Path(torch.stack([deep, deep + 1]), 0, 50_000),
    ]


def test_large_structures_answer_without_a_hull():
    for structure in large():
        f = sst.ExponentialFamilyEntropy() if isinstance(structure, polytopes.Path) else sst.Euclidean()
        soft = sst.SoftArgmax(structure, f)
        if not isinstance(structure, polytopes.Path) or sst.native.serves(torch.zeros(1)):
            u = torch.randn(1, structure.event_size)
            assert bool(torch.isfinite(soft(u)).all())
            structure.argmax(u)
        assert "_declared" not in vars(structure)
        assert "hull" not in vars(structure)


@pytest.mark.parametrize("structure", polytopes.EXAMPLES, ids=repr)
def test_guards_see_what_the_hull_sees(structure):
    """Points of the hull are inside, and points off it are told as far off as its rows say, or farther."""
    structure = pickle.loads(pickle.dumps(structure))
    if not structure.has_vertices():
        pytest.skip("nothing to compare with")
    vertices = structure.vertices().flatten(1)
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(20, len(vertices), dtype=torch.float64, generator=generator)
    inside = (weights / weights.sum(1, keepdim=True)) @ vertices
    assert float(structure.violation(inside).max()) <= 1e-12
    off = inside + 0.1 * torch.randn(inside.shape, dtype=torch.float64, generator=generator)
    seen = structure.violation(off)
    for x in (inside, off):
        if structure.surely_within(x, 1e-6):
            assert float(structure.violation(x).max()) <= 1e-6
    if structure.sees_hull and structure.hull.known:
        assert bool((seen.clamp(min=0) >= structure.hull.violation(off) - 1e-12).all())


def test_solvers_print_nothing():
    """HiGHS 1.16 and later print a banner, below Python's own streams."""
    code = """
import cvxpy as cp, torch, sst_cvx as sst
x = cp.Variable(4)
two = sst.Structure(x, [x >= 0, x <= 1, cp.sum(x) == 2])
two.argmax(torch.randn(2, 4))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
