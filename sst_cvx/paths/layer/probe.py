"""Gradients by hull parameters that the layer returns, held against differences of its own answers.

The derivative of a cone program near the edge of its cones may be off by orders of magnitude. Along eta, the gradient g
itself at a largest entry of 1 (all ones where it is small), <g, eta> must be the slope of <v, x(theta + s eta)>: to the
right, to the left, or of both, at one of a few steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sst_cvx.errors import Elements, SolveError

#: Steps: with shorter ones, errors of 1e-6 of the answers count.
STEPS = (1e-3, 1e-4, 1e-5)
#: By how much slopes may differ, relative to themselves, and to |v|: what is caught is wrong by orders of magnitude.
RELATIVE, ABSOLUTE = 0.1, 0.05

Answer = Callable[[list[torch.Tensor], torch.Tensor], torch.Tensor]


class ParameterGuard:
    """Around one call of a layer with parameters.

    Args:
        answer: of parameters ``(rows, *shape)`` and the numbers of their rows in the batch; raises SolveError, by rows.
        admits: which rows of parameters are allowed, ``(rows,)``.
        elements: what the rows of the batch are called in the backward's error.
    """

    def __init__(self, answer: Answer, admits: Callable[[list[torch.Tensor]], torch.Tensor], elements: Elements):
        self._answer, self._admits, self._elements = answer, admits, elements
        self._cotangent: torch.Tensor | None = None
        self._x = torch.empty(0)

    def input(self, parameters: list[torch.Tensor]) -> list[torch.Tensor]:
        if not torch.is_grad_enabled() or not any(p.requires_grad for p in parameters):
            return parameters
        return list(_Watched.apply(self, *parameters))  # type: ignore[call-overload]

    def output(self, x: torch.Tensor) -> torch.Tensor:
        if x.requires_grad:
            self._x = x.detach()
            x.register_hook(self._keep)
        return x

    def _keep(self, cotangent: torch.Tensor) -> None:
        self._cotangent = cotangent.detach()

    @torch.no_grad()
    def check(self, parameters: list[torch.Tensor], gradients: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The gradients, or SolveError."""
        v, self._cotangent = self._cotangent, None
        if v is None:
            return tuple(gradients)
        size = torch.stack([_flat(g).abs().amax(1) for g in gradients if g.numel()] or [v.new_zeros(len(v))]).amax(0)
        weight = _flat(v).norm(dim=1)
        small, unit = size <= ABSOLUTE * weight, torch.where(size > 0, size, 1.0)
        eta = [torch.where(_like(small, g), 1.0, g / _like(unit, g)) for g in gradients]
        expected = sum((_flat(g * e).sum(1) for g, e in zip(gradients, eta, strict=True)), torch.zeros_like(size))
        wrong = weight > 0
        for h in STEPS:
            rows = torch.nonzero(wrong).flatten()
            if not rows.numel():
                return tuple(gradients)
            here = (_flat(v[rows]) * _flat(self._x[rows])).sum(1)
            ahead, behind = (self._value(parameters, eta, s * h, rows, v) for s in (1, -1))
            slopes = torch.stack([(ahead - behind) / (2 * h), (ahead - here) / h, (here - behind) / h])
            room = RELATIVE * expected[rows].abs() + ABSOLUTE * weight[rows]
            wrong[rows] = ~((slopes - expected[rows]).abs() <= room).any(0)
        message = (
            "the gradient by the hull's parameters is wrong for {elements}: it is not the slope of the layer's own "
            "answers. Conic derivatives lose accuracy where bounds close: move the parameters from the end of their "
            "range, or raise the temperature."
        )
        return self._elements.refuse(wrong, message, *gradients)

    def _value(self, parameters: Any, eta: Any, step: float, rows: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """<v, x> where the parameters are moved, not a number where there is no answer, ``(rows,)``."""
        moved = [(p.detach() + step * e)[rows] for p, e in zip(parameters, eta, strict=True)]
        found, left = v.new_full(rows.shape, torch.nan), torch.nonzero(self._admits(moved)).flatten()
        while left.numel():
            try:
                x = self._answer([p[left] for p in moved], rows[left])
            except SolveError as error:
                failed = torch.zeros(len(left), dtype=torch.bool)
                failed[[e[-1] for e in error.elements if e] or slice(None)] = True
                left = left[~failed]
                continue
            found[left] = (_flat(v[rows[left]]) * _flat(x)).sum(1)
            break
        return found


class _Watched(torch.autograd.Function):
    """Parameters as they are, whose gradients are looked at together."""

    @staticmethod
    def forward(ctx: Any, guard: ParameterGuard, *parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.guard = guard
        ctx.save_for_backward(*parameters)
        return tuple(p.view_as(p) for p in parameters)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return None, *ctx.guard.check(list(ctx.saved_tensors), list(gradients))


def _flat(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(len(x), -1)


def _like(rows: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return rows.reshape(-1, *[1] * (x.dim() - 1))
