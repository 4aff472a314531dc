"""Checks of derivatives: against the layer, the interior point, and central differences."""

from __future__ import annotations

import itertools

import torch

from sst_cvx.checks.pair import BATCH, Found, Pair, dot, found_at, worst_of
from sst_cvx.checks.report import NotApplicable, Worst
from sst_cvx.checks.structure_checks import name_input, sample_utilities


def gradient_against_layer(pair: Pair, t: float) -> Found:
    error = t * (pair.pullback(t) - pair.pullback(t, pair.reference))
    return found_at(error, pair.reference.accuracy(t).gradient, pair.utilities())


def gradient_against_interior_point(pair: Pair, t: float) -> Found:
    return found_at(t * (pair.pullback(t) - pair.pullback(t, pair.interior)), 1e-7, pair.utilities())


def gradient_against_differences(pair: Pair, t: float) -> Found:
    """Along random directions, by Richardson's extrapolation at two step sizes.

    Where the two disagree there is a kink, and the element is left out; noise in the values would make all of
    them disagree, which fails.
    """
    u, v, g = pair.utilities(), pair.cotangent(), pair.pullback(t)
    bound = pair.soft.accuracy(t).differences
    step = t * (4e-3 if pair.exact else 4e-2)
    worst, smooth, count = Worst(), 0, 0
    for k in range(6):
        d = sample_utilities(pair.structure, (BATCH,), pair.seed + 10 + k)
        differences = [_difference(pair, u, d, v, t, step / 2**i) for i in range(3)]
        first, second = ((4 * fine - coarse) / 3 for coarse, fine in itertools.pairwise(differences))
        keep = t * (first - second).abs() <= bound / 5  # the second is 16 times as good
        error = t * (second - dot(g, d)).abs()
        worst.see(*worst_of(torch.where(keep, error, 0.0), u))
        smooth, count = smooth + int(keep.sum()), count + keep.numel()
    if smooth < count / 4:
        raise ArithmeticError(f"central differences settle at {smooth} of {count} samples only: values are noisy.")
    return worst.figure, bound, worst.where


def _difference(pair: Pair, u: torch.Tensor, d: torch.Tensor, v: torch.Tensor, t: float, h: float) -> torch.Tensor:
    with torch.no_grad():
        ahead, behind = pair.answer(u + h * d, t), pair.answer(u - h * d, t)
    return dot(ahead - behind, v) / (2 * h)


def temperature_gradient(pair: Pair) -> Found:
    """dX/dt = -(u . dX/du) / t: X depends on u and t through u / t alone."""
    u, v = pair.utilities().requires_grad_(), pair.cotangent()
    t = torch.full((BATCH,), 0.7, dtype=torch.float64, requires_grad=True)
    g_u, g_t = torch.autograd.grad((pair.answer(u, t) * v).sum(), (u, t))
    return found_at(g_t + dot(g_u, u).detach() / 0.7, 1e-9, u, "t=0.7")


def second_derivative(pair: Pair) -> Found:
    """Double backward against central differences of the gradient."""
    if not pair.exact:
        raise NotApplicable("the layer differentiates once")
    d = sample_utilities(pair.structure, (BATCH,), pair.seed + 3)

    def gradient(u: torch.Tensor, graph: bool = False) -> torch.Tensor:
        return torch.autograd.grad((pair.answer(u, 1.0) * pair.cotangent()).sum(), u, create_graph=graph)[0]

    u = pair.utilities().requires_grad_()
    first, second = gradient(u, graph=True), torch.zeros_like(u)
    if first.requires_grad:  # else the Jacobian is piecewise constant
        try:
            (second,) = torch.autograd.grad((first * d).sum(), u)
        except RuntimeError as error:
            raise NotApplicable(f"differentiable once: {str(error)[:60]}") from None
    h, e = 1e-4, sample_utilities(pair.structure, (BATCH,), pair.seed + 4)
    ahead, behind = (gradient((u + s * h * e).detach().requires_grad_()) for s in (1, -1))
    numeric = dot(ahead - behind, d) / (2 * h)
    error = (numeric - dot(second, e)).abs()
    median = error.median(0)  # an element may sit at a kink
    return float(median.values), 1e-5, f"t=1, {name_input(u, int(median.indices))}"
