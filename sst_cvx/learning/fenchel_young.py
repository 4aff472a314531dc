"""Fenchel-Young losses (Blondel, Martins, Niculae, "Learning with Fenchel-Young losses", 2020).

With Omega = t f on conv(X), its conjugate Omega*(u) = max_x <u, x> - t f(x) is reached at X_t(u), and

    L(u, y) = Omega*(u) + Omega(y) - <u, y>  >= 0,     grad_u L = X_t(u) - y,     L = 0 exactly at y = X_t(u).
"""

from __future__ import annotations

from typing import Any

import torch

from sst_cvx.arguments import check_temperature, check_utilities
from sst_cvx.learning.exponential_family import ExponentialFamily
from sst_cvx.regularizers import ExponentialFamilyEntropy
from sst_cvx.soft_argmax import SoftArgmax
from sst_cvx.structure.membership import check_inside

_REDUCTIONS = {"none": lambda x: x, "mean": torch.mean, "sum": torch.sum}


class FenchelYoungLoss(torch.nn.Module):
    """Loss of utilities u against targets y in conv(X), with gradient X_t(u) - y for every structure and regularizer.

    Convex in u; differentiable in u and the temperature, twice where the soft argmax is once. Targets are constants.
    The exponential family has Omega* = t A(u / t), and Omega = 0 at the elements of X: L = -t log p(y) there. At other
    targets Omega is out of reach and left out: L is then right up to a constant, its gradient exactly.

    Args:
        soft_argmax: the relaxation, of a structure without hull parameters.
        reduction: of the batch, "mean", "sum" or "none".

    Example:
        >>> loss = FenchelYoungLoss(SoftArgmax(polytopes.OneHot(3), CategoricalEntropy()))  # cross-entropy
    """

    def __init__(self, soft_argmax: SoftArgmax, reduction: str = "mean"):
        super().__init__()
        if not isinstance(soft_argmax, SoftArgmax):
            raise TypeError(f"soft_argmax must be an sst.SoftArgmax, got {type(soft_argmax).__name__}.")
        if soft_argmax.structure.parameters:
            raise ValueError("Fenchel-Young losses take structures without hull parameters.")
        if reduction not in _REDUCTIONS:
            raise ValueError(f"reduction must be one of {list(_REDUCTIONS)}, got {reduction!r}.")
        self.soft_argmax, self.reduction = soft_argmax, reduction

    def forward(
        self,
        u: torch.Tensor,
        y: torch.Tensor,
        temperature: float | torch.Tensor = 1.0,
        *,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss, a scalar, or ``(*batch,)`` without reduction.

        Args:
            u: utilities ``(*batch, *event_shape)``; y: targets of the same shape.
            temperature: positive; a number, or a tensor that broadcasts to ``batch``.
            mask: bool, broadcasts to ``u``: False where an item is forbidden; its utility does not count.

        Raises:
            TypeError, ValueError: as ``SoftArgmax``; targets of another shape than the utilities, not finite, on
                forbidden items, or outside the hull. Targets of 0 and 1 are told exactly for library structures; of
                others, rows with auxiliary variables are not seen.
        """
        structure = self.soft_argmax.structure
        batch_shape = check_utilities(u, structure.event_shape)
        if not isinstance(y, torch.Tensor) or y.shape != u.shape:
            raise ValueError(f"y must be a tensor of the shape of the utilities, {tuple(u.shape)}.")
        y = y.detach().to(u)
        check_inside(structure, y, mask, "y")
        t, t_event = check_temperature(temperature, u, batch_shape, len(structure.event_shape))
        mask = None if mask is None else mask.to(u.device)
        inside = u if mask is None else torch.where(mask, u, 0.0)
        if isinstance(self.soft_argmax.regularizer, ExponentialFamilyEntropy):
            family = ExponentialFamily(structure, inside / t_event, mask=mask)
            loss = t * family.log_partition() - _dot(inside, y, len(batch_shape))
        else:
            x, f = self.soft_argmax(u, temperature, mask=mask), self.soft_argmax.regularizer
            event, wide = u.dim() - len(batch_shape), torch.as_tensor(t, dtype=u.dtype, device=u.device)
            # f(X_t(u)) moves along <grad f, dx> = <u, dx> / t, without the infinite slopes of entropies at 0.
            fixed = x.detach()
            f_x = f.value(fixed, event) + _dot(inside.detach(), x - fixed, len(batch_shape)) / wide.detach()
            loss = _Loss.apply(inside, wide.expand(batch_shape), x, y, f_x, f.value(y.clamp(*f.domain), event))  # pyright: ignore
        return _REDUCTIONS[self.reduction](loss)

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"


class _Loss(torch.autograd.Function):
    """<u, x - y> + t (f(y) - f(x)), whose derivatives in u and t are x - y and f(y) - f(x): x is stationary (envelope
    theorem). Both are differentiable once more."""

    @staticmethod
    def forward(
        ctx: Any,
        u: torch.Tensor,
        t: torch.Tensor,
        x: torch.Tensor,
        y: torch.Tensor,
        f_x: torch.Tensor,
        f_y: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, y, f_x, f_y)
        return _dot(u, x - y, t.dim()) + t * (f_y - f_x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, y, f_x, f_y = ctx.saved_tensors
        g = gradients[0]
        return g.reshape(*g.shape, *[1] * (x.dim() - g.dim())) * (x - y), g * (f_y - f_x), None, None, None, None


def _dot(u: torch.Tensor, x: torch.Tensor, batch_dim: int) -> torch.Tensor:
    return (u * x).reshape(*u.shape[:batch_dim], u.shape[batch_dim:].numel()).sum(-1)
