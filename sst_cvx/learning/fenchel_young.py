"""Fenchel-Young losses (Blondel, Martins, Niculae, "Learning with Fenchel-Young losses", 2020).

With Omega = t f on conv(X), its conjugate Omega*(u) = max_x <u, x> - t f(x) is reached at X_t(u), and

    L(u, y) = Omega*(u) + Omega(y) - <u, y>  >= 0,     grad_u L = X_t(u) - y,     L = 0 exactly at y = X_t(u).

Of the hull's parameters c, Omega(y) does not depend on c while y stays inside, and Omega*(u) = <u, X> - t f(X) does
through X alone: grad_c L = (dX / dc)' (u - t grad f(X)), where u - t grad f(X), normal to the hull at X, is what the
multipliers of its active rows add up to.
"""

from __future__ import annotations

from typing import Any

import torch

from sst_cvx.arguments import check_temperature, check_utilities
from sst_cvx.autodiff import is_transformed
from sst_cvx.errors import name_elements
from sst_cvx.faults import spoiled
from sst_cvx.learning.exponential_family import ExponentialFamily
from sst_cvx.learning.inputs import check_parameters, normal
from sst_cvx.once import without_autocast
from sst_cvx.regularizers import ExponentialFamilyEntropy
from sst_cvx.soft_argmax import SoftArgmax
from sst_cvx.structure.absent import with_absent
from sst_cvx.structure.base import Structure
from sst_cvx.structure.membership import NO_ELEMENT, check_inside

_REDUCTIONS = {"none": lambda x: x, "mean": torch.mean, "sum": torch.sum}


