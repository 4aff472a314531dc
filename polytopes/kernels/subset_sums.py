"""Sums over subsets of size k, in O(n): log e_k(exp u) and its gradient, the marginals, by a few Fourier frequencies.

e_k, the k-th elementary symmetric polynomial, is the coefficient of z^k in prod_i (1 + exp(u_i) z). With theta such
that sum_i sigmoid(u_i - theta) = k and p_i = sigmoid(u_i - theta), q_i = 1 - p_i,

    e_k(exp u) = exp(k theta) / prod_i q_i * P(S = k),    S the heads of n independent coins of probabilities p_i,

and P(S = k), with k the mean of S, is never smaller than about 1 / sqrt(n): no scale of u overflows or cancels. By
the characteristic function of S (Hong 2013, "On computing the distribution function for the Poisson binomial"),

    P(S = k) = 1/m sum_{w = 2 pi j / m} phi(w) exp(-i w k),    phi(w) = prod_i z_i(w),    z_i = 1 + (exp(i w) - 1) p_i,

exact if |S - k| < m always, and else up to P(|S - k| >= m), which falls as exp(-m^2 / 2 (s^2 + m / 3)) (Bernstein;
s^2 the variance of S), while |phi(w)| <= exp(-2 s^2 sin(w/2)^2). So m of the order of s suffices, and of those only
the frequencies below the order of 1 / s: some 8 in float32, 16 in float64, whatever n, k and u are. With complex
weights omega ~ phi(w) exp(-i w k) of sum 1, c = exp(i w) - 1, r_i = 1 / z_i, a_i = p_i q_i,

    x_i = d/du_i log e_k = p_i + a_i sum_w omega c r_i                                       (marginals)
    (dx/du v)_i = a_i v_i sum_w omega exp(i w) r_i^2 + a_i sum_w omega c (R - R') r_i,       (their Jacobian, symmetric)

where R = c sum_j a_j r_j v_j and R' = sum_w omega R. All of it runs in float64: rounding of phi grows with n.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from polytopes.kernels.threshold import solve_threshold
from sst_cvx.autodiff import Function
from sst_cvx.host import stops_early
from sst_cvx.regularizers import BinaryEntropy


def log_elementary_symmetric(u: torch.Tensor, k: int) -> torch.Tensor:
    """log e_k(exp u) over the last dimension: ``(*batch, n)`` to ``(*batch,)``, differentiable any number of times."""
    if k in (0, u.shape[-1]):
        return (u if k else u * 0).sum(-1)
    wide = u.double()
    theta, w, share, phase = _frequencies(wide.detach(), k, torch.finfo(u.dtype).eps)
    terms = _terms(torch.sigmoid(wide - theta), w, share, phase, differentiated=True)
    log_q = torch.nn.functional.logsigmoid(theta - wide).sum(-1)
    return (terms.real.sum(-1).log() - log_q + k * theta.squeeze(-1)).to(u.dtype)


def subset_marginals(u: torch.Tensor, k: int) -> torch.Tensor:
    """Gradient of ``log_elementary_symmetric``: same shape and dtype as ``u``, differentiable any number of times."""
    if k in (0, u.shape[-1]):
        return u * 0 + (1.0 if k else 0.0)
    plan = _frequencies(u.detach().double(), k, torch.finfo(u.dtype).eps)
    return _Marginals.apply(u.double(), *plan)[0].to(u.dtype)


def _frequencies(u: torch.Tensor, k: int, eps: float) -> tuple[torch.Tensor, ...]:
    """theta ``(*batch, 1)``; frequencies w, their shares of the sum, w k modulo 2 pi, ``(*batch, J)``: constants."""
    if torch.compiler.is_compiling():
        return _Frequencies.forward(u, k, eps)
    return _Frequencies.apply(u, k, eps)


class _Frequencies(Function):
    """``_frequencies`` under transforms, whose levels it leaves."""

    @staticmethod
    def forward(u: torch.Tensor, k: int, eps: float) -> tuple[torch.Tensor, ...]:
        p, theta = solve_threshold(u, k, BinaryEntropy())
        variance = (p * (1 - p)).sum(-1, keepdim=True)
        digits, room = 4 - math.log(eps), max(k, u.shape[-1] - k) + 1
        m = digits / 3 + (digits * digits / 9 + 2 * digits * variance).sqrt()
        m = m.ceil().clamp(max=room)
        m = m + 1 - m % 2  # odd: at w = pi a fair coin has z = 0
        cut = torch.asin((digits / (2 * variance)).sqrt().clamp(max=1.0)) / math.pi
        last = torch.minimum(m * cut, (m - 1) / 2).floor()
        count = _most(digits, room) + 1
        if stops_early(u):
            count = int(last.max()) + 1 if last.numel() else 1
        j = torch.arange(count, dtype=u.dtype, device=u.device)
        used = j <= last
        share = used * (2.0 - (j == 0).to(u.dtype)) / m  # w and -w at once
        step = 2 * math.pi / m
        return theta, step * j, share, step * (j * k % m)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple:  # type: ignore[override]
        return None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, u: torch.Tensor, k: int, eps: float) -> tuple:
        return _Frequencies.apply(u.movedim(in_dims[0], 0), k, eps), (0, 0, 0, 0)


def _most(digits: float, room: int) -> int:
    """The largest ``last`` of any variance v: 28 in float64, 14 in float32.

    For v <= digits / 2 it is (m - 1) / 2, which grows with v up to m = 1.3875 digits. For larger v it is at most m cut,
    with y^2 = digits / (2 v) <= 1 digits / pi asin(y) (1/3 + sqrt(1/9 + 1/y^2)), which grows with y up to the same.
    """
    m = min(math.ceil(digits * (1 + math.sqrt(10)) / 3), room)
    return (m - m % 2) // 2


def _terms(
    p: torch.Tensor, w: torch.Tensor, share: torch.Tensor, phase: torch.Tensor, differentiated: bool
) -> torch.Tensor:
    """Terms of P(S = k), ``(*batch, J)``, of which the real parts count."""
    z = (_turn(w) - 1)[..., None] * p[..., None, :]
    z = z.add_(1)
    # The derivative of prod looks for zeros on the host; z has none.
    product = z.log().sum(-1).exp() if differentiated and not stops_early(p) else z.prod(-1)
    return share * product * _turn(-phase)


def _turn(angle: torch.Tensor) -> torch.Tensor:
    """exp(i angle)."""
    return torch.polar(torch.ones_like(angle), angle)


class _Marginals(Function):
    """x; and p, omega, D, kept for the Jacobian: constants outside."""

    @staticmethod
    def forward(
        u: torch.Tensor, theta: torch.Tensor, w: torch.Tensor, share: torch.Tensor, phase: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        p, omega, d = _parts(u, theta, w, share, phase, differentiated=False)
        c = _turn(w) - 1
        return p + p * (1 - p) * _mix(omega * c, 1, c, p, d), p, omega, d

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs, *output[1:])
        ctx.save_for_forward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, *_: Any) -> tuple:  # type: ignore[override]
        return _jacobian_product(ctx.saved_tensors, grad), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *_: Any) -> tuple:  # type: ignore[override]
        return _jacobian_product(ctx.saved_tensors, tangent), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *inputs: torch.Tensor) -> tuple:
        rows = [
            x.expand(info.batch_size, *x.shape) if d is None else x.movedim(d, 0)
            for x, d in zip(inputs, in_dims, strict=True)
        ]
        return _Marginals.apply(*rows), (0, 0, 0, 0)


def _parts(
    u: torch.Tensor,
    theta: torch.Tensor,
    w: torch.Tensor,
    share: torch.Tensor,
    phase: torch.Tensor,
    differentiated: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """p ``(*batch, n)``, omega ``(*batch, J)``, D = 1 / |z|^2 ``(*batch, J, n)``."""
    p = torch.sigmoid(u - theta)
    terms = _terms(p, w, share, phase, differentiated)
    short = 4 * torch.sin(w / 2).square()[..., None] * (p * (1 - p))[..., None, :]
    return p, terms / terms.real.sum(-1, keepdim=True), (1 - short).reciprocal()


def _jacobian_product(saved: tuple[torch.Tensor, ...], v: torch.Tensor) -> torch.Tensor:
    """The Jacobian of the marginals times v. Differentiable: then the parts are made again, as functions of u."""
    u, theta, w, share, phase, *parts = saved
    p, omega, d = _parts(u, theta, w, share, phase, True) if torch.is_grad_enabled() else parts
    turn = _turn(w)
    c, a = turn - 1, p * (1 - p)
    sums = d @ torch.stack([a * v, p * a * v], -1)
    pull = c * (sums[..., 0] + c.conj() * sums[..., 1])
    centred = pull - (omega * pull).real.sum(-1, keepdim=True)
    return a * (_mix(omega * turn, 2, c, p, d) * v + _mix(omega * c * centred, 1, c, p, d))


def _mix(weights: torch.Tensor, power: int, c: torch.Tensor, p: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """Real part of sum_w weights_w r_wi^power, where r = D (1 + conj(c) p): real products alone over J times n."""
    rows = [math.comb(power, j) * (weights * c.conj() ** j).real for j in range(power + 1)]
    mixed = torch.stack(rows, -2) @ d**power
    return sum(mixed[..., j, :] * p**j for j in range(power + 1))  # type: ignore[return-value]
