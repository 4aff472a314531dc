"""Matchings: Sinkhorn's problem at two temperatures, and the best assignment."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

import polytopes
import sst_cvx as sst
from benchmarks.peers.race import Contest, Row, Way, available, by_jax, by_rows, by_torch, has, normal
from benchmarks.peers.thresholds import ours
from tests.oracles import sinkhorn

#: Sum of absolute errors of the sides, of 1 for all, at which peers stop: the rest of their answer is then as good.
STOP = 1e-9


def rows() -> list[Row]:
    found = []
    for n, largest in ((10, 256), (50, 256), (200, 32)):
        for t in (1.0, 0.1):
            found.append(Row(f"Matching({n}) categorical, t = {t:g}", lambda n=n, t=t: _matching(n, t), largest))
    return [*found, Row("assignment, n = 200", lambda: _assignment(200), 32)]


def _matching(n: int, t: float) -> Contest:
    peers = []
    if has("ot"):
        peers += [by_torch("POT sinkhorn_log", _pot_each(n, t)), by_torch("POT solve_batch", _pot_batch(n, t))]
    if has("ott") and has("jax"):
        peers.append(_ott(n, t))
    # The oracle takes 2,000 sweeps and dense Newton steps on both sides: not for many elements, nor for large ones.
    return Contest(
        normal(n, n),
        ours(polytopes.Matching(n), sst.CategoricalEntropy(), t),
        peers,
        None if n > 50 else lambda u: sinkhorn(u / t),
        checked=4,
        missing=available("ot", "ott"),
    )


def _pot_each(n: int, t: float) -> Callable[[torch.Tensor], torch.Tensor]:
    import ot

    uniform = torch.full((n,), 1 / n, dtype=torch.float64)
    options = {"method": "sinkhorn_log", "stopThr": STOP, "numItermax": 20_000}

    def solve(u: torch.Tensor) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return n * torch.stack([ot.sinkhorn(uniform, uniform, -m, t, **options) for m in u])  # type: ignore

    return solve


def _pot_batch(n: int, t: float) -> Callable[[torch.Tensor], torch.Tensor]:
    import ot

    def solve(u: torch.Tensor) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return n * ot.solve_batch(-u, reg=t, tol=STOP, max_iter=20_000, grad="autodiff").plan

    return solve


def _ott(n: int, t: float) -> Way:
    """Its gradient is implicit, by its default."""
    from ott.geometry.geometry import Geometry
    from ott.solvers import linear

    def solve(u):
        problem = Geometry(cost_matrix=-u, epsilon=t, scale_cost=1.0)
        return n * linear.solve(problem, threshold=STOP, max_iterations=20_000).matrix

    return by_jax("ott-jax", solve)


def _assignment(n: int) -> Contest:
    structure = polytopes.Matching(n)
    peers = [by_rows("SciPy", lambda w: _chosen(linear_sum_assignment(w, maximize=True)[1]))]
    if has("lapjv"):
        import lapjv

        peers.append(by_rows("lapjv", lambda w: _chosen(lapjv.lapjv(w.max() - w)[0])))
    if has("lap"):
        import lap

        peers.append(by_rows("lap", lambda w: _chosen(lap.lapjv(w.max() - w)[1])))
    return Contest(normal(n, n), Way("ours", structure.argmax), peers, score=_value, missing=available("lapjv", "lap"))


def _chosen(columns: np.ndarray) -> np.ndarray:
    x = np.zeros((len(columns), len(columns)))
    x[np.arange(len(columns)), columns] = 1
    return x


def _value(u: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (u * x).flatten(1).sum(1)
