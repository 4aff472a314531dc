"""Logarithms of the entropic soft argmax over { x in [0, 1]^n : sum x = total }, with relative accuracy.

Binary: x_i = sigmoid(u_i - nu). What the total largest entries lack to 1 is what the others have,

    h(nu) = log sum_others sigmoid(u_i - nu) - log sum_largest sigmoid(nu - u_i) = 0,    -2 <= h' <= -1,

the latter since no other entry is larger. Newton's method converges from anywhere, at any scale of u.
Categorical: log x_i = min(u_i - nu, 0) with exp(nu) = sum_rest exp(u_i) / (total - c), where the c largest are at 1.
"""

from __future__ import annotations

import math

import torch

from sst_cvx.regularizers import BinaryEntropy, CategoricalEntropy, SeparableRegularizer

#: Regularizers with logarithms.
ENTROPIES = (BinaryEntropy, CategoricalEntropy)

_STEPS, _DIFFERENTIABLE = 12, 2  # derivatives of two Newton steps at a root are the root's, up to the third


def log_threshold(u: torch.Tensor, total: int, f: SeparableRegularizer) -> torch.Tensor:
    """log x, ``(*batch, n)``, of the dtype of u, for the binary or categorical entropy f."""
    if total == 0:
        return u * 0 - math.inf
    if total == u.shape[-1]:
        return u * 0
    wide = u.double()
    found = _binary(wide, total) if isinstance(f, BinaryEntropy) else _categorical(wide, total)
    return found.to(u.dtype)


def log_box(u: torch.Tensor, f: SeparableRegularizer) -> torch.Tensor:
    """log x over the unit cube."""
    wide = u.double()
    found = torch.nn.functional.logsigmoid(wide) if isinstance(f, BinaryEntropy) else (wide - 1).clamp(max=0.0)
    return found.to(u.dtype)


def log_threshold_up_to(u: torch.Tensor, total: int, f: SeparableRegularizer) -> torch.Tensor:
    """log x over sums of at most ``total``."""
    if total == 0:
        return u * 0 - math.inf
    box = log_box(u, f)
    if total == u.shape[-1]:
        return box
    exceeds = _exceeds if isinstance(f, BinaryEntropy) else _exceeds_at_one
    return torch.where(exceeds(u.detach().double(), total), log_threshold(u, total, f), box)


def _exceeds(u: torch.Tensor, total: int) -> torch.Tensor:
    """Whether sum sigmoid(u) > total, with relative accuracy: h(0) > 0."""
    return _balance(u, _largest(u, total)[0])[0] > 0


def _exceeds_at_one(u: torch.Tensor, total: int) -> torch.Tensor:
    """Whether sum min(exp(u - 1), 1) > total: what is not at 1 is compared with the room that is left."""
    at_one = u >= 1
    room = total - at_one.sum(-1, keepdim=True)
    rest = (u - 1).masked_fill(at_one, -math.inf).logsumexp(-1, keepdim=True)
    return (room < 0) | (rest > room.clamp(min=0).to(u.dtype).log())


def _binary(u: torch.Tensor, total: int) -> torch.Tensor:
    inside, nu = _largest(u.detach(), total)
    for _ in range(_STEPS):
        h, slope = _balance(u.detach() - nu, inside)
        nu = nu + h / slope
    for _ in range(_DIFFERENTIABLE):
        h, slope = _balance(u - nu, inside)
        nu = nu + h / slope
    return torch.nn.functional.logsigmoid(u - nu)


def _largest(u: torch.Tensor, total: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the ``total`` largest are, and the middle between the last of them and the next."""
    largest, places = u.topk(total + 1, dim=-1)
    inside = torch.zeros_like(u, dtype=torch.bool).scatter(-1, places[..., :total], True)
    return inside, largest[..., -2:].mean(-1, keepdim=True)


def _balance(s: torch.Tensor, inside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """h, and -h'."""
    has, lacks = torch.nn.functional.logsigmoid(s), torch.nn.functional.logsigmoid(-s)
    others, largest = has.masked_fill(inside, -math.inf), lacks.masked_fill(~inside, -math.inf)
    h = others.logsumexp(-1, keepdim=True) - largest.logsumexp(-1, keepdim=True)
    return h, (others.softmax(-1) * lacks.exp() + largest.softmax(-1) * has.exp()).sum(-1, keepdim=True)


def _categorical(u: torch.Tensor, total: int) -> torch.Tensor:
    largest, places = u.topk(total, dim=-1)
    beyond = u.scatter(-1, places, -math.inf).logsumexp(-1, keepdim=True)
    rest = torch.logaddexp(beyond, largest.flip(-1).logcumsumexp(-1).flip(-1))  # with c at 1, c = 0, ..., total - 1
    left = total - torch.arange(total, dtype=u.dtype, device=u.device)
    nu = rest - left.log()
    capped = (largest > nu).sum(-1, keepdim=True).clamp(max=total - 1)  # once an entry stays below 1, all later ones do
    return (u - nu.gather(-1, capped)).clamp(max=0.0)
