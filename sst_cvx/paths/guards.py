"""Guards: no answer and no gradient is returned that breaks what every right one obeys."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from sst_cvx.errors import Elements, SolveError
from sst_cvx.faults import Faults
from sst_cvx.structure.base import Structure

#: Accepted violation of the hull, relative to 1 + the size of its bounds.
VIOLATION = {torch.float64: 1e-6, torch.float32: 1e-5}
#: Accepted Frank-Wolfe gap, relative to the terms that it is a difference of.
GAP = VIOLATION


def check_hull(
    structure: Structure,
    x: torch.Tensor,
    parameters: dict[str, torch.Tensor],
    who: Callable[[], str],
    faults: Faults | None = None,
) -> None:
    """Raise SolveError, by rows, where points ``(count, *event_shape)`` are outside the hull or not finite; or tell
    ``faults``.

    Rows of the hull with auxiliary variables cannot be checked from x alone.
    """
    flat, tolerance = x.detach() if x.dim() == 2 else x.detach().reshape(len(x), -1), VIOLATION[x.dtype]
    if faults is None and structure.surely_within(flat, tolerance):
        return
    if parameters:
        violation = structure.violation(flat, parameters)
    else:
        violation = structure.violation(flat) if faults is None else structure.violation_by_tensors(flat)
    check_violations(violation, tolerance, who, faults)


def check_violations(
    violation: torch.Tensor, tolerance: float, who: Callable[[], str], faults: Faults | None = None
) -> None:
    """``check_hull`` of points that violate it by so much, ``(count,)``."""
    if faults is not None:
        faults.add(~(violation <= tolerance), "a point outside the hull was found for {elements}.")
    elif not bool((violation <= tolerance).all()):
        check_violation(violation.cpu().numpy(), tolerance, who())


def check_violation(violation: np.ndarray, tolerance: float, who: str) -> None:
    """Raise SolveError, by rows, where a point is outside the hull (or not a number)."""
    outside = ~(violation <= tolerance)
    if outside.any():
        elements = np.flatnonzero(outside)
        worst = np.max(np.nan_to_num(violation, nan=np.inf))
        raise SolveError(
            f"{who} returned a point outside the hull (violation {worst:.1e}, tolerance {tolerance:g}) for "
            "{elements}. It is not returned.",
            elements.tolist(),
            [f"violation {violation[i]:.1e}" for i in elements],
        )


def check_gap(gap: torch.Tensor, u: torch.Tensor, x: torch.Tensor, dtype: torch.dtype) -> None:
    """Raise SolveError, by rows, where the gap ``(count,)`` at points x for utilities u, ``(count, size)``, is more
    than rounding."""
    size = 1 + ((u.abs() + x.abs()) * (1 + x.abs())).sum(1)
    wrong = torch.nonzero(~(gap <= GAP[dtype] * size)).flatten()
    if wrong.numel():
        raise SolveError(
            "the active-set path returned a point that is not optimal for {elements}: the Frank-Wolfe gap has not "
            "vanished. It is not returned. Is argmax exact?",
            wrong.tolist(),
        )


_NO_SLOPE = (
    "the gradient that comes in from behind the soft argmax is not finite for {elements}: what was computed from x has "
    "no derivative there, as log x has none at entries that are exactly 0. Take logarithms by soft.log(u, t), leave "
    "these entries out, or add a little."
)


class GradientGuard:
    """Checks a computed vector-Jacobian product g = J v against co-coercivity: |t m g|^2 <= <v, t m g>.

    J = dX_t/du is symmetric positive semidefinite with norm at most 1 / (t m), m the modulus of strong convexity.
    Conic derivatives at low temperatures can be wrong by any factor; most wrong ones break this inequality.

    Args:
        modulus: m, 0 if unknown.
        t: temperatures ``(count,)``.
        elements: what the rows are called in the backward's error.
    """

    tolerance = 1e-2  # relative to |v|^2

    def __init__(self, modulus: float, t: torch.Tensor, elements: Elements):
        self._modulus, self._t, self._elements = modulus, t, elements
        self._cotangent: torch.Tensor | None = None

    def input(self, u: torch.Tensor) -> torch.Tensor:
        if u.requires_grad and torch.is_grad_enabled():
            u = u.view_as(u)
            u.register_hook(self._check)
        return u

    def output(self, x: torch.Tensor) -> torch.Tensor:
        if x.requires_grad:
            x.register_hook(self._keep)
        return x

    def _keep(self, cotangent: torch.Tensor | None) -> None:
        if cotangent is not None and torch._C._functorch.is_legacy_batchedtensor(cotangent):  # pyright: ignore
            raise NotImplementedError(
                "paths that solve take one cotangent at a time from torch.autograd.grad(is_grads_batched=True) and "
                "torch.autograd.functional (vectorize=True): use torch.func.jacrev, or vectorize=False."
            )
        self._cotangent = None if cotangent is None else cotangent.detach()

    def _check(self, gradient: torch.Tensor | None) -> torch.Tensor | None:
        if self._cotangent is None or gradient is None:
            return gradient
        v, g = (w.detach().reshape(len(w), -1) for w in (self._cotangent, gradient))
        self._cotangent = None  # a double backward may come here by another way, with another cotangent
        if self._modulus > 0:
            g = g * (self._t * self._modulus)[:, None]
            excess = (g * g).sum(1) - (v * g).sum(1)
        else:
            size, allowed = g.norm(dim=1, keepdim=True), v.norm(dim=1, keepdim=True)
            g = torch.where(self._t[:, None] * size > 1e-6 * allowed, g * (allowed / size), 0.0)  # else rounding errors
            excess = -(v * g).sum(1)
        message = (
            "the gradient is wrong for {elements}: it breaks the bound |dX/du| <= 1/(t m). Conic derivatives lose "
            "accuracy near vertices: raise the temperature, use the default solver if you chose another, or a "
            "structure and regularizer with a fast path."
        )
        wrong, finite = ~(excess <= self.tolerance * (v * v).sum(1)), torch.isfinite(v).all(1)
        (gradient,) = self._elements.refuse(wrong & ~finite, _NO_SLOPE, gradient)
        return self._elements.refuse(wrong & finite, message, gradient)[0]
