"""Checks of values: against the layer, the interior point, enumeration, and what every soft argmax obeys."""

from __future__ import annotations

import math

import torch

from sst_cvx.checks.pair import Found, Pair, dot, flat, found_at, worst_of
from sst_cvx.checks.report import Worst, at
from sst_cvx.checks.structure_checks import enumerate_vertices
from sst_cvx.regularizers import BinaryEntropy, ExponentialFamilyEntropy


def forward_against_layer(pair: Pair, t: float) -> Found:
    u = pair.utilities()
    error = pair.answer(u, t) - pair.answer(u, t, pair.reference)
    return found_at(error, pair.reference.accuracy(t).value, u)


def forward_against_interior_point(pair: Pair, t: float) -> Found:
    u = pair.utilities()
    return found_at(pair.answer(u, t) - pair.answer(u, t, pair.interior), 1e-8, u)


def forward_against_enumeration(pair: Pair, t: float) -> Found:
    u = pair.utilities()
    return found_at(flat(pair.answer(u, t)) - marginals(pair, u / t), 1e-9 if t >= 1 else 1e-8, u)


def marginals(pair: Pair, u: torch.Tensor) -> torch.Tensor:
    points = enumerate_vertices(pair.structure)
    return (flat(u) @ points.T).softmax(-1) @ points


def optimality_gap(pair: Pair, t: float) -> Found:
    u = pair.utilities()
    x, size = pair.answer(u, t), 1 + flat(u).abs().amax(1)
    found = found_at(pair.soft.gap(u, x, t, **pair.parameters) / size, pair.soft.accuracy().gap, u)
    if pair.soft.path == "interior_point":  # right to 1e-9; f' of an entropy sees more than that near its ends
        gaps = pair.soft.gap(u, off_the_ends(pair, x), t, **pair.parameters) / size
        found = min(found, found_at(gaps.clamp(min=0), pair.soft.accuracy().gap, u))
    return found


def off_the_ends(pair: Pair, x: torch.Tensor) -> torch.Tensor:
    """x moved by 1e-9 from where f' is infinite: from 0, and from 1 where that ends its domain too."""
    return x + pair.soft.accuracy().value * (1 - 2 * x if isinstance(pair.regularizer, BinaryEntropy) else 1)


def limit_is_argmax(pair: Pair) -> Found:
    """0 <= <u, v - X_t> <= t (f(v) - f(X_t)) for the argmax v: what X_t loses vanishes with t."""
    u = pair.utilities()
    v = pair.structure.argmax(u, **pair.parameters)
    temperatures = (0.1, 0.01, 0.001) if pair.exact else (0.3, 0.1)
    worst = Worst()
    for t in temperatures:
        with at(f"t={t:g}"):
            loss = loss_beyond(pair, u, v, t)
        worst.see(*worst_of(loss, u, f"t={t:g}"))
    return worst.figure, pair.soft.accuracy().gap, worst.where


def loss_beyond(pair: Pair, u: torch.Tensor, v: torch.Tensor, t: float) -> torch.Tensor:
    """How far the loss of each element is outside its range, ``(batch,)``."""
    x = pair.answer(u, t)
    loss = dot(u, v - x)
    if isinstance(pair.regularizer, ExponentialFamilyEntropy):  # -f is an entropy, at most log |X|
        allowed = t * math.log(len(enumerate_vertices(pair.structure)))
    else:
        event_dim = len(pair.structure.event_shape)
        x_inside = x.clamp(*pair.regularizer.domain)
        allowed = t * (pair.regularizer.value(v, event_dim) - pair.regularizer.value(x_inside, event_dim))
    return torch.maximum(loss - allowed, -loss).clamp(min=0)


def projection(pair: Pair) -> Found:
    """Euclidean: a vertex projects to itself; <X(u) - X(v), u - v> >= t |X(u) - X(v)|^2 (firmly nonexpansive)."""
    u, t = pair.utilities(), 0.5
    v = pair.structure.argmax(u, **pair.parameters)
    moved = pair.answer(u, t) - pair.answer(pair.cotangent(), t)
    excess = t * dot(moved, moved) - dot(moved, u - pair.cotangent())
    worst = Worst()
    worst.see(*worst_of(pair.answer(v, 1.0) - v, v, "t=1"))
    worst.see(*worst_of(excess.clamp(min=0), u, f"t={t:g}"))
    return worst.figure, 1e-9, worst.where
