"""Checks of derivatives: against the layer, the interior point, and central differences."""

from __future__ import annotations

import itertools

import torch

from sst_cvx.checks.inputs import name_input, sample_utilities
from sst_cvx.checks.pair import BATCH, SMALL, Found, Pair, dot, flat, found_at, worst_of
from sst_cvx.checks.report import NotApplicable, Worst, at
from sst_cvx.checks.value_checks import REFEREED, marginals

_DIRECTIONS = 6


def gradient_against_layer(pair: Pair, t: float) -> Found:
    """In units: dX / du is of the hull's length over t and the slopes' unit.

    Where the layer misses what it promises by little, enumeration decides for exponential families.
    """
    size, bound = max(1.0, pair.reach) / (t * pair.unit), pair.reference.accuracy(t).gradient
    u, g = pair.utilities(t), pair.pullback(t)
    found = found_at((g - pair.pullback(t, pair.reference)) / size, bound, u, t=t)
    if bound < found[0] <= REFEREED * bound and pair.exponential and pair.structure.has_vertices():
        v = u.clone().requires_grad_()
        (truth,) = torch.autograd.grad((marginals(pair, v / t) * flat(pair.cotangent())).sum(), v)
        found = found_at((g - truth) / size, bound, u, t=t)
    return found


def gradient_against_interior_point(pair: Pair, t: float) -> Found:
    error = (pair.pullback(t) - pair.pullback(t, pair.interior)) * (t * pair.unit / pair.reach)
    return found_at(error, 1e-7, pair.utilities(t), t=t)


def gradient_against_differences(pair: Pair, t: float) -> Found:
    """Along random directions, by Richardson's extrapolation at two step sizes.

    Where the two disagree there is a kink, and the element is left out; noise in the values would make all of
    them disagree, which fails.
    """
    bound = pair.soft.accuracy(t).differences
    worst, smooth, count = Worst(), 0, 0
    groups = [("", pair.utilities(t), pair.pullback(t))]
    if pair.own:
        with at("small utilities"):
            groups.append(("small utilities", *_small(pair, t)))
    for name, u, g in groups:
        with at(name):
            error, keep = _differences(pair, t, u, g, bound)
        worst.see(*worst_of(torch.where(keep, error, 0.0).T, u, name, t))
        smooth, count = smooth + int(keep.sum()), count + keep.numel()
    if smooth < count / 4:
        raise ArithmeticError(f"central differences settle at {smooth} of {count} samples only: values are noisy.")
    return worst.figure, bound, worst.where


def _small(pair: Pair, t: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Utilities near 0, and the pullback there."""
    u = pair.utilities(t, SMALL).requires_grad_()
    (g,) = torch.autograd.grad((pair.answer(u, t) * pair.cotangent()).sum(), u)
    return u.detach(), g


def _differences(
    pair: Pair, t: float, u: torch.Tensor, g: torch.Tensor, bound: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Errors, in units, of every direction and element ``(directions, batch)``, and which of them count.

    All points are one batch: three step sizes, both ways.
    """
    h = t * pair.unit * (4e-3 if pair.exact else 4e-2)
    d = torch.stack([sample_utilities(pair.structure, (BATCH,), pair.seed + 10 + k) for k in range(_DIRECTIONS)])
    steps = torch.tensor([s * h / 2**i for i in range(3) for s in (1, -1)], dtype=torch.float64)
    points = u + steps.reshape(-1, *[1] * d.dim()) * d
    with torch.no_grad():
        x = pair.answer(points.reshape(-1, *pair.structure.event_shape), t).reshape(points.shape)
    along = (x * pair.cotangent()).reshape(3, 2, _DIRECTIONS, BATCH, -1).sum(-1)
    differences = [(along[i, 0] - along[i, 1]) / (2 * h / 2**i) for i in range(3)]
    first, second = ((4 * fine - coarse) / 3 for coarse, fine in itertools.pairwise(differences))
    size = t * pair.unit / pair.reach
    keep = size * (first - second).abs() <= bound / 5  # the second is 16 times as good
    return size * (second - (g * d).reshape(_DIRECTIONS, BATCH, -1).sum(-1)).abs(), keep


def temperature_gradient(pair: Pair) -> Found:
    """dX/dt = -(u . dX/du) / t: X depends on u and t through u / t alone."""
    u, v = pair.utilities(0.7).requires_grad_(), pair.cotangent()
    t = torch.full((BATCH,), 0.7, dtype=torch.float64, requires_grad=True)
    g_u, g_t = torch.autograd.grad((pair.answer(u, t) * v).sum(), (u, t))
    size = torch.maximum(torch.tensor(pair.reach).double(), 1e-6 * dot(g_u, u).detach().abs())
    return found_at((g_t + dot(g_u, u).detach() / 0.7) / size, 1e-9, u, "t=0.7", 0.7)


def second_derivative(pair: Pair) -> Found:
    """Double backward against central differences of the gradient."""
    if not pair.exact:
        raise NotApplicable("the layer differentiates once")
    d = sample_utilities(pair.structure, (BATCH,), pair.seed + 3)

    def gradient(u: torch.Tensor, graph: bool = False) -> torch.Tensor:
        cotangent = pair.cotangent().repeat(len(u) // BATCH, *[1] * (u.dim() - 1))
        return torch.autograd.grad((pair.answer(u, 1.0) * cotangent).sum(), u, create_graph=graph)[0]

    u = pair.utilities().requires_grad_()
    first, second = gradient(u, graph=True), torch.zeros_like(u)
    if first.requires_grad:  # else the Jacobian is piecewise constant
        try:
            (second,) = torch.autograd.grad((first * d).sum(), u)
        except RuntimeError as error:
            raise NotApplicable(f"differentiable once: {str(error)[:60]}") from None
    h, e = 1e-4 * pair.unit, sample_utilities(pair.structure, (BATCH,), pair.seed + 4)
    ahead, behind = gradient(torch.cat([u + h * e, u - h * e]).detach().requires_grad_()).split(BATCH)
    numeric = dot(ahead - behind, d) / (2 * h)
    error = (numeric - dot(second, e)).abs() * (pair.unit**2 / pair.reach)
    median = error.median(0)  # an element may sit at a kink
    return float(median.values), 1e-5, name_input(u, int(median.indices), "t=1", temperature=1.0)
