"""A function that is differentiable once, and says so."""

from __future__ import annotations

import torch

_MESSAGE = b"the path 'layer' is differentiable once: no second derivatives, and none of hull parameters forwards."


class Once:
    """Around one call of a layer whose backward leaves no graph: a second derivative would be 0 in silence."""

    def __init__(self) -> None:
        self._cotangent: torch.Tensor | None = None
        self._inputs = self._left = 0

    def input(self, x: torch.Tensor) -> torch.Tensor:
        if not (x.requires_grad and torch.is_grad_enabled()):
            return x
        self._inputs += 1
        here = x.view_as(x)
        here.register_hook(lambda gradient: self._mark(gradient, x))
        return here

    def output(self, x: torch.Tensor) -> torch.Tensor:
        if x.requires_grad:
            x.register_hook(self._keep)
        return x

    def _keep(self, cotangent: torch.Tensor) -> None:
        self._cotangent = cotangent if torch.is_grad_enabled() else None
        self._left = self._inputs

    def _mark(self, gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """An error for whoever differentiates a gradient by the input or the cotangent."""
        if not torch.is_grad_enabled() or self._cotangent is None:
            return gradient
        error = torch._C._functions.DelayedError(_MESSAGE, 3)  # pyright: ignore[reportAttributeAccessIssue]
        marked = error(gradient, x, self._cotangent)[0]
        self._left -= 1
        if not self._left:  # else a circle
            self._cotangent = None
        return marked
