"""Derivatives by parameters in b, h, A and G against differences of solves to 50 digits."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import mpmath
import pytest
import torch

import sst_cvx as sst
from tests.paths.interior_point.table import REGULARIZERS

mp = mpmath.mp.clone()
mp.dps = 50


def inverse_slope(f: sst.Regularizer, s: Any) -> Any:
    """x of phi'(x) = s."""
    if isinstance(f, sst.Euclidean):
        return s
    if isinstance(f, sst.CategoricalEntropy):
        return mp.exp(s - 1)
    if isinstance(f, sst.BinaryEntropy):
        return 1 / (1 + mp.exp(-s))
    return max((s / 2 + mp.mpf(2) / 3), mp.mpf(0)) ** 2  # Tsallis 1.5: phi' = 2 sqrt(x) - 4/3


def exact(f: sst.Regularizer, u: list[Any], t: Any, a: list[Any], cap: list[Any], b: Any, equal: bool) -> list[Any]:
    """max <u, x> - t f(x) over 0 <= x <= cap, a'x <= b (or = b): x_i(nu) = clip(phi'^-1((u_i - nu a_i) / t)), and
    a'x(nu) falls in nu: bisection to 50 digits."""

    def at(nu: Any) -> list[Any]:
        return [min(max(inverse_slope(f, (v - nu * w) / t), mp.mpf(0)), c) for v, w, c in zip(u, a, cap, strict=True)]

    def excess(nu: Any) -> Any:
        return sum(w * x for w, x in zip(a, at(nu), strict=True)) - b

    if not equal and excess(mp.mpf(0)) <= 0:
        return at(mp.mpf(0))
    low, high = mp.mpf(-60), mp.mpf(60)
    for _ in range(170):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return at((low + high) / 2)


CASES = {  # budget, caps: active, inactive, closing
    "active": (0.9, (0.3, 0.7, 1.0), False),
    "inactive": (9.0, (0.3, 0.7, 1.0), False),
    "equality": (0.8, (0.25, 0.7, 1.0), True),
    "a cap that closes": (0.7, (1e-9, 0.7, 1.0), False),
    "a budget that closes": (1e-5, (0.3, 0.7, 1.0), False),
}


@pytest.mark.parametrize("multiplies", [False, True], ids=["b and h", "A and G too"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("f", REGULARIZERS, ids=repr)
def test_against_fifty_digits(f, case, multiplies):
    budget, caps, equal = CASES[case]
    x, cap, b = cp.Variable(3), cp.Parameter(3, name="cap"), cp.Parameter(name="b")
    u, t, a = [1.1, 0.4, 0.7], 0.2, [0.9, 1.3, 0.6]
    weights = cp.Parameter(3, nonneg=True, name="a") if multiplies else a
    total = weights @ x if multiplies else sum(w * x[i] for i, w in enumerate(a))
    soft = sst.SoftArgmax(sst.Structure(x, [x >= 0, x <= cap, total == b if equal else total <= b]), f)
    assert soft.path == "interior_point"
    values = {"cap": list(caps), "b": [budget], **({"a": a} if multiplies else {})}
    leaves = {name: torch.tensor(v, dtype=torch.float64, requires_grad=True) for name, v in values.items()}
    y = soft(torch.tensor(u, dtype=torch.float64), t, **{k: v[0] if k == "b" else v for k, v in leaves.items()})
    v = torch.tensor([0.3, -1.0, 0.8], dtype=torch.float64)
    gradients = torch.autograd.grad((y * v).sum(), list(leaves.values()))

    def value(name: str, step: Any) -> Any:
        given = {k: [mp.mpf(z) for z in part] for k, part in {"a": a, **values}.items()}
        given[name] = [z + step * (i + 1) for i, z in enumerate(given[name])]
        point = exact(f, [mp.mpf(z) for z in u], mp.mpf(t), given["a"], given["cap"], given["b"][0], equal)
        return sum(mp.mpf(float(w)) * z for w, z in zip(v, point, strict=True))

    h = mp.mpf(10) ** -18
    for name, g in zip(leaves, gradients, strict=True):  # along (1, 2, 3)
        found = float((g * torch.arange(1, g.numel() + 1)).sum())
        truth = float((value(name, h) - value(name, -h)) / (2 * h))
        assert found == pytest.approx(truth, abs=1e-7 + 1e-7 * abs(truth)), name
