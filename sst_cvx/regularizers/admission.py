"""What a regularizer must satisfy on a structure: convex by CVXPY's rules, finite and strongly convex on the hull."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from sst_cvx.once import later
from sst_cvx.regularizers import ExponentialFamilyEntropy, Regularizer, SeparableRegularizer
from sst_cvx.structure.base import Structure

if TYPE_CHECKING:
    import cvxpy as cp
else:
    cp = later("cvxpy")


def check_regularizer(regularizer: Regularizer, structure: Structure) -> None:
    """Raise unless f is DCP convex in the structure's variable alone, finite on its hull and strongly convex there.

    Raises:
        TypeError: not a Regularizer. ValueError: any of the others, with the reason.
    """
    if not isinstance(regularizer, Regularizer):
        hint = " (an instance: add parentheses)" if isinstance(regularizer, type) else ""
        raise TypeError(f"regularizer must be an sst.Regularizer, got {regularizer!r}{hint}.")
    if isinstance(regularizer, ExponentialFamilyEntropy):
        return
    _check_domain(regularizer, structure)
    if isinstance(regularizer, SeparableRegularizer):
        _check_weights(regularizer, structure)
        if regularizer.certified:
            return
    f = regularizer.expression(structure.variable)
    if not (isinstance(f, cp.Expression) and f.is_scalar()):
        raise ValueError(f"the regularizer's expression must be a scalar CVXPY expression, got {f!r}.")
    if not f.is_dcp() or not f.is_convex():
        raise ValueError(f"regularizer {f} is not convex by CVXPY's rules (DCP): rewrite it with convex atoms.")
    if f.parameters():
        raise ValueError(f"regularizer {f} contains parameters, which temperature * f would make non-DPP.")
    others = [v.name() for v in f.variables() if v.id != structure.variable.id]
    if others:
        raise ValueError(f"regularizer {f} contains other variables than the event: {others}.")
    _check_strongly_convex(f, structure)


def _check_weights(regularizer: SeparableRegularizer, structure: Structure) -> None:
    if regularizer.weights is None:
        return
    shape = tuple(regularizer.weights.shape)
    try:
        fits = torch.broadcast_shapes(shape, structure.event_shape) == torch.Size(structure.event_shape)
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"weights have shape {shape}, which does not broadcast to the event {structure.event_shape}.")


def _check_domain(regularizer: Regularizer, structure: Structure) -> None:
    low, high = regularizer.domain
    reach = structure.coordinate_range() if (math.isfinite(low) or math.isfinite(high)) else None
    if reach is None:
        return
    if reach[0].min() < low or reach[1].max() > high:  # declared bounds may be loose
        reach = structure.coordinate_range(tight=True)
    if reach is None:
        return
    lower, upper = reach
    if lower.min() < low - 1e-7 or upper.max() > high + 1e-7:
        raise ValueError(
            f"{regularizer!r} is finite only for coordinates in [{low:g}, {high:g}], but the hull of {structure!r} "
            f"reaches from {lower.min():g} to {upper.max():g}: use Euclidean(), or shift and scale the structure."
        )


def _check_strongly_convex(f: cp.Expression, structure: Structure, pairs: int = 32) -> None:
    """Midpoint test on random pairs of points of the hull: (f(x) + f(y)) / 2 - f((x + y) / 2) >= m / 8 |x - y|^2."""
    if structure.parameters:
        return
    rng = np.random.default_rng(0)
    directions = torch.as_tensor(rng.normal(size=(2 * pairs, *structure.event_shape)))
    corners = structure.argmax(directions).numpy()
    mixed = np.einsum("pq,q...->p...", rng.dirichlet(np.full(len(corners), 0.05), size=2 * pairs), corners)
    variable, saved = structure.variable, structure.variable.value

    def evaluate(point: np.ndarray) -> float:
        variable.save_value(point)
        value = f.value
        return math.inf if value is None or not np.isfinite(value) else float(value)

    try:
        for x, y in [
            *zip(corners[:pairs], corners[pairs:], strict=True),
            *zip(mixed[:pairs], mixed[pairs:], strict=True),
        ]:
            distance = float(((x - y) ** 2).sum())
            if distance < 1e-12:
                continue
            ends = 0.5 * (evaluate(x) + evaluate(y))
            if not math.isfinite(ends):
                raise ValueError(f"regularizer {f} is not finite on the whole hull of {structure!r}.")
            if ends - evaluate((x + y) / 2) <= 1e-9 * distance:
                raise ValueError(
                    f"regularizer {f} is not strongly convex on the hull of {structure!r} (it is flat between two of "
                    "its points), so the soft argmax is not unique: add a multiple of cp.sum_squares(x)."
                )
    finally:
        variable.save_value(saved)
