"""The certificate of optimality: the Frank-Wolfe gap of a point that is known to rounding.

With g = grad f(x') for any x', and D(x, x') = f(x) - f(x') - <g, x - x'>, Fenchel and Young give, for x of the hull,

    <u, X_t> - t f(X_t) - <u, x> + t f(x)  <=  max_v <u - t g, v - x> + t D(x, x'),

and the left side is at least t m / 2 |x - X_t|^2. With x' = x that is the Frank-Wolfe gap. But a right answer that was
rounded, to 0 or to 1 in the end, has a slope that says little about it: an entropy's is infinite there. So x' is the
point within rounding of x where f' is tamest; at the rounded solution D is then rounding, too. A solver's entries of
1e-11 have no digits, and an entropy's slope none there: the lesser of that bound and the one within 1e-9 of x counts.
Where log x is given, x' = exp(log x), and the slope of an entropy is right at any temperature. <u - t g, x> is known to
rounding alone (a sum of entries that is 1 + 1e-7, with multipliers of 1e3): what that explains is no gap.
"""

from __future__ import annotations

from typing import Any

import torch

from sst_cvx.arguments import check_temperature, check_utilities
from sst_cvx.host import may_ask
from sst_cvx.once import without_autocast
from sst_cvx.paths.conjugate_gap import conjugate_gap
from sst_cvx.regularizers import ExponentialFamilyEntropy, Regularizer, SeparableRegularizer
from sst_cvx.structure.absent import with_absent
from sst_cvx.structure.base import Structure

_ROUNDING = 4.0  # units in the last place that a right answer may be off by
_SMALL = 1e-9  # entries from which on solvers' answers have digits
_LEAST_LOG = -1e8  # stands for log 0, at entries that are 0 in every point of the hull


@torch.no_grad()
def frank_wolfe_gap(
    structure: Structure,
    regularizer: Regularizer,
    u: torch.Tensor,
    x: torch.Tensor,
    temperature: Any,
    *,
    mask: torch.Tensor | None = None,
    log: torch.Tensor | None = None,
    **parameters: torch.Tensor,
) -> torch.Tensor:
    """The bound above over the vertices v of ``structure``, ``(*batch,)``, float64: see ``SoftArgmax.gap``.

    Args:
        u: utilities ``(*batch, *event_shape)``.
        x: points of that shape, of the dtype that they were computed in: each stands for all within its rounding, and
            entries below 1e-9 of entropies for any as small.
        temperature, mask, parameters: those of the soft argmax.
        log: log x, of the same shape, for entropies of coordinates whose entries underflow.

    Raises:
        ValueError: x or log of another shape. NotImplementedError: the regularizer has no torch value, or none from
            logarithms; of exponential families, there are no vertices to enumerate.
    """
    with without_autocast(u.device.type):
        return _gap(structure, regularizer, u, x, temperature, mask, log, parameters)


def _gap(
    structure: Structure,
    regularizer: Regularizer,
    u: torch.Tensor,
    x: torch.Tensor,
    temperature: Any,
    mask: torch.Tensor | None,
    log: torch.Tensor | None,
    parameters: dict[str, torch.Tensor],
) -> torch.Tensor:
    batch_shape, event_dim = check_utilities(u, structure.event_shape), len(structure.event_shape)
    check_point(x, u, "x")
    structure.flat_parameters(parameters, batch_shape)  # checks their names
    wide, point = u.detach().double(), x.detach().double()
    mask = with_absent(structure, u, mask)
    _, t = check_temperature(temperature, wide, batch_shape, event_dim)
    if isinstance(regularizer, ExponentialFamilyEntropy):
        if log is not None:
            raise NotImplementedError(f"{regularizer!r} is no entropy of coordinates: leave log= out.")
        return conjugate_gap(structure, wide, x, t, mask)
    masked = None if mask is None else structure.check_mask(mask, u.shape, u.device)
    if masked is not None:
        point = torch.where(masked.allowed, point, 0.0)
        wide = torch.where(masked.allowed, wide, 0.0)
    e = rounding(point, x.dtype)

    def bound(slope: torch.Tensor, divergence: torch.Tensor) -> torch.Tensor:
        direction = wide - t * slope
        if masked is None:
            best = structure.argmax(direction, **parameters)
        else:
            best = structure.masked_argmax(direction, masked.allowed)
            direction, divergence = (torch.where(masked.allowed, part, 0.0) for part in (direction, divergence))
        linear, room, rest = (
            part.reshape(*batch_shape, structure.event_size).sum(-1)
            for part in (direction * (best - point), direction.abs() * e, t * divergence)
        )
        return linear.sign() * (linear.abs() - room).clamp(min=0.0) + rest

    if log is not None:
        check_point(log, u, "log")
        return bound(*_from_log(regularizer, point, log.detach().double()))
    gap = bound(*regularizer.gradient_near(point, e, event_dim))
    if not (gap.numel() and isinstance(regularizer, SeparableRegularizer) and any(regularizer.steep)):
        return gap
    if may_ask(gap) and bool((gap <= _SMALL * (1 + wide.abs().amax())).all()):
        return gap
    return torch.minimum(gap, bound(*regularizer.gradient_near(point, e.clamp(min=_SMALL), event_dim)))


def _from_log(regularizer: Regularizer, x: torch.Tensor, log: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What ``gradient_near`` gives, at x' = exp(log)."""
    if not isinstance(regularizer, SeparableRegularizer):
        raise NotImplementedError(f"{regularizer!r} is no entropy of coordinates: leave log= out.")
    log = log.clamp(min=_LEAST_LOG)
    if regularizer.steep[1]:  # 1 - exp(log) has no more digits than this
        log = torch.where(log > -0.5, log - _ROUNDING * torch.finfo(torch.float64).eps, log)
    slope = regularizer.slope_of_log(log)
    return regularizer.weighted(slope), regularizer.weighted(regularizer.divergence(x, log.exp(), slope))


def check_point(x: object, u: torch.Tensor, name: str) -> None:
    """Raise ValueError unless x is a tensor of the shape of the utilities."""
    if not isinstance(x, torch.Tensor) or x.shape != u.shape:
        got = tuple(x.shape) if isinstance(x, torch.Tensor) else type(x).__name__
        raise ValueError(f"{name} must be a tensor of the shape of the utilities, {tuple(u.shape)}, got {got}.")


def rounding(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """How far points that were computed in ``dtype`` may be from what they stand for, shape of x."""
    numbers = torch.finfo(dtype)
    return _ROUNDING * numbers.eps * x.abs() + numbers.tiny
