"""Sums over subsets of up to k items: log sum_{j <= k} e_j(exp u), by exponential tilting and a product tree.

e_j, the j-th elementary symmetric polynomial, is the coefficient of z^j in prod_i (1 + exp(u_i) z). For any theta, with
p_i = sigmoid(u_i - theta) and q_i = 1 - p_i,

    e_j(exp u) = exp(j theta) / prod_i q_i * [z^j] prod_i (q_i + p_i z),

and the last factor is the probability that n independent coins show j heads. theta is such that k are expected,
sum_i p_i = k, or 0 if fewer are without any tilt. Then the terms that count are of order 1 / sqrt(n) at least, and
everything stays in linear space without overflow or cancellation, at any scale of u.
"""

from __future__ import annotations

from typing import Any

import torch

from polytopes.kernels.threshold import solve_threshold
from sst_cvx.autodiff import Function
from sst_cvx.regularizers import BinaryEntropy

_DIRECT = 8  # degree up to which two polynomials are multiplied term by term; above it, by FFT


def log_elementary_symmetric_up_to(u: torch.Tensor, k: int) -> torch.Tensor:
    """log sum_{j <= k} e_j(exp u) over the last dimension: ``(*batch, n)`` to ``(*batch,)``, differentiable, twice.

    As theta >= 0, the terms exp(j theta) [z^j] grow towards j = k no faster than exp(k theta), which is taken out.
    """
    n = u.shape[-1]
    if k == 0:
        return (u * 0).sum(-1)
    theta = tilt(u.detach(), k).clamp(min=0.0) if k < n else torch.zeros_like(u[..., :1]).detach()
    coefficients, constant = _tilted(u, theta, k)
    below = torch.arange(-k, 1, dtype=u.dtype, device=u.device)
    return (coefficients * (below * theta).exp()).sum(-1).log() + constant + k * theta.squeeze(-1)


def _tilted(u: torch.Tensor, theta: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Coefficients up to k of prod_i (q_i + p_i z), and -sum log q_i."""
    shifted = u.detach() - theta
    # The identity holds for any theta and q, so both are constants. Only exp(u_i) varies: every term is positive.
    heads = torch.sigmoid(shifted) * (u - u.detach()).exp()
    coins = torch.stack([torch.sigmoid(-shifted), heads], dim=-1)
    return _product(coins, k), -torch.nn.functional.logsigmoid(-shifted).sum(-1)  # softplus is cruder


def tilt(u: torch.Tensor, k: int) -> torch.Tensor:
    """theta ``(*batch, 1)`` with sum_i sigmoid(u_i - theta) = k; a constant to autograd."""
    return _Tilt.forward(u, k) if torch.compiler.is_compiling() else _Tilt.apply(u, k)


class _Tilt(Function):
    """``tilt`` under transforms, whose levels it leaves."""

    @staticmethod
    def forward(u: torch.Tensor, k: int) -> torch.Tensor:
        return solve_threshold(u, k, BinaryEntropy())[1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:  # type: ignore[override]
        return None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, u: torch.Tensor, k: int) -> tuple:
        return _Tilt.apply(u.movedim(in_dims[0], 0), k), 0


def marginals_up_to(u: torch.Tensor, k: int) -> torch.Tensor:
    """Gradient of ``log_elementary_symmetric_up_to``, without autograd: the product tree, and back with its adjoint."""
    n = u.shape[-1]
    if k == 0:
        return u * 0
    theta = tilt(u.detach(), k).clamp(min=0.0) if k < n else torch.zeros_like(u[..., :1]).detach()
    coins = torch.stack([torch.sigmoid(theta - u), torch.sigmoid(u - theta)], dim=-1)
    levels = levels_of_products(coins, k)
    below = torch.arange(-k, 1, dtype=u.dtype, device=u.device)
    weight = (below * theta).exp()
    root = levels[-1][..., 0, :]
    adjoint = (weight / (root * weight).sum(-1, keepdim=True))[..., None, :]  # of log sum_j weight_j root_j
    for factors in levels[-2::-1]:
        a, b = factors[..., 0::2, :], factors[..., 1::2, :]
        adjoint = adjoint[..., : a.shape[-2], :]  # without what made their number even
        adjoint = torch.stack([_correlate(adjoint, b), _correlate(adjoint, a)], dim=-2).flatten(-3, -2)
    return (coins[..., 1] * adjoint[..., :n, 1]).clamp(max=1.0)  # d coins / d u_i, as only exp(u_i) varies


def levels_of_products(factors: torch.Tensor, degree: int) -> list[torch.Tensor]:
    """``_product``, with what it multiplies on its way, padded to even numbers."""
    levels = []
    while factors.shape[-2] > 1:
        if factors.shape[-2] % 2:
            one = torch.zeros_like(factors[..., :1, :])
            one[..., 0] = 1
            factors = torch.cat([factors, one], dim=-2)
        levels.append(factors)
        factors = _multiply(factors[..., 0::2, :], factors[..., 1::2, :], degree)
    return [*levels, factors]


def _correlate(adjoint: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """sum_j adjoint_(i + j) b_j, for i up to the degree of b: the adjoint of ``_multiply`` by b."""
    d, size = b.shape[-1] - 1, adjoint.shape[-1]
    if d <= _DIRECT:
        padded = torch.nn.functional.pad(adjoint, (0, 2 * d + 1 - size))
        return sum(padded[..., j : j + d + 1] * b[..., j : j + 1] for j in range(d + 1))  # type: ignore[return-value]
    length = size + d
    spectrum = torch.fft.rfft(adjoint, n=length) * torch.fft.rfft(b, n=length).conj()
    return torch.fft.irfft(spectrum, n=length)[..., : d + 1]


def _product(factors: torch.Tensor, degree: int) -> torch.Tensor:
    """Product over the second last dimension of polynomials ``(*batch, m, d + 1)``, cut off after ``degree``."""
    return levels_of_products(factors, degree)[-1][..., 0, :]


def _multiply(a: torch.Tensor, b: torch.Tensor, degree: int) -> torch.Tensor:
    d = a.shape[-1] - 1
    size = min(2 * d, degree) + 1
    if d <= _DIRECT:
        terms = [torch.nn.functional.pad(a[..., i : i + 1] * b, (i, d - i)) for i in range(d + 1)]
        return torch.stack(terms).sum(0)[..., :size]
    length = 2 * d + 1 if size == 2 * d + 1 else d + size  # wrapped terms fall beyond the cut-off
    product = torch.fft.rfft(a, n=length) * torch.fft.rfft(b, n=length)
    return torch.fft.irfft(product, n=length)[..., :size]