class FenchelYoungLoss(torch.nn.Module):
    """Loss of utilities u against targets y in conv(X), with gradient X_t(u) - y for every structure and regularizer.

    Convex in u; differentiable in u and the temperature, twice where the soft argmax is once, and in the hull's
    parameters, once. Targets are constants. Computed in float64, as Omega* and <u, y> nearly cancel; of the dtype of u.
    The exponential family has Omega* = t A(u / t), and Omega = 0 at the elements of X: L = -t log p(y) there. At other
    targets Omega is out of reach and left out: L is then right up to a constant, its gradient exactly.

    Args:
        soft_argmax: the relaxation.
        reduction: of the batch, "mean", "sum" or "none".

    Example:
        >>> loss = FenchelYoungLoss(SoftArgmax(polytopes.OneHot(3), CategoricalEntropy()))  # cross-entropy
    """

    def __init__(self, soft_argmax: SoftArgmax, reduction: str = "mean"):
        super().__init__()
        if not isinstance(soft_argmax, SoftArgmax):
            raise TypeError(f"soft_argmax must be an sst.SoftArgmax, got {type(soft_argmax).__name__}.")
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
        **parameters: Any,
    ) -> torch.Tensor:
        """The loss, a scalar, or ``(*batch,)`` without reduction.

        Args:
            u: utilities ``(*batch, *event_shape)``; y: targets of the same shape.
            temperature: positive; a number, or a tensor that broadcasts to ``batch``.
            mask: bool, broadcasts to ``u``: False where an item is forbidden; its utility does not count.
            parameters: the hull's parameters by name, each of its own shape, with or without leading batch dimensions.

        Raises:
            TypeError, ValueError: as ``SoftArgmax``; targets of another shape than the utilities, not finite, on
                forbidden items, or outside the hull. Targets of 0 and 1 are told exactly for library structures; of
                others, rows with auxiliary variables are not seen.
        """
        structure = self.soft_argmax.structure
        batch_shape = check_utilities(u, structure.event_shape)
        if not isinstance(y, torch.Tensor) or y.shape != u.shape:
            got = tuple(y.shape) if isinstance(y, torch.Tensor) else type(y).__name__
            raise ValueError(f"y must be a tensor of the shape of the utilities, {tuple(u.shape)}, got {got}.")
        hull = check_parameters(structure, parameters, batch_shape)
        u, y, mask = normal(u), normal(y.detach()).to(u.device), normal(mask)
        if mask is not None:
            structure.check_mask(mask, u.shape, u.device)
        mask = with_absent(structure, u, mask)
        with without_autocast(u.device.type):
            wrong = _check_targets(structure, y.to(_coarser(y.dtype, u.dtype)), mask, hull)
        wide = u.double()
        t, t_event = check_temperature(normal(temperature), wide, batch_shape, len(structure.event_shape))
        mask = None if mask is None else mask.to(u.device)
        inside = wide if mask is None else torch.where(mask, wide, 0.0)
        if isinstance(self.soft_argmax.regularizer, ExponentialFamilyEntropy):
            family = ExponentialFamily(structure, inside / t_event, mask=mask)
            loss = t * family.log_partition() - _dot(inside, y.double(), len(batch_shape))
            loss = loss + (loss.detach().clamp(min=0.0) - loss.detach())  # but for rounding it is not negative
        else:
            loss = self._by_solution(inside, t, y.double(), mask, hull, batch_shape)
        if wrong is not None:
            loss = spoiled(loss, wrong, "targets", NO_ELEMENT)
        return _REDUCTIONS[self.reduction](loss).to(u.dtype)

    def _by_solution(
        self,
        u: torch.Tensor,
        t: torch.Tensor | float,
        y: torch.Tensor,
        mask: torch.Tensor | None,
        hull: dict[str, torch.Tensor],
        batch_shape: torch.Size,
    ) -> torch.Tensor:
        x, f = self.soft_argmax(u, t, mask=mask, **hull), self.soft_argmax.regularizer
        fixed, event, wide = x.detach(), u.dim() - len(batch_shape), torch.as_tensor(t, dtype=u.dtype, device=u.device)
        # f(X_t(u)) moves along <grad f, dx> = <u, dx> / t, without the infinite slopes of entropies at 0.
        f_x = f.value(fixed, event) + _dot(u.detach(), x - fixed, len(batch_shape)) / wide.detach()
        f_y, each = f.value(y.clamp(*f.domain), event), wide.expand(batch_shape)
        if is_transformed():
            return self._by_parts(u, each, y, f_y, mask, hull, x, f_x)
        loss = _Loss.apply(u, each, y, f_y, [x, f_x])  # pyright: ignore
        learning = [value for value in hull.values() if value.requires_grad]
        if learning and x.requires_grad:
            slope = u.detach() - wide.detach().reshape(*wide.shape, *[1] * event) * f.gradient(fixed, event)
            loss = loss + _ByParameters.apply([x], slope, batch_shape, *learning)  # pyright: ignore
        return loss

    def _by_parts(
        self,
        u: torch.Tensor,
        t: torch.Tensor,
        y: torch.Tensor,
        f_y: torch.Tensor,
        mask: torch.Tensor | None,
        hull: dict[str, torch.Tensor],
        x: torch.Tensor,
        f_x: torch.Tensor,
    ) -> torch.Tensor:
        """The same of tensors alone, for compilers and ``torch.func``: first derivatives by constants x and f(x),
        second ones by products of two differences that are 0."""
        fixed, f_fixed, batch_dim = x.detach(), f_x.detach(), t.dim()
        loss = _dot(u, fixed - y, batch_dim) + t * (f_y - f_fixed)
        if not torch.compiler.is_compiling():
            loss = loss + 0.5 * (_dot(u - u.detach(), x - fixed, batch_dim) - (t - t.detach()) * (f_x - f_fixed))
        if hull:
            f, event = self.soft_argmax.regularizer, u.dim() - batch_dim
            slope = u.detach() - t.detach().reshape(*t.shape, *[1] * event) * f.gradient(fixed, event)
            moved = self.soft_argmax(u.detach(), t.detach(), mask=mask, **hull)
            loss = loss + _dot(slope, moved - moved.detach(), batch_dim)
        return loss

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"


