"""The certificate of marginals: t (A(u / t) + A*(x) - <u / t, x>), from points of X alone.

It is t min { KL(q || p) : q a distribution on X with mean x } for p(v) proportional to exp <u / t, v>: zero where x is
the mean of p. x is known to rounding, and may be a little outside conv(X) or on its boundary, so it stands for any x':

    E(x) = min_x' KL(x') + |x - x'|^2 / (2 rho) = max_d <d, x> - log sum_v p(v) exp <d, v> - rho / 2 |d|^2,

rho the rounding of its dtype. Newton's method on d, by the covariance of q = p exp <d, .>. Every q gives a bound from
above, KL(q || p) + |x - mean of q|^2 / (2 rho), and the least one is returned: what did not converge does not pass.
Neither the structure's log-partition nor its derivative is used.
"""

from __future__ import annotations

import torch

from sst_cvx.host import may_ask
from sst_cvx.structure.base import Structure
from sst_cvx.structure.product import Product

MOST_POINTS = 5000
_STEPS, _HALVINGS = 60, 8
_CHUNK = 4_000_000  # numbers of one chunk of the batch
_ROUNDING = 16.0  # units in the last place of x


def listed(structure: Structure) -> torch.Tensor:
    """The vertices, flat, ``(count, size)``.

    Raises:
        NotImplementedError: they are not listed, or too many.
    """
    try:
        points = structure.vertices().flatten(1) if structure.has_vertices() else None
    except ValueError:  # too many to list
        points = None
    if points is None or len(points) > MOST_POINTS:
        raise NotImplementedError(
            f"A* needs a list of vertices, at most {MOST_POINTS}, which {structure!r} has not: estimate the gap from "
            "exact samples, sst.ExponentialFamily(structure, u / t).gap(x, samples=1000)."
        )
    return points


def conjugate_gap(
    structure: Structure, u: torch.Tensor, x: torch.Tensor, t: torch.Tensor | float, mask: torch.Tensor | None
) -> torch.Tensor:
    """E(x) times t for utilities and points ``(*batch, *event_shape)``, ``(*batch,)``, float64; t divides utilities."""
    batch_shape = u.shape[: u.dim() - len(structure.event_shape)]
    if isinstance(structure, Product):
        return _of_factors(structure, u, x, t, mask)
    points, scaled, least = listed(structure).to(u.device), u.detach().double() / t, resolution(x)
    forbidden, x = None, x.detach().double()
    if mask is not None:
        masked = structure.check_mask(mask, u.shape, u.device)
        x = structure.with_fillers(torch.where(masked.allowed, x, 0.0), masked)
        scaled = torch.where(masked.allowed, scaled, 0.0)
        forbidden = (~masked.kept).double().reshape(-1, points.shape[1]) @ points.T > 0
    scores = scaled.reshape(-1, points.shape[1]) @ points.T
    scores = scores if forbidden is None else scores.masked_fill(forbidden, -torch.inf)
    gap = tilting(points[None], scores.log_softmax(-1), x.reshape(-1, points.shape[1]), least).reshape(batch_shape)
    return gap * (t.reshape(t.shape[: len(batch_shape)]) if isinstance(t, torch.Tensor) else t)


def _of_factors(
    product: Product, u: torch.Tensor, x: torch.Tensor, t: torch.Tensor | float, mask: torch.Tensor | None
) -> torch.Tensor:
    """The sum of those of independent factors."""
    dims = len(product.event_shape)
    batch_shape = u.shape[: u.dim() - dims]
    total = u.new_zeros(batch_shape, dtype=torch.float64)
    for factor in product.factors:
        several, shape = factor.copies > 1, factor.structure.event_shape
        own = t.reshape(*t.shape[: len(batch_shape)], *[1] * (several + len(shape))) if torch.is_tensor(t) else t
        allowed = None if mask is None else factor.of(mask.expand(u.shape), dims)
        gap = conjugate_gap(factor.structure, factor.of(u, dims), factor.of(x, dims), own, allowed)
        total = total + (gap.sum(-1) if several else gap)
    return total


def resolution(x: torch.Tensor) -> float:
    """rho for points of this dtype."""
    return _ROUNDING * torch.finfo(x.dtype).eps


def tilting(points: torch.Tensor, log_weights: torch.Tensor, x: torch.Tensor, rho: float) -> torch.Tensor:
    """E(x), ``(batch,)``, of x ``(batch, n)`` under log-probabilities ``(batch, count)`` of points
    ``(batch or 1, count, n)``; -inf where a point is not there."""
    rows = max(1, _CHUNK // (points.shape[1] * points.shape[2] or 1))
    shared = len(points) == 1
    parts = [
        _tilting(points if shared else points[i : i + rows], log_weights[i : i + rows], x[i : i + rows], rho)
        for i in range(0, len(x), rows)
    ]
    return torch.cat(parts) if parts else x.new_zeros(0)


def _tilting(points: torch.Tensor, log_weights: torch.Tensor, x: torch.Tensor, rho: float) -> torch.Tensor:
    d, best = torch.zeros_like(x), torch.full_like(x[:, 0], torch.inf)
    before = -best, best
    halves = 0.5 ** torch.arange(_HALVINGS, dtype=x.dtype, device=x.device)

    def values(d: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The dual at d ``(batch, steps, n)``, and log q, not normalised."""
        tilted = log_weights[:, None] + d @ points.mT
        return (d * x[:, None]).sum(-1) - tilted.logsumexp(-1) - 0.5 * rho * d.square().sum(-1), tilted

    for _ in range(_STEPS):
        dual, tilted = values(d[:, None])
        q = tilted[:, 0].softmax(-1)
        mean = (q[:, None] @ points)[:, 0]
        gap = (d * mean).sum(-1) - tilted[:, 0].logsumexp(-1)  # KL(q || p)
        upper = gap + (x - mean).square().sum(-1) / (2 * rho)
        best = torch.minimum(best, upper)
        if may_ask(x) and _arrived(upper, dual[:, 0], *before):
            break
        before = dual[:, 0], upper - dual[:, 0]
        centred = points - mean[:, None]
        sizes, axes = torch.linalg.eigh((centred * q[..., None]).mT @ centred)
        slope = x - mean - rho * d
        step = (axes @ ((axes.mT @ slope[..., None]) / (sizes.clamp(min=0.0) + rho)[..., None]))[..., 0]
        tried = d[:, None] + halves[:, None] * step[:, None]
        found, _ = values(tried)
        d = torch.gather(tried, 1, _longest(found)[:, None, None].expand(-1, 1, d.shape[1]))[:, 0]
    return best.clamp(min=0.0)


def _longest(dual: torch.Tensor) -> torch.Tensor:
    """Which of the steps ``(batch, steps)``, the longest first, to take: of those that are best to rounding the first,
    or else Newton's method ends in halves of it, at the square root of what doubles can tell."""
    best = dual.amax(1, keepdim=True)
    return ((dual >= best - _noise(best)) * torch.arange(dual.shape[1], 0, -1, device=dual.device)).argmax(1)


def _noise(dual: torch.Tensor) -> torch.Tensor:
    return 1e-13 * (1e-3 + dual.abs())


def _arrived(upper: torch.Tensor, dual: torch.Tensor, before: torch.Tensor, apart: torch.Tensor) -> bool:
    """Whether bounds meet, or rounding keeps the dual from rising and the bounds from coming closer."""
    stalled = (dual - before <= _noise(dual)) & (upper - dual >= 0.5 * apart)
    return bool(((upper - dual <= 1e-14 + 1e-10 * upper) | stalled).all())
