"""Sums over trees by the compiled elimination of ``native/trees.py``, on the CPU, with derivatives of any order.

Elements that leave the range of float64 are left to the log domain; so are derivatives of derivatives, which have to be
programs of tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from polytopes.kernels.log_weights import ABSENT
from polytopes.kernels.tree_elimination import eliminated
from polytopes.kernels.tree_log_elimination import (
    exchanged,
    log_domain_marginals,
    log_domain_sum,
    marginals_along,
    widest_start,
)
from sst_cvx import native
from sst_cvx.autodiff import Function


def compiled_sum(w: torch.Tensor, single_root: bool) -> torch.Tensor:
    """``log_tree_sum`` of ``(batch, n, n)`` float64, for which ``native.serves``."""
    return _Sum.apply(w, single_root)  # type: ignore[no-any-return]


def compiled_marginals(w: torch.Tensor, single_root: bool) -> torch.Tensor:
    """``tree_marginals`` of ``(batch, n, n)`` float64, for which ``native.serves``."""
    return _Marginals.apply(w, single_root)  # type: ignore[no-any-return]


class _Sum(Function):
    @staticmethod
    def forward(w: torch.Tensor, single_root: bool) -> torch.Tensor:
        from polytopes.kernels.native.trees import sums

        return _answered(sums, _log_domain_sum, (w,), single_root, w.new_empty(len(w)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])
        ctx.single_root = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return gradient[..., None, None] * _Marginals.apply(ctx.saved_tensors[0], ctx.single_root), None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, _: Any) -> torch.Tensor:  # type: ignore[override]
        return (_Marginals.apply(ctx.saved_tensors[0], ctx.single_root) * tangent).sum((-2, -1))


class _Marginals(Function):
    """Their Jacobian is a Hessian: along a cotangent, it is what it is along a tangent."""

    @staticmethod
    def forward(w: torch.Tensor, single_root: bool) -> torch.Tensor:
        from polytopes.kernels.native.trees import marginals

        return _answered(marginals, _log_domain_marginals, (w,), single_root, torch.empty_like(w))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])
        ctx.single_root = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return _product(ctx.saved_tensors[0], gradient, ctx.single_root), None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, _: Any) -> torch.Tensor:  # type: ignore[override]
        return _product(ctx.saved_tensors[0], tangent, ctx.single_root)


def _log_domain_sum(w: torch.Tensor, single_root: bool) -> torch.Tensor:
    relative, shift = _relative(w, single_root)
    return shift + (log_domain_sum if single_root else eliminated)(relative, single_root)  # the latter is shorter


def _log_domain_marginals(w: torch.Tensor, single_root: bool) -> torch.Tensor:
    return log_domain_marginals(_relative(w, single_root)[0], single_root)


def _relative(w: torch.Tensor, single_root: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-weights less the best into every vertex, for their digits, and what this takes off the log of every tree."""
    ignored = torch.eye(w.shape[-1], dtype=torch.bool, device=w.device)
    ignored[:, 0] = True
    w = w.masked_fill(ignored, ABSENT)
    best = w.detach()[:, int(single_root) :].amax(1)
    best = torch.where(best > ABSENT / 2, best, 0.0)
    return torch.where(w > ABSENT / 2, w - best[:, None], ABSENT), best.sum(1)


def _product(w: torch.Tensor, v: torch.Tensor, single_root: bool) -> torch.Tensor:
    """Of the marginals' Jacobian with v."""
    if torch.is_grad_enabled() or not native.serves(v) or not native.serves(w):  # it may be differentiated itself
        return _log_domain_product(w, v, single_root)
    from polytopes.kernels.native.trees import product

    return _answered(product, _log_domain_product, (w, v), single_root, torch.empty_like(w))


def _log_domain_product(w: torch.Tensor, v: torch.Tensor, single_root: bool) -> torch.Tensor:
    w, _ = _relative(w, single_root)
    if not single_root:
        return marginals_along(w, v, 0)
    start = widest_start(w)
    return exchanged(marginals_along(exchanged(w, start), exchanged(v, start), 1), start)


def _answered(
    kernel: Callable[..., None],
    beyond: Callable[..., torch.Tensor],
    inputs: tuple[torch.Tensor, ...],
    single_root: bool,
    out: torch.Tensor,
) -> torch.Tensor:
    """What a kernel writes into ``out``, and ``beyond`` where it cannot."""
    far = torch.empty(len(out), dtype=torch.bool, device=out.device)
    kernel(*map(native.array, inputs), int(single_root), native.array(out), native.array(far))
    if bool(far.any()):
        rows = torch.nonzero(far).flatten()
        out[rows] = beyond(*(x[rows] for x in inputs), single_root)
    return out
