"""Gradients inside the engine, whatever the caller's autograd mode."""

from __future__ import annotations

from collections.abc import Callable

import torch


def gradient(function: Callable[[torch.Tensor], torch.Tensor], u: torch.Tensor) -> torch.Tensor:
    """d sum(function(u)) / d u, also under ``torch.no_grad`` and ``torch.inference_mode``; itself differentiable where
    u is and grad mode is on."""
    differentiable = torch.is_grad_enabled() and u.requires_grad
    with torch.inference_mode(False), torch.enable_grad():
        v = u if differentiable else (u.clone() if u.is_inference() else u.detach()).requires_grad_()
        (x,) = torch.autograd.grad(function(v).sum(), v, create_graph=differentiable)
    return x + u * 0 if differentiable and not x.requires_grad else x  # of a linear function: constant
