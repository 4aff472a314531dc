"""Gradients inside the engine, whatever the caller's autograd mode."""

from __future__ import annotations

from collections.abc import Callable

import torch


def gradient(function: Callable[[torch.Tensor], torch.Tensor], u: torch.Tensor) -> torch.Tensor:
    """d sum(function(u)) / d u, also under ``torch.no_grad``; itself differentiable where u is and grad mode is on."""
    differentiable = torch.is_grad_enabled() and u.requires_grad
    with torch.enable_grad():
        v = u if differentiable else u.detach().requires_grad_()
        (x,) = torch.autograd.grad(function(v).sum(), v, create_graph=differentiable)
    return x + u * 0 if differentiable and not x.requires_grad else x  # of a linear function: constant
