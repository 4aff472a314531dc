"""What ``soft(u, t, return_info=True)`` tells of each element."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from sst_cvx.paths.failure.call import Call
from sst_cvx.paths.failure.multipliers import by_cvxpy, by_linear_program
from sst_cvx.regularizers import ExponentialFamilyEntropy

_ROUNDING = 16.0  # units in the last place of what u - t grad f(x) is the difference of


@dataclass
class SolveInfo:
    """How each element of one call was answered; tensors and arrays have the caller's batch shape.

    Attributes:
        path: the path that answered.
        status: an array of strings: "solved"; "closest", the answer of the closest feasible problem; and, where the
            answer is NaN, "infeasible" (the hull is empty at these parameters), "empty" (the mask leaves nothing) or
            "failed" (the solver did not get there).
        reason: an array of strings: what a ``SolveError`` would have said; "" where there is an answer.
        converged: bool, whether there is an answer.
        iterations: int64: steps of the solver; 0 on fast paths, -1 where it does not say.
    """

    path: str
    status: np.ndarray
    reason: np.ndarray
    converged: torch.Tensor
    iterations: torch.Tensor
    _soft: Any = field(repr=False)
    _call: Call = field(repr=False)

    @cached_property
    @torch.no_grad()
    def gap(self) -> torch.Tensor:
        """Frank-Wolfe gap, float64, by ``SoftArgmax.gap``; over the relaxed hull where that is what was solved, and NaN
        where there is no answer. Computed when first asked for.

        Raises:
            NotImplementedError: the regularizer has no torch value.
        """
        call, soft = self._call, self._soft
        gap = self._nothing()
        if call.solved.numel():
            at, more = call.at(call.solved)
            gap[call.solved] = soft.gap(*at, **more, **_log(soft, at, more)).to(gap.device)
        for row, (relaxed, _) in call.closest.items():
            at, _ = call.at(torch.tensor([row], device=call.u.device))
            gap[row] = relaxed.gap(*at, **_log(relaxed, at, {}))[0]
        return gap.reshape(self.converged.shape)

    @cached_property
    @torch.no_grad()
    def violation(self) -> torch.Tensor:
        """How far x is outside the hull, float64, relative to 1 + the size of what bounds it; of "closest" elements
        the least violation ``|s|``, in the units of the declared constraints; NaN where there is no answer. Rows with
        auxiliary variables are not seen."""
        call, structure = self._call, self._soft.structure
        found = self._nothing()
        if call.solved.numel():
            (_, x, _), more = call.at(call.solved)
            if "mask" in more:
                x = structure.with_fillers(x, structure.check_mask(more.pop("mask"), x.shape, x.device))
            found[call.solved] = structure.violation(x.reshape(len(x), -1), more or None).clamp(min=0.0).to(found)
        for row, (_, least) in call.closest.items():
            found[row] = least
        return found.reshape(self.converged.shape)

    @cached_property
    def multipliers(self) -> list[Any]:
        """Of each declared constraint, in order, ``(*batch, *constraint.shape)``, float64, on the CPU: the
        ``dual_value`` that CVXPY reports for ``cp.Problem(cp.Maximize(u @ x - t * f), constraints)``.

        One of many where they are not unique, a list of tensors for cones with several parts, NaN for all but "solved"
        elements. On every path, by a linear program an element when first asked for. Differentiable as x is, where they
        are unique and no active one is 0; without derivatives where the hull has cones, or parameters that multiply
        variables.

        Raises:
            NotImplementedError: ExponentialFamilyEntropy, sets without a hull, masks of structures with fillers or
                cones.
        """
        constraints, call = self._declared(), self._call
        (_, x, _), more = call.at(call.solved)
        mask, points = more.pop("mask", None), x.detach().double().cpu()
        values = [{name: v[i].detach().numpy() for name, v in more.items()} for i in range(len(x))]
        u, push = (part.cpu() for part in self._direction())
        direction, linear, structure = u - push, self._linear(), self._soft.structure
        if structure.parameters and structure.declared_hull.affine is None:  # the rows move, too
            direction = direction.detach()
        digits = _ROUNDING * torch.finfo(x.dtype).eps
        noise = (digits * (u.detach().abs() + push.detach().abs())).reshape(len(x), -1).sum(1).tolist()
        sizes = u.detach().abs().reshape(len(x), -1).amax(1).tolist() if len(x) else []
        if linear is None:
            each = list(by_cvxpy(structure, direction.detach().numpy(), points.numpy(), noise, sizes, values))
        else:
            kept = [None] * len(x) if mask is None else mask.reshape(len(x), -1).numpy(force=True)
            flat = (direction.reshape(len(x), -1), points.reshape(len(x), -1).numpy())
            each = [by_linear_program(linear, *at) for at in zip(*flat, noise, sizes, values, kept, strict=True)]
        rows = dict(zip(call.solved.tolist(), each, strict=True))
        found = [rows.get(i) for i in range(len(call.u))]
        return [self._stacked([None if z is None else z[k] for z in found], c) for k, c in enumerate(constraints)]

    def _stacked(self, parts: list[Any], constraint: Any) -> Any:
        """By element, None where there is none, as one tensor of the batch; of cones, one for each part."""
        shapes, batch = [tuple(d.shape) for d in constraint.dual_variables], tuple(self.converged.shape)
        if len(shapes) > 1:
            columns = [[None if part is None else part[j] for part in parts] for j in range(len(shapes))]
        else:
            columns, shapes = [parts], [tuple(constraint.shape)]
        found = []
        for column, shape in zip(columns, shapes, strict=True):
            nothing = torch.full(shape, torch.nan, dtype=torch.float64, device="cpu")
            whole = [nothing if part is None else part.reshape(shape) for part in column]
            found.append(torch.stack(whole).reshape(batch + shape) if whole else nothing.expand(batch + shape))
        return found if len(found) > 1 else found[0]

    def _declared(self) -> list[Any]:
        structure, regularizer, allowed = self._soft.structure, self._soft.regularizer, self._call.allowed
        if isinstance(regularizer, ExponentialFamilyEntropy) or not structure.hull.known:
            raise NotImplementedError(
                f"multipliers need a declared hull and a regularizer with a gradient, not {regularizer!r} over "
                f"{structure!r}."
            )
        if allowed is not None and (structure.fillers(allowed) is not None or self._linear() is None):
            raise NotImplementedError(f"multipliers of {structure!r} with a mask: it has fillers, or cones.")
        return structure.constraints

    def _linear(self) -> Any:
        """The hull with shifts, or None where it has none."""
        try:
            return self._soft.shifted
        except NotImplementedError:
            return None

    def _direction(self) -> tuple[torch.Tensor, torch.Tensor]:
        """u and t grad f(x) of solved rows, float64, 0 at forbidden items; 0 where f' is infinite, as x is fixed."""
        soft, (at, more) = self._soft, self._call.at(self._call.solved)
        u, x, t = (part.double() for part in at)
        mask, dims, f = more.get("mask"), len(soft.structure.event_shape), soft.regularizer
        log = _log(soft, at, more).get("log")
        steep = torch.zeros_like(x, dtype=torch.bool) if mask is None else ~mask
        if log is None:
            steep |= ~torch.isfinite(f.gradient(x.detach(), dims))
            slope = _slope(f, torch.where(steep, 0.5, x), dims)
        else:
            steep |= ~torch.isfinite(f.slope_of_log(log.detach()))
            slope = f.weighted(f.slope_of_log(torch.where(steep, -1.0, log)))
        u = u if mask is None else torch.where(mask, u, 0.0)
        return u, torch.where(steep, 0.0, t.reshape(-1, *[1] * dims) * slope)

    def _nothing(self) -> torch.Tensor:
        return torch.full((self.converged.numel(),), torch.nan, dtype=torch.float64, device=self.converged.device)


def _slope(f: Any, x: torch.Tensor, dims: int) -> torch.Tensor:
    """grad f(x), a function of x: what is not separable detaches x in ``gradient``."""
    if f.separable or not (x.requires_grad and torch.is_grad_enabled()):
        return f.gradient(x, dims)
    (slope,) = torch.autograd.grad(f.value(x, dims).sum(), x, create_graph=True)
    return slope


def _log(soft: Any, at: tuple[Any, ...], more: dict[str, Any]) -> dict[str, torch.Tensor]:
    """log x, where it is to be had and slopes are taken from it: entries that underflow have no other."""
    u, _, t = at
    if isinstance(soft.regularizer, ExponentialFamilyEntropy) or not len(u):
        return {}
    try:
        return {"log": soft.log(u.double(), t, **more)}
    except (NotImplementedError, RuntimeError):  # no entropy, or logarithms that did not settle
        return {}
