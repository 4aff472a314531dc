"""Whether the support of utilities moves with parameters that learn: a score function misses what its ends contribute.

Declared supports are believed, but that of a ``TransformedDistribution``, which is no more than the range of its last
transform (real numbers, of an exponential shifted by a parameter): there the ends of the base's support are followed
through the transforms. What cannot be shown to stay is refused.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch.distributions import (
    AffineTransform,
    ComposeTransform,
    Distribution,
    Independent,
    IndependentTransform,
    MixtureSameFamily,
    Transform,
    TransformedDistribution,
    constraints,
)
from torch.distributions.constraints import Constraint

_Ends = tuple[torch.Tensor, torch.Tensor]  # an interval in each entry, broadcast; None: a fixed set of another kind


class _Moves(Exception):
    """What moves."""


def refuse_moving_support(utilities: Distribution, u: torch.Tensor) -> None:
    """Raise ValueError unless the support is known not to depend on what requires a gradient.

    Args:
        utilities: any distribution; u: a sample of it, detached.
    """
    instead = "use Relaxed, StraightThrough or ImplicitMLE, or other utilities."
    try:
        # Bounds given as numbers go where u is; dynamo knows no devices as contexts.
        where = contextlib.nullcontext() if torch.compiler.is_compiling() else u.device
        with torch.enable_grad(), where:
            _support(utilities, u)
    except _Moves as moves:
        raise ValueError(
            f"the support of {type(utilities).__name__} depends on its parameters ({moves}), where a score function is "
            f"biased: {instead}"
        ) from None
    except NotImplementedError as unknown:
        raise ValueError(
            f"the support of {type(utilities).__name__} is not known ({unknown}), and a score function is biased if it "
            f"depends on parameters: declare it by the property `support`, {instead}"
        ) from None


def _support(d: Distribution, u: torch.Tensor | None) -> _Ends | None:
    """The fixed ends of the support of each entry, or None if it is another fixed set; u: a sample, if at hand.

    Raises:
        _Moves, NotImplementedError: it moves; it is not known.
    """
    declared = type(d).support
    if isinstance(d, Independent):
        return _support(d.base_dist, u)
    if isinstance(d, TransformedDistribution) and declared is TransformedDistribution.support:
        return _through(d, u)
    if isinstance(d, MixtureSameFamily) and declared is MixtureSameFamily.support:
        ends = _support(d.component_distribution, None if u is None else d._pad(u))
        return ends if ends is not None and bool((ends[0].isneginf() & ends[1].isposinf()).all()) else None
    try:
        constraint = d.support
    except NotImplementedError:
        raise NotImplementedError(f"{type(d).__name__} declares none") from None
    if isinstance(declared, property):  # it may repeat that of a distribution inside
        for inner in vars(d).values():
            if isinstance(inner, Distribution):
                _support(inner, None)
    return _ends(constraint, f"of {type(d).__name__}")


def _through(d: TransformedDistribution, u: torch.Tensor | None) -> _Ends | None:
    points = [u]
    for t in reversed(d.transforms):
        points.append(_before(t, points[-1]))
    ends = _support(d.base_dist, points.pop())
    for t in d.transforms:
        ends = _image(t, ends, points.pop())
    return ends


def _image(t: Transform, ends: _Ends | None, y: torch.Tensor | None) -> _Ends | None:
    """Ends of the image; y: a sample of it, if at hand."""
    if isinstance(t, ComposeTransform):
        points = [y]
        for part in reversed(t.parts[1:]):
            points.append(_before(part, points[-1]))
        for part in t.parts:
            ends = _image(part, ends, points.pop())
        return ends
    if isinstance(t, IndependentTransform):
        return _image(t.base_transform, ends, y)
    name = type(t).__name__
    low, high = _ends(t.domain, f"of the domain of {name}") or (None, None)
    if ends is not None and low is not None and high is not None and t.bijective:
        if bool((ends[0] <= low).all() and (ends[1] >= high).all()):
            return _ends(t.codomain, f"of the codomain of {name}")  # all of it
        if t.domain.event_dim == 0 or isinstance(t, AffineTransform):
            return _monotone(t, ends, (low, high))
    x = _before(t, y)
    if x is None or _after(t, x).requires_grad:
        raise _Moves(f"by {name}")
    return None


def _monotone(t: Transform, ends: _Ends, domain: _Ends) -> _Ends:
    """Of a monotone transform of single entries: ends go to ends."""
    name, codomain = type(t).__name__, _ends(t.codomain, f"of the codomain of {type(t).__name__}")
    if codomain is None:
        raise _Moves(f"by {name}")
    rising = torch.as_tensor(t.sign) > 0
    found = []
    for end, last, image in zip(ends, domain, (codomain, codomain[::-1]), strict=True):
        outside = torch.where(rising, *image)  # where the end of the domain goes
        inside = torch.where(end == last, torch.zeros_like(end), end)
        value = _after(t, inside)
        learns = value.requires_grad
        if isinstance(t, AffineTransform):  # zero stays where it is, whatever the scale
            learns = _learns(t.loc) | (_learns(t.scale) & (inside != 0))
        if bool((learns & (end != last) & torch.isfinite(value)).any()):
            raise _Moves(f"by {name}")
        found.append(torch.where(end == last, outside, value.detach()))
    low, high = found
    return torch.where(rising, low, high), torch.where(rising, high, low)


def _after(t: Transform, x: torch.Tensor) -> torch.Tensor:
    return cast(torch.Tensor, t(x))


def _before(t: Transform, y: torch.Tensor | None) -> torch.Tensor | None:
    return None if y is None else cast(torch.Tensor, t.inv(y)).detach()


def _learns(x: object) -> bool:
    return isinstance(x, torch.Tensor) and x.requires_grad


def _ends(constraint: Any, of: str) -> _Ends | None:
    """Bounds that a constraint puts on each entry, None if it is no interval."""
    if constraint is None:
        raise NotImplementedError(f"it has none, {of}")
    for bound in _tensors(constraint):
        if bound.requires_grad and bool(torch.isfinite(bound).any()):
            raise _Moves(f"a bound {of}")
    while hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    low, high = getattr(constraint, "lower_bound", None), getattr(constraint, "upper_bound", None)
    if low is None and high is None and type(constraint) is not type(constraints.real):
        return None
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    return torch.as_tensor(low).detach().double(), torch.as_tensor(high).detach().double()


def _tensors(constraint: Constraint) -> Iterator[torch.Tensor]:
    """All tensors in a constraint and in those that it is made of."""
    for value in vars(constraint).values():
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, torch.Tensor):
                yield part
            elif isinstance(part, Constraint):
                yield from _tensors(part)