class _Loss(torch.autograd.Function):
    """<u, x - y> + t (f(y) - f(x)), whose derivatives in u and t are x - y and f(y) - f(x): x is stationary (envelope
    theorem). Both are differentiable once more, through [x, f(x)]: in a list, so that the first backward pass does not
    run through the soft argmax, for zeros."""

    @staticmethod
    def forward(
        ctx: Any, u: torch.Tensor, t: torch.Tensor, y: torch.Tensor, f_y: torch.Tensor, solution: list[torch.Tensor]
    ) -> torch.Tensor:
        ctx.solution = solution
        ctx.save_for_backward(y, f_y)
        x, f_x = solution
        return _dot(u, x - y, t.dim()) + t * (f_y - f_x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (y, f_y), (x, f_x) = ctx.saved_tensors, ctx.solution
        g = gradients[0]
        return g.reshape(*g.shape, *[1] * (x.dim() - g.dim())) * (x - y), g * (f_y - f_x), None, None, None


class _ByParameters(torch.autograd.Function):
    """Zero, with the derivative of <slope, x> in the hull's parameters alone; once."""

    @staticmethod
    def forward(
        ctx: Any, solution: list[torch.Tensor], slope: torch.Tensor, batch_shape: torch.Size, *parameters: torch.Tensor
    ) -> torch.Tensor:
        ctx.solution = solution
        ctx.save_for_backward(slope, *parameters)
        return slope.new_zeros(batch_shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        slope, *parameters = ctx.saved_tensors
        g = gradients[0].reshape(*gradients[0].shape, *[1] * (slope.dim() - gradients[0].dim()))
        found = torch.autograd.grad(ctx.solution, parameters, [g * slope], retain_graph=True, allow_unused=True)
        if torch.is_grad_enabled():  # a second derivative may be asked for: not by a constant
            found = [None if g is None else _Once.apply(g, *parameters) for g in found]  # pyright: ignore
        return None, None, None, *found


class _Once(torch.autograd.Function):
    """The first argument, with an error in place of a derivative."""

    @staticmethod
    def forward(ctx: Any, g: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return g.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        raise NotImplementedError("Fenchel-Young losses are differentiable in the hull's parameters once.")


def _check_targets(
    structure: Structure, y: torch.Tensor, mask: torch.Tensor | None, hull: dict[str, torch.Tensor]
) -> torch.Tensor | None:
    """As ``check_inside``, and for hulls with parameters the rows that it does not see, if the host may be asked."""
    wrong = check_inside(structure, y, mask, "y")
    if not hull or not y.numel() or wrong is not None:
        return wrong
    points = y.to("cpu", torch.float64).reshape(-1, structure.event_size)
    batch_shape = y.shape[: y.dim() - len(structure.event_shape)]
    values = {name: v.detach() for name, v in structure.flat_parameters(hull, batch_shape).items()}
    violation = structure.violation(points, values)
    tolerance = max(1e-4, 4 * torch.finfo(y.dtype).eps * structure.event_size**0.5)  # as check_inside
    outside = torch.nonzero((violation > tolerance).reshape(batch_shape)).tolist()
    if outside:
        names = name_elements([tuple(i) for i in outside])
        raise ValueError(f"y must be in conv(X) of {structure!r} at these parameters: not so for {names}.")
    return None


def _coarser(a: torch.dtype, b: torch.dtype) -> torch.dtype:
    """The one with fewer digits: targets have the rounding of what they were computed in."""
    return a if a.is_floating_point and torch.finfo(a).eps > torch.finfo(b).eps else b


def _dot(u: torch.Tensor, x: torch.Tensor, batch_dim: int) -> torch.Tensor:
    return (u * x).reshape(*u.shape[:batch_dim], u.shape[batch_dim:].numel()).sum(-1)
