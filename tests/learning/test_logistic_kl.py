"""KL of logistic distributions, value and derivatives, against quadrature in 30 digits; of negative exponentials."""

from __future__ import annotations

import itertools
import math

import mpmath as mp
import pytest
import torch
from torch.distributions import Independent, kl_divergence

import sst_cvx as sst

RATIOS = [1e-9, 0.3, 0.751, 1 - 1e-9, 1.0, 1.249, 12.0, 1e8]
RATIOS += [pytest.param(a, marks=pytest.mark.slow) for a in (1e-3, 0.749, 0.9, 1 + 1e-6, 1.01, 1.251, 1.7, 3e4)]
SHIFTS = [0.0, 1e-7, 0.1, 0.499, -0.501, 2.0, -17.0, 300.0, 1e6]


def exact(a: float, b: float) -> list[mp.mpf]:
    """KL(a, b) = E [g(a z + b) - g(z)] - log a and its derivatives by a and b, z standard logistic: Gauss-Legendre with
    24 nodes between places that bracket z = 0 and the corner a z + b = 0, within 1 / a."""
    with mp.workdps(30):
        a, b = mp.mpf(a), mp.mpf(b)
        places = {mp.mpf(k) for k in (0, 1.5, 3, 5, 8, 12, 18, 26, 36, 48, 64, 84)}
        places |= {-b / a + k / max(a, 1) for k in (0, 1.5, 3, 5, 8, 12, 18, 26, 36, 50, 70)}
        places |= {-b / a - k / max(a, 1) for k in (1.5, 3, 5, 8, 12, 18, 26, 36, 50, 70)}
        places = sorted({p for p in places | {-p for p in places} if abs(p) <= 84})
        total = [-mp.log(a), -1 / a, mp.mpf(0)]
        for low, high in itertools.pairwise(places):
            for node, weight in NODES:
                z = (low + high + node * (high - low)) / 2
                e, y = mp.exp(-abs(z)), a * z + b
                p = weight * (high - low) / 2 * e / (1 + e) ** 2
                d = mp.exp(-abs(y))
                slope = mp.sign(y) * (1 - d) / (1 + d)
                total[0] += p * (abs(y) - abs(z) + 2 * mp.log((1 + d) / (1 + e)))
                total[1] += p * z * slope
                total[2] += p * slope
        return total


with mp.workdps(30):
    NODES = mp.calculus.quadrature.GaussLegendre(mp.mp).calc_nodes(4, mp.mp.prec)


def parts(a: float, b: float) -> tuple[float, float, float]:
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    scale, loc = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (a, b))
    value = kl_divergence(sst.Logistic(loc, scale), sst.Logistic(zero, one))
    by_a, by_b = torch.autograd.grad(value, (scale, loc))
    return float(value.detach()), float(by_a), float(by_b)


@pytest.mark.parametrize("a", RATIOS)
def test_value_and_derivatives_are_those_of_thirty_digits(a):
    for b in SHIFTS:
        ours, (value, by_a, by_b) = parts(a, b), exact(a, b)
        assert abs(ours[0] - value) <= 1e-12 * value, b
        natural = min(1, abs(a - 1) + abs(b)) + 1e-16  # size of derivatives near equal distributions
        assert abs(ours[1] - by_a) <= 1e-11 * abs(by_a) + 1e-12 * natural, b
        assert abs(ours[2] - by_b) <= 1e-11 * abs(by_b) + 1e-12 * natural, b


def test_extremes_are_those_of_the_asymptotes():
    """a -> 0: g(b) - 2 - log a; a -> infinity: a g(b / a); infinite past the largest number."""
    assert parts(1e-300, 0.0)[0] == pytest.approx(2 * math.log(2) - 2 + 300 * math.log(10), rel=1e-14)
    assert parts(5e-324, 3.0)[0] == pytest.approx(3 + 2 * math.log1p(math.exp(-3)) - 2 - math.log(5e-324), rel=1e-14)
    assert parts(1e300, 0.0)[:2] == pytest.approx((2 * math.log(2) * 1e300, 2 * math.log(2)), rel=1e-14)
    assert parts(1e-300, 1e300) == pytest.approx((1e300, -1e300, 1.0), rel=1e-14)
    large, small = (torch.tensor(v, dtype=torch.float64) for v in (1e300, 1e-300))
    assert kl_divergence(sst.Logistic(0 * large, large), sst.Logistic(0 * large, small)) == torch.inf
    tiny = kl_divergence(sst.Logistic(0 * large, small * 1e-20), sst.Logistic(0 * large, large))  # a underflows
    assert float(tiny) == pytest.approx(2 * math.log(2) - 2 + 620 * math.log(10), rel=1e-4)  # a denormal scale


