"""Checks of values: against the layer, the interior point, enumeration, and what every soft argmax obeys."""

from __future__ import annotations

import math

import torch

from sst_cvx.checks.inputs import enumerate_vertices
from sst_cvx.checks.pair import SMALL, Found, Pair, dot, flat, found_at, worst_of
from sst_cvx.checks.report import NotApplicable, Worst, at
from sst_cvx.regularizers import BinaryEntropy

REFEREED = 100.0  # times its accuracy, up to which the layer may be what is wrong


def forward_against_layer(pair: Pair, t: float) -> Found:
    """Where the two differ by little more than the layer promises, the certificate that trusts neither decides."""
    u, x = pair.utilities(t), pair.value(t)
    bound, size = pair.reference.accuracy(t).value, max(1.0, pair.reach)
    error = (x - pair.value(t, pair.reference)).abs() / size
    figure, where = worst_of(error, u, t=t)
    if bound < figure <= REFEREED * bound:
        figure, where = worst_of(torch.minimum(flat(error).amax(1), distance(pair, u, x, t) / size), u, t=t)
    return figure, bound, where


def distance(pair: Pair, u: torch.Tensor, x: torch.Tensor, t: float) -> torch.Tensor:
    """How far x is from X_t(u) at most, ``(batch,)``: t m / 2 |x - X_t|^2 <= gap, or by enumeration; else infinite."""
    if pair.exponential and pair.structure.has_vertices():
        return (flat(x) - marginals(pair, u / t)).abs().amax(1)
    modulus = pair.regularizer.strong_convexity(pair.structure)
    if modulus <= 0 or pair.exponential:
        return torch.full((len(u),), math.inf, dtype=torch.float64)
    return (2 * pair.soft.gap(u, x, t, **pair.parameters).clamp(min=0.0) / (t * modulus)).sqrt()


def forward_against_interior_point(pair: Pair, t: float) -> Found:
    error = (pair.value(t) - pair.value(t, pair.interior)) / pair.reach
    return found_at(error, 1e-8, pair.utilities(t), t=t)


def forward_against_enumeration(pair: Pair, t: float) -> Found:
    worst, bound = Worst(), 1e-9 if t >= 1 else 1e-8
    for name, u, x in _samples(pair, t):
        worst.see(*worst_of((flat(x) - marginals(pair, u / t)) / pair.reach, u, name, t))
    return worst.figure, bound, worst.where


def _samples(pair: Pair, t: float) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Names, utilities and answers: at the sample utilities, and of someone's own algorithm near 0, too."""
    found = [("", pair.utilities(t), pair.value(t))]
    if pair.own:
        u = pair.utilities(t, SMALL)
        with at("small utilities"):
            found.append(("small utilities", u, pair.answer(u, t).detach()))
    return found


def marginals(pair: Pair, u: torch.Tensor) -> torch.Tensor:
    points = enumerate_vertices(pair.structure)
    return (flat(u) @ points.T).softmax(-1) @ points


def optimality_gap(pair: Pair, t: float) -> Found:
    worst, bound = Worst(), pair.soft.accuracy().gap
    for name, u, x in _samples(pair, t):
        size = pair.gap_size(u, t)
        found = worst_of(pair.soft.gap(u, x, t, **pair.parameters) / size, u, name, t)
        if "interior_point" in pair.soft.ways and found[0] > bound:
            # Right to 1e-9; f' of an entropy sees more than that near its ends.
            gaps = pair.soft.gap(u, off_the_ends(pair, x), t, **pair.parameters) / size
            found = min(found, worst_of(gaps.clamp(min=0), u, name, t))
            if found[0] > bound and not pair.plain and pair.regularizer.domain != (-math.inf, math.inf):
                raise NotApplicable("entries near 0, where f' is infinite, have no digits at this scale")
        worst.see(*found)
    return worst.figure, bound, worst.where


def off_the_ends(pair: Pair, x: torch.Tensor) -> torch.Tensor:
    """x moved by 1e-9 from where f' is infinite: from 0, and from 1 where that ends its domain too."""
    return x + pair.soft.accuracy().value * (1 - 2 * x if isinstance(pair.regularizer, BinaryEntropy) else 1)


def limit_is_argmax(pair: Pair) -> Found:
    """0 <= <u, v - X_t> <= t (f(v) - f(X_t)) for the argmax v: what X_t loses vanishes with t."""
    temperatures = (0.1, 0.01, 0.001) if pair.exact else (0.3, 0.1)
    worst = Worst()
    if pair.exact and not pair.own:
        pair.solve_together(temperatures)
    for t in temperatures:
        u = pair.utilities(t)
        with at(f"t={t:g}"):
            loss = loss_beyond(pair, u, pair.hard(u), pair.value(t), t)
        worst.see(*worst_of(loss, u, f"t={t:g}", t))
    return worst.figure, pair.soft.accuracy().gap, worst.where


def loss_beyond(pair: Pair, u: torch.Tensor, v: torch.Tensor, x: torch.Tensor, t: float) -> torch.Tensor:
    """How far the loss of each answer x is outside its range, ``(batch,)``, in units of the hull and the slopes."""
    loss = dot(u, v - x)
    if pair.exponential:  # -f is an entropy, at most log |X|
        allowed = t * math.log(len(enumerate_vertices(pair.structure)))
    else:
        event_dim = len(pair.structure.event_shape)
        x_inside, v_inside = (w.clamp(*pair.regularizer.domain) for w in (x, v))
        allowed = t * (pair.regularizer.value(v_inside, event_dim) - pair.regularizer.value(x_inside, event_dim))
    spread = pair.extent.length * pair.unit
    spread = spread if pair.combinatorial else max(1.0, spread)
    size = max(spread, 1e-6 * float(flat(u * pair.extent.centre).abs().sum(1).max()))
    return torch.maximum(loss - allowed, -loss).clamp(min=0) / size


def projection(pair: Pair) -> Found:
    """Euclidean: a vertex projects to itself; <X(u) - X(v), u - v> >= t |X(u) - X(v)|^2 (firmly nonexpansive)."""
    t, length = 0.5, pair.extent.length
    u, other = pair.utilities(t), pair.around(pair.cotangent(), t)
    v = pair.structure.argmax(u, **pair.parameters)
    moved = pair.value(t) - pair.answer(other, t)
    excess = t * dot(moved, moved) - dot(moved, u - other)
    worst = Worst()
    worst.see(*worst_of((pair.answer(v, 1.0) - v) / pair.reach, v, "t=1"))
    worst.see(*worst_of(excess.clamp(min=0) / length**2, u, f"t={t:g}", t))
    return worst.figure, 1e-9, worst.where