def test_all_four_parameters_have_derivatives_and_second_ones():
    """The pair of the issue: equal scales, both learnable; elsewhere by differences."""
    two, one = (torch.tensor(v, dtype=torch.float64) for v in (2.0, 1.0))
    scales = [one.clone().requires_grad_() for _ in range(2)]
    value = kl_divergence(sst.Logistic(two, scales[0]), sst.Logistic(0 * two, scales[1]))
    z = torch.linspace(-60, 60, 200_001, dtype=torch.float64)
    p, q = sst.Logistic(two, scales[0]), sst.Logistic(0 * two, scales[1])
    sums = torch.trapezoid(p.log_prob(z).exp() * (p.log_prob(z) - q.log_prob(z)), z)
    for ours, expected in zip(*(torch.autograd.grad(v, scales) for v in (value, sums)), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=0)

    loc = torch.tensor([0.0, 1.0, 0.0, 2.0, -3.0, 0.1, 0.0], dtype=torch.float64)
    scale = torch.tensor([1.0, 1.0, 1.3, 0.5, 3.0, 1.1, 3.0], dtype=torch.float64)
    values = [v.requires_grad_() for v in (loc, scale, torch.zeros_like(loc), torch.ones_like(loc))]

    def kl(a, b, c, d):
        return kl_divergence(sst.Logistic(a, b), sst.Logistic(c, d))

    assert torch.autograd.gradcheck(kl, values)
    assert torch.autograd.gradgradcheck(kl, values)


def test_shapes_and_dtypes():
    torch.manual_seed(0)
    loc, scale = torch.randn(3, 1), torch.rand(4) + 0.5
    p, q = sst.Logistic(loc, scale), sst.Logistic(torch.zeros(4), torch.ones(()))
    value = kl_divergence(p, q)
    assert value.shape == (3, 4)
    assert value.dtype == torch.float32
    wide = kl_divergence(sst.Logistic(loc.double(), scale.double()), sst.Logistic(torch.zeros(4).double(), 1.0))
    torch.testing.assert_close(value, wide.float(), rtol=1e-6, atol=0)
    each = [float(kl_divergence(sst.Logistic(m, s), sst.Logistic(0.0, 1.0))) for m in loc[:, 0] for s in scale]
    torch.testing.assert_close(value.flatten(), torch.tensor(each))
    torch.testing.assert_close(kl_divergence(Independent(p, 1), Independent(q.expand((3, 4)), 1)), value.sum(1))
    assert kl_divergence(sst.Logistic(torch.zeros(0, 3), 2.0), sst.Logistic(torch.zeros(3), 1.0)).shape == (0, 3)
    many = sst.Logistic(torch.randn(20_000), 1.1)  # more than one chunk
    assert torch.equal(kl_divergence(many, sst.Logistic(torch.zeros(20_000), 1.0))[-1:], one_of(many.loc[-1:], 1.1))


def one_of(loc: torch.Tensor, scale: float) -> torch.Tensor:
    return kl_divergence(sst.Logistic(loc, scale), sst.Logistic(torch.zeros_like(loc), 1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_negative_exponentials_of_nearly_equal_rates_keep_their_digits(dtype):
    """r - 1 - log r lost them all, and was negative, near r = 1."""
    r = 1 + torch.tensor([0.0, 1e-6, -3e-5, 1e-3, -0.1, 0.09, 4.0], dtype=dtype)
    value = kl_divergence(sst.NegativeExponential(torch.ones_like(r)), sst.NegativeExponential(r))
    with mp.workdps(30):
        expected = [mp.mpf(float(v)) - 1 - mp.log(mp.mpf(float(v))) for v in r]
    for ours, true in zip(value.tolist(), expected, strict=True):
        assert abs(ours - true) <= 16 * torch.finfo(dtype).eps * true
    rates = (torch.tensor([1.0, 2.0, 0.7]).double().requires_grad_(), torch.tensor([1.0, 2.1, 5.0]).double())
    assert torch.autograd.gradgradcheck(
        lambda p, q: kl_divergence(sst.NegativeExponential(p), sst.NegativeExponential(q)),
        (rates[0], rates[1].requires_grad_()),
    )
